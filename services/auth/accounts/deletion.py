"""Deleting accounts, and restoring them for as long as they are not purged."""

from __future__ import annotations

from loupe.errors import AlreadyExists, FailedPrecondition
from loupe.idempotency import Request
from loupe.names import SYSTEM, AccountName
from services.auth.accounts.accounts import Account, check_above, describe, existing
from services.auth.accounts.store import AccountTable
from services.auth.database.session import Database
from services.auth.policy.authority import Authority
from services.auth.policy.delegation import check_not_last
from services.auth.policy.store import DeletedMembershipTable

DELETE = "accounts.delete"


class AccountDeletion:
    """Deletes and restores. A deleted account keeps its name and its password, and is in no group.

    kept_seconds: how long it can be restored.
    """

    def __init__(self, database: Database, authority: Authority, kept_seconds: float) -> None:
        self._database = database
        self._authority = authority
        self._kept_seconds = kept_seconds

    async def delete(self, by: AccountName, account: AccountName, request: Request) -> Account:
        """Refuse the account's logins and tokens from now on, and take it out of its groups.

        Raises NotFound, PermissionDenied above one's reach, FailedPrecondition for oneself and for the last one that
        may administer the mesh.
        """
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is None:
                await existing(session, account)
                _check_not_oneself(by, account)
                await check_above(session, by, account, DELETE)
                accounts = AccountTable(session)
                await check_not_last(session, accounts, SYSTEM, account)
                await accounts.revoke_logins(account.account)
                await DeletedMembershipTable(session).put_away(account.account)
                await accounts.set_lifetime(account.account, session.now, session.now + self._kept_seconds)
                changed = await describe(session, await existing(session, account, show_deleted=True))
                answer = changed.to_json()
                await session.record(request, answer)
        await self._authority.refresh()
        return Account.from_json(answer)

    async def restore(self, by: AccountName, account: AccountName, request: Request) -> Account:
        """Let a deleted account log in again, in those of its groups that are still there.

        Raises NotFound once it is purged, AlreadyExists when it is not deleted, PermissionDenied above one's reach.
        """
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is None:
                if not (await existing(session, account, show_deleted=True)).deleted:
                    raise AlreadyExists(f"{account} is not deleted", resource=account)
                await AccountTable(session).set_lifetime(account.account, None, None)
                await DeletedMembershipTable(session).bring_back(account.account)
                await check_above(session, by, account, DELETE)
                answer = (await describe(session, await existing(session, account))).to_json()
                await session.record(request, answer)
        await self._authority.refresh()
        return Account.from_json(answer)


def _check_not_oneself(by: AccountName, account: AccountName) -> None:
    if by == account:
        message = f"nobody deletes their own account; somebody else with {DELETE} can delete {account}"
        raise FailedPrecondition(message, resource=account, state="oneself")
