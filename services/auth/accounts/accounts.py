"""Accounts: who may log in."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Self

from loupe import paging
from loupe.access import SYSTEM_PROJECT, denial
from loupe.errors import AlreadyExists, BadCredentials, PermissionDenied, invalid, not_found
from loupe.idempotency import Request
from loupe.names import SYSTEM, AccountName, GroupName, check_id
from services.auth.accounts.passwords import Passwords, check_length, check_strength
from services.auth.accounts.store import AccountRow, AccountTable
from services.auth.accounts.throttle import Throttle
from services.auth.database.session import Database, Session
from services.auth.policy.authority import Authority
from services.auth.policy.delegation import check_not_last, check_reach
from services.auth.policy.store import DeletedMembershipTable, RuleTable

MAX_DISPLAY_NAME = 200
_LIST = "accounts"


@dataclass(frozen=True)
class Account:
    """A person or a terminal that may log in; groups are names, by project."""

    name: str
    uid: str
    display_name: str
    disabled: bool
    groups: tuple[str, ...]
    create_time: float
    delete_time: float | None = None
    expire_time: float | None = None

    def to_json(self) -> bytes:
        """Write it for the request log."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what to_json wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "groups": tuple(fields["groups"])})


async def describe(session: Session, row: AccountRow) -> Account:
    """Add an account's groups to its row; of a deleted one those that it comes back into."""
    table = DeletedMembershipTable(session) if row.deleted else RuleTable(session)
    return Account(
        str(AccountName(row.id)),
        row.uid,
        row.display_name,
        row.disabled,
        tuple(str(GroupName(rule.project, rule.group)) for rule in await table.groups_of(row.id)),
        row.create_time,
        row.delete_time,
        row.expire_time,
    )


async def existing(session: Session, account: AccountName, *, show_deleted: bool = False) -> AccountRow:
    """Return an account; a deleted one if that is wanted and it can still be restored. Raises NotFound."""
    row = await AccountTable(session).find(account.account, show_deleted=show_deleted)
    if row is None:
        raise not_found(account)
    return row


async def check_above(session: Session, by: AccountName, account: AccountName, action: str) -> None:
    """Raise PermissionDenied for what somebody may not do to an account whose system-wide parameter is above theirs."""
    own = await RuleTable(session).parameter_of(SYSTEM, by.account)
    other = await RuleTable(session).parameter_of(SYSTEM, account.account)
    if by != account and other > own:
        raise PermissionDenied(
            f"{account} has the system-wide permission parameter {other}, above your {own}",
            account=by,
            action=action,
            project=SYSTEM_PROJECT,
            parameter=own,
            threshold=other,
        )


class Accounts:
    """Creates accounts and changes their state."""

    def __init__(self, database: Database, authority: Authority, passwords: Passwords, throttle: Throttle) -> None:
        self._database = database
        self._authority = authority
        self._passwords = passwords
        self._throttle = throttle

    async def create(
        self, by: AccountName, request: Request, account_id: str, display_name: str, *, password: str, group: str
    ) -> Account:
        """Make an account that lands in a group.

        Raises AlreadyExists, NotFound for an unknown group, PermissionDenied above one's reach, WeakPassword.
        """
        check_id("account_id", account_id)
        where = GroupName.parse(group, "group")
        if len(display_name) > MAX_DISPLAY_NAME:
            raise invalid("account.display_name", display_name, f"at most {MAX_DISPLAY_NAME} characters")
        check_strength(password)
        password_hash = await self._passwords.hash(password, str(by))
        if request.request_id:
            secret = await self._passwords.fingerprint(password, f"{request.caller} {request.request_id}", str(by))
            request = replace(request, body=request.body + secret)
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is None:
                row = AccountRow(account_id, str(uuid.uuid4()), display_name, password_hash, False, session.now)
                await _check_landing(session, by, where)
                answer = (await _add(session, row, where)).to_json()
                await session.record(request, answer)
        await self._authority.refresh()
        return Account.from_json(answer)

    async def get(self, account: AccountName, *, show_deleted: bool = False) -> Account:
        """Return an account; a deleted one if that is wanted and it can still be restored. Raises NotFound."""
        async with self._database.read() as session:
            return await describe(session, await existing(session, account, show_deleted=show_deleted))

    async def page(self, page_size: int, page_token: str, *, show_deleted: bool = False) -> tuple[list[Account], str]:
        """Return a page of accounts by id, and the token of the next page."""
        size, scope = paging.page_size(page_size), f"{_LIST}, deleted ones too" if show_deleted else _LIST
        after = paging.decode(scope, page_token)
        async with self._database.read() as session:
            rows = await AccountTable(session).page(str(after[0]) if after else "", size + 1, show_deleted=show_deleted)
            page = [await describe(session, row) for row in rows[:size]]
        return page, paging.encode(scope, [rows[size - 1].id]) if len(rows) > size else ""

    async def set_disabled(self, by: AccountName, account: AccountName, disabled: bool) -> Account:
        """Refuse the account's logins and tokens from now on, or let it log in again."""
        async with self._database.write() as session:
            row, accounts = await existing(session, account), AccountTable(session)
            await check_above(session, by, account, "accounts.disable")
            if disabled:
                await check_not_last(session, accounts, SYSTEM, account)
                await accounts.revoke_logins(account.account)
            if row.disabled != disabled:
                await accounts.set_disabled(account.account, disabled)
            changed = await describe(session, await existing(session, account))
        await self._authority.refresh()
        return changed

    async def set_password(
        self,
        by: AccountName,
        account: AccountName,
        *,
        login: str,
        old_password: str,
        new_password: str,
        peer: str,
    ) -> None:
        """Change a password and end every login of the account.

        One's own needs the old password (BadCredentials, Throttled); another's needs "accounts.disable" in the system,
        and NotFound says nothing about which accounts exist to who has not got it.
        """
        check_strength(new_password)
        if by == account:
            check_length("old_password", old_password)
            await self._check_old(account, old_password, peer)
        else:
            decision = await self._authority.decide(by, SYSTEM_PROJECT, "accounts.disable", login)
            if not decision.allowed:
                raise denial(by, SYSTEM_PROJECT, "accounts.disable", decision)
        password_hash = await self._passwords.hash(new_password, str(by))
        async with self._database.write() as session:
            await existing(session, account)
            await check_above(session, by, account, "accounts.disable")
            await AccountTable(session).set_password_hash(account.account, password_hash)
            await AccountTable(session).revoke_logins(account.account)
        await self._authority.refresh()

    async def _check_old(self, account: AccountName, old_password: str, peer: str) -> None:
        async with self._database.read() as session:
            row = await AccountTable(session).find(account.account)
            familiar = await AccountTable(session).logged_in_from(account.account, peer)
        async with self._throttle.attempt(account.account, peer, familiar=familiar):
            if row is None or not await self._passwords.matches(row.password_hash, old_password, peer):
                raise BadCredentials("the old password is not right")


async def _check_landing(session: Session, by: AccountName, group: GroupName) -> None:
    level = await RuleTable(session).level(group.project, group.group)
    if level is None:
        raise not_found(group)
    await check_reach(session, by, group, level)


async def _add(session: Session, row: AccountRow, group: GroupName) -> Account:
    if await AccountTable(session).named(row.id):
        message = f"accounts/{row.id} exists or was deleted, and a name is given once; choose another id"
        raise AlreadyExists(message, resource=AccountName(row.id))
    await AccountTable(session).add(row)
    await RuleTable(session).set_member(group.project, row.id, group.group)
    return await describe(session, row)
