"""Accounts and their logins in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from services.auth.database.metadata import metadata
from services.auth.database.session import Session
from services.auth.policy.store import ChangeTable

MAX_ADDRESS = 64

account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("uid", sa.String(36), nullable=False, unique=True),
    sa.Column("display_name", sa.String(200), nullable=False),
    sa.Column("password_hash", sa.String(200), nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("create_time", sa.Float, nullable=False),
)

login = sa.Table(
    "login",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("account", sa.String(63), sa.ForeignKey("account.id"), nullable=False, index=True),
    sa.Column("create_time", sa.Float, nullable=False),
    sa.Column("expire_time", sa.Float, nullable=False, index=True),
    sa.Column("revoke_time", sa.Float, index=True),
    sa.Column("address", sa.String(MAX_ADDRESS)),
    sa.Index("login_from", "account", "address"),
)
"""Logins, with the network address that each was made from; None: by a process that did not note it yet."""


@dataclass(frozen=True)
class AccountRow:
    """An account as it is stored."""

    id: str
    uid: str
    display_name: str
    password_hash: str
    disabled: bool
    create_time: float


class AccountTable:
    """Accounts and their logins, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def find(self, name: str) -> AccountRow | None:
        """Return an account."""
        row = (await self._execute(sa.select(account).where(account.c.id == name))).one_or_none()
        return None if row is None else AccountRow(**row._mapping)

    async def page(self, after: str, limit: int) -> list[AccountRow]:
        """Return accounts, by id."""
        query = sa.select(account).where(account.c.id > after).order_by(account.c.id).limit(limit)
        return [AccountRow(**row._mapping) for row in await self._execute(query)]

    async def enabled(self, names: Sequence[str] | None = None) -> set[str]:
        """Return which of the accounts (None: of all) exist and are not disabled."""
        query = sa.select(account.c.id).where(account.c.disabled.is_(False))
        query = query if names is None else query.where(account.c.id.in_(names))
        return set((await self._execute(query)).scalars())

    async def add(self, row: AccountRow) -> None:
        """Store a new account."""
        await self._execute(account.insert().values(vars(row)))
        await ChangeTable(self._session).note("account", "", row.id)

    async def set_disabled(self, name: str, disabled: bool) -> None:
        """Let an account log in, or not."""
        await self._execute(account.update().where(account.c.id == name).values(disabled=disabled))
        await ChangeTable(self._session).note("account", "", name)

    async def set_password_hash(self, name: str, password_hash: str) -> None:
        """Replace a password."""
        await self._execute(account.update().where(account.c.id == name).values(password_hash=password_hash))

    async def add_login(self, uid: str, name: str, expire_time: float, address: str = "") -> None:
        """Store a new login of an account, made from a network address."""
        times = {"create_time": self._session.now, "expire_time": expire_time}
        row = {"id": uid, "account": name, "address": address[:MAX_ADDRESS], **times}
        await self._execute(login.insert().values(row))

    async def logged_in_from(self, name: str, address: str) -> bool:
        """Tell whether a login of the account was made from this network address, as far as is remembered."""
        at = (login.c.account == name) & (login.c.address == address[:MAX_ADDRESS])
        return (await self._execute(sa.select(login.c.id).where(at).limit(1))).first() is not None

    async def prolong_login(self, uid: str, expire_time: float) -> None:
        """Let a login last until then."""
        await self._execute(login.update().where(login.c.id == uid).values(expire_time=expire_time))

    async def revoke_login(self, uid: str, name: str) -> None:
        """End one login of an account."""
        await self._revoke(name, login.c.id == uid)

    async def revoke_logins(self, name: str) -> None:
        """End every login of an account."""
        await self._revoke(name, login.c.account == name)

    async def _revoke(self, name: str, which: sa.ColumnElement[bool]) -> None:
        live = login.update().where(which, login.c.revoke_time.is_(None)).values(revoke_time=self._session.now)
        if (await self._execute(live)).rowcount:
            await ChangeTable(self._session).note("logins", "", name)

    async def revoked_logins(self, since: float, name: str | None = None) -> dict[str, float]:
        """Return the logins (of an account) that were revoked since a time, with that time."""
        query = sa.select(login.c.id, login.c.revoke_time).where(login.c.revoke_time >= since)
        query = query if name is None else query.where(login.c.account == name)
        return {row.id: row.revoke_time for row in await self._execute(query)}
