"""Accounts: who may log in."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from loupe import paging
from loupe.access import SYSTEM_PROJECT, denial
from loupe.errors import AlreadyExists, BadCredentials, PermissionDenied, invalid, not_found
from loupe.idempotency import RequestLog
from loupe.names import SYSTEM, AccountName, GroupName, ProjectName, check_id
from services.auth.database.idempotent import Request
from services.auth.database.reads import AccountRow, Reads
from services.auth.database.store import Store, Transaction
from services.auth.groups import delegation as ranks
from services.auth.policy.authority import Authority
from services.auth.sessions.passwords import Passwords, check_strength
from services.auth.sessions.throttle import Throttle

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

    def to_json(self) -> bytes:
        """Write it for the request log."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Account:
        """Read what to_json wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "groups": tuple(fields["groups"])})


async def describe(reads: Reads, row: AccountRow) -> Account:
    """Add an account's groups to its row."""
    groups = tuple(str(GroupName(rule.project, rule.group)) for rule in await reads.groups_of(row.id))
    return Account(str(AccountName(row.id)), row.uid, row.display_name, row.disabled, groups, row.create_time)


class Accounts:
    """Creates accounts and changes their state."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        passwords: Passwords,
        throttle: Throttle,
        requests: RequestLog,
        *,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._store = store
        self._authority = authority
        self._passwords = passwords
        self._throttle = throttle
        self._requests = requests
        self._new_uid = new_uid

    async def create(self, request: Request, account_id: str, display_name: str, password: str, group: str) -> Account:
        """Make an account that lands in a group.

        Raises AlreadyExists, NotFound for an unknown group, PermissionDenied above one's reach, WeakPassword.
        """
        check_id("account_id", account_id)
        where = GroupName.parse(group, "group")
        if len(display_name) > MAX_DISPLAY_NAME:
            raise invalid("account.display_name", display_name, f"at most {MAX_DISPLAY_NAME} characters")
        check_strength(password)
        password_hash = await self._passwords.hash(password)
        if request.request_id:
            secret = await self._passwords.fingerprint(password, f"{request.by} {request.request_id}")
            request = replace(request, body=request.body + secret)

        async with self._store.write() as tx:

            async def effect() -> bytes:
                await self._check_landing(tx, request.by, where)
                return (await self._add(tx, account_id, display_name, password_hash, where)).to_json()

            made = Account.from_json(await request.once(self._requests, tx, effect))
        await self._authority.refresh()
        return made

    async def _check_landing(self, tx: Transaction, by: AccountName, group: GroupName) -> None:
        level = await tx.level(group.project, group.group)
        if level is None:
            raise not_found(group)
        ranks.check_reach(by, group.project, level, await ranks.reach_of(tx, by, group.project), str(group))

    async def _add(
        self, tx: Transaction, account_id: str, display_name: str, password_hash: str, group: GroupName
    ) -> Account:
        if await tx.account(account_id) is not None:
            raise AlreadyExists(f"accounts/{account_id} exists; choose another id", resource=AccountName(account_id))
        row = AccountRow(account_id, self._new_uid(), display_name, password_hash, False, tx.now)
        await tx.add_account(row)
        await tx.set_member(group.project, account_id, group.group)
        return await describe(tx, row)

    async def get(self, account: AccountName) -> Account:
        """Return an account. Raises NotFound."""
        async with self._store.read() as reads:
            return await describe(reads, await _existing(reads, account))

    async def list(self, page_size: int, page_token: str) -> tuple[list[Account], str]:
        """Return a page of accounts by id, and the token of the next page."""
        size = paging.page_size(page_size)
        after = paging.decode(_LIST, page_token)
        async with self._store.read() as reads:
            rows = await reads.accounts(str(after[0]) if after else "", size + 1)
            page = [await describe(reads, row) for row in rows[:size]]
        return page, paging.encode(_LIST, [rows[size - 1].id]) if len(rows) > size else ""

    async def set_disabled(self, by: AccountName, account: AccountName, disabled: bool) -> Account:
        """Refuse the account's logins and tokens from now on, or let it log in again."""
        async with self._store.write() as tx:
            row = await _existing(tx, account)
            await self._check_above(tx, by, account)
            if disabled:
                await ranks.check_not_last(tx, SYSTEM, await tx.group_of(SYSTEM, account.account), account.account)
                await tx.revoke_logins(account.account)
            if row.disabled != disabled:
                await tx.set_disabled(account.account, disabled)
            changed = await describe(tx, await _existing(tx, account))
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
            await self._check_old(account, old_password, peer)
        else:
            decision = await self._authority.decide(by, SYSTEM_PROJECT, "accounts.disable", login)
            if not decision.allowed:
                raise denial(by, SYSTEM_PROJECT, "accounts.disable", decision)
        password_hash = await self._passwords.hash(new_password)
        async with self._store.write() as tx:
            await _existing(tx, account)
            await self._check_above(tx, by, account)
            await tx.set_password_hash(account.account, password_hash)
            await tx.revoke_logins(account.account)
        await self._authority.refresh()

    async def _check_old(self, account: AccountName, old_password: str, peer: str) -> None:
        self._throttle.admit(account.account, peer)
        async with self._store.read() as reads:
            row = await reads.account(account.account)
        if row is None or not await self._passwords.matches(row.password_hash, old_password):
            self._throttle.failed(account.account, peer)
            raise BadCredentials("the old password is not right")

    async def _check_above(self, tx: Transaction, by: AccountName, account: AccountName) -> None:
        own = await tx.parameter_of(SYSTEM, by.account)
        other = await tx.parameter_of(SYSTEM, account.account)
        if by != account and other > own:
            raise PermissionDenied(
                f"{account} has the system-wide permission parameter {other}, above your {own}",
                account=by,
                action="accounts.disable",
                project=ProjectName(SYSTEM),
                parameter=own,
                threshold=other,
            )


async def _existing(reads: Reads, account: AccountName) -> AccountRow:
    row = await reads.account(account.account)
    if row is None:
        raise not_found(account)
    return row
