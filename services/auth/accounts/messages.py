"""Accounts as messages of the contract."""

from __future__ import annotations

from loupe.auth.v1 import account_pb2
from loupe.timestamps import timestamp
from services.auth.accounts.accounts import Account


def pack_account(account: Account) -> account_pb2.Account:
    """Return the message."""
    return account_pb2.Account(
        name=account.name,
        uid=account.uid,
        display_name=account.display_name,
        disabled=account.disabled,
        groups=account.groups,
        create_time=timestamp(account.create_time),
        delete_time=None if account.delete_time is None else timestamp(account.delete_time),
        expire_time=None if account.expire_time is None else timestamp(account.expire_time),
    )
