"""Auth's domain objects as messages of the contract."""

from __future__ import annotations

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loupe.access import Decision
from loupe.auth.v1 import account_pb2, group_pb2, policy_service_pb2, session_service_pb2
from loupe.identity import current_caller
from loupe.names import AccountName, ThresholdName
from services.auth.accounts.accounts import Account
from services.auth.database.idempotent import Request
from services.auth.groups.groups import Group
from services.auth.sessions.sessions import TokenPair


def account_message(account: Account) -> account_pb2.Account:
    """Pack an account."""
    return account_pb2.Account(
        name=account.name,
        uid=account.uid,
        display_name=account.display_name,
        disabled=account.disabled,
        groups=account.groups,
        create_time=_timestamp(account.create_time),
    )


def group_message(group: Group) -> group_pb2.Group:
    """Pack a group."""
    return group_pb2.Group(
        name=group.name,
        uid=group.uid,
        permission_parameter=group.permission_parameter,
        member_count=group.member_count,
        create_time=_timestamp(group.create_time),
    )


def threshold_message(name: ThresholdName, value: int) -> group_pb2.Threshold:
    """Pack a threshold."""
    return group_pb2.Threshold(name=str(name), value=value)


def tokens_message(pair: TokenPair) -> session_service_pb2.Tokens:
    """Pack a pair of tokens."""
    return session_service_pb2.Tokens(
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        access_lifetime=Duration(seconds=pair.access_lifetime),
        refresh_lifetime=Duration(seconds=pair.refresh_lifetime),
    )


def decision_message(decision: Decision) -> policy_service_pb2.Decision:
    """Pack a decision."""
    return policy_service_pb2.Decision(
        allowed=decision.allowed,
        member=decision.member,
        group=decision.group,
        parameter=decision.parameter,
        threshold=decision.threshold,
        active=decision.active,
    )


def acting_account() -> AccountName:
    """Return the account that makes this call; the access table lets only accounts get here."""
    account = current_caller().account
    assert account is not None, "the access row of this method lets callers without an account through"
    return account


def idempotency(method: str, request: Message, *secrets: str) -> Request:
    """Describe a creating request; the fields named in `secrets` are left out of its body."""
    request_id = request.request_id  # type: ignore[attr-defined]
    body = type(request)()
    body.CopyFrom(request)
    for field in ("request_id", *secrets):
        body.ClearField(field)
    return Request(acting_account(), method, request_id, body.SerializeToString(deterministic=True))


def address(context: grpc.aio.ServicerContext) -> str:
    """Return the caller's network address without the port."""
    return context.peer().rpartition(":")[0]


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp
