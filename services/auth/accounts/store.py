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
    sa.Column("delete_time", sa.Float),
    sa.Column("expire_time", sa.Float),
    sa.Column("purged", sa.Boolean, nullable=False, server_default=sa.false()),
)
"""Accounts. Of a purged one only the name, the uid and the times are left: the name is not given again."""

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
    delete_time: float | None = None
    expire_time: float | None = None
    purged: bool = False

    @property
    def deleted(self) -> bool:
        """Whether it is deleted."""
        return self.delete_time is not None


class AccountTable:
    """Accounts and their logins, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def find(self, name: str, *, show_deleted: bool = False) -> AccountRow | None:
        """Return an account; a deleted one if that is wanted and it can still be restored."""
        query = sa.select(account).where(account.c.id == name, _visible(show_deleted))
        row = (await self._execute(query)).one_or_none()
        return None if row is None else AccountRow(**row._mapping)

    async def named(self, name: str) -> bool:
        """Tell whether an account has this name, or ever had it."""
        return (await self._execute(sa.select(account.c.id).where(account.c.id == name))).first() is not None

    async def page(self, after: str, limit: int, *, show_deleted: bool = False) -> list[AccountRow]:
        """Return accounts, by id."""
        query = sa.select(account).where(account.c.id > after, _visible(show_deleted)).order_by(account.c.id)
        return [AccountRow(**row._mapping) for row in await self._execute(query.limit(limit))]

    async def enabled(self, names: Sequence[str] | None = None) -> set[str]:
        """Return which of the accounts (None: of all) exist and are neither disabled nor deleted."""
        query = sa.select(account.c.id).where(account.c.disabled.is_(False), account.c.delete_time.is_(None))
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

    async def set_lifetime(self, name: str, delete_time: float | None, expire_time: float | None) -> None:
        """Delete an account until it expires, or restore it with None."""
        times = {"delete_time": delete_time, "expire_time": expire_time}
        await self._execute(account.update().where(account.c.id == name).values(times))
        await ChangeTable(self._session).note("account", "", name)

    async def expired(self) -> str | None:
        """Return a deleted account that can no longer be restored and is not purged yet."""
        over = account.c.purged.is_(False) & (account.c.expire_time < self._session.now)
        return (await self._execute(sa.select(account.c.id).where(over).limit(1))).scalar_one_or_none()

    async def purge(self, name: str) -> None:
        """Remove what is personal of an account; its name stays taken."""
        nothing = {"display_name": "", "password_hash": "", "purged": True}
        await self._execute(account.update().where(account.c.id == name).values(nothing))

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


def _visible(show_deleted: bool) -> sa.ColumnElement[bool]:
    return account.c.purged.is_(False) if show_deleted else account.c.delete_time.is_(None)
