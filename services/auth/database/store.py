"""What auth keeps in SQL, in transactions; Casbin's rows are written by Casbin's own adapter.

A change of the policy and the rows of Casbin's table that it means are one transaction, which also counts the policy's
revision up and notes what it changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import sqlalchemy as sa
from casbin_async_sqlalchemy_adapter import Adapter
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from loupe.database import connected, transaction
from loupe.errors import ResourceExhausted, Unavailable
from services.auth.database import tables
from services.auth.database.reads import AccountRow, GroupRow, Reads
from services.auth.database.tables import PolicyRule
from services.auth.policy import project_policy as policy

CHANGES_KEPT_SECONDS = 24 * 3600
USED_TOKENS_KEPT_SECONDS = 7 * 86_400


class Transaction(Reads):
    """One atomic change; what it reads it reads under its own lock."""

    def __init__(self, connection: AsyncConnection, session: AsyncSession, now: float) -> None:
        super().__init__(connection)
        self.now = now
        self._rules = Adapter(session.bind, PolicyRule, db_session=session)
        self._revision: int | None = None

    async def note(self, kind: str, project: str, key: str) -> None:
        """Record what changes; the first note of a transaction counts the policy's revision up."""
        if self._revision is None:
            table = tables.policy_revision
            counted = table.update().values(revision=table.c.revision + 1).returning(table.c.revision)
            self._revision = await self._one(counted)
        change = {"revision": self._revision, "kind": kind, "project": project, "key": key, "time": self.now}
        await self.connection.execute(tables.policy_change.insert().values(change))

    async def set_level(self, project: str, group: str, level: int | None) -> None:
        """Give a group its permission parameter; None removes it."""
        known = await self.level_rule(project, group)
        if known is not None:
            await self._rules.remove_policy("p", "p", list(known[1:3]))
        if level is not None:
            await self._rules.add_policies("p", "p", [[policy.role(project, group), str(level)]])
        await self.note("group", project, group)

    async def set_member(self, project: str, account: str, group: str | None) -> None:
        """Put an account into a group, out of its other one in that project; None takes it out."""
        known = await self.member_rule(project, account)
        if known is not None:
            await self._rules.remove_policy("g", "g", list(known[1:4]))
        if group is not None:
            rule = [policy.user(account), policy.role(project, group), policy.domain(project)]
            await self._rules.add_policies("g", "g", [rule])
        await self.note("member", project, account)

    async def add_project(self, project: str, uid: str) -> None:
        """Make a project known, so that it can have groups."""
        await self.connection.execute(tables.project.insert().values(id=project, uid=uid, create_time=self.now))

    async def add_group(self, group: GroupRow, level: int) -> None:
        """Store a new group with its permission parameter."""
        await self.connection.execute(tables.account_group.insert().values(vars(group)))
        await self.set_level(group.project, group.id, level)

    async def delete_group(self, project: str, group: str) -> None:
        """Forget a group and its permission parameter."""
        table = tables.account_group
        await self.connection.execute(table.delete().where(table.c.project == project, table.c.id == group))
        await self.set_level(project, group, None)

    async def add_account(self, account: AccountRow) -> None:
        """Store a new account."""
        await self.connection.execute(tables.account.insert().values(vars(account)))
        await self.note("account", "", account.id)

    async def set_disabled(self, account: str, disabled: bool) -> None:
        """Let an account log in, or not."""
        table = tables.account
        await self.connection.execute(table.update().where(table.c.id == account).values(disabled=disabled))
        await self.note("account", "", account)

    async def set_password_hash(self, account: str, password_hash: str) -> None:
        """Replace a password."""
        table = tables.account
        await self.connection.execute(table.update().where(table.c.id == account).values(password_hash=password_hash))

    async def set_threshold(self, action: str, value: int) -> None:
        """Store what an action needs."""
        table = tables.threshold
        await self.connection.execute(table.delete().where(table.c.action == action))
        await self.connection.execute(table.insert().values(action=action, value=value))
        await self.note("threshold", "", action)

    async def add_login(self, login: str, account: str, expire_time: float) -> None:
        """Store a new login."""
        row = {"id": login, "account": account, "create_time": self.now, "expire_time": expire_time}
        await self.connection.execute(tables.login.insert().values(row))

    async def add_refresh_token(self, digest: str, login: str, expire_time: float) -> None:
        """Store a login's newest refresh token; the login lasts as long."""
        row = {"digest": digest, "login": login, "expire_time": expire_time}
        await self.connection.execute(tables.refresh_token.insert().values(row))
        table = tables.login
        await self.connection.execute(table.update().where(table.c.id == login).values(expire_time=expire_time))

    async def use_refresh_token(self, digest: str) -> bool:
        """Mark a refresh token as used; False when it was used before."""
        table = tables.refresh_token
        unused = table.update().where(table.c.digest == digest, table.c.use_time.is_(None))
        return (await self.connection.execute(unused.values(use_time=self.now))).rowcount == 1

    async def revoke_login(self, login: str, account: str) -> None:
        """End one login."""
        await self._revoke(account, tables.login.c.id == login)

    async def revoke_logins(self, account: str) -> None:
        """End every login of an account."""
        await self._revoke(account, tables.login.c.account == account)

    async def _revoke(self, account: str, which: sa.ColumnElement[bool]) -> None:
        table = tables.login
        live = table.update().where(which, table.c.revoke_time.is_(None))
        if (await self.connection.execute(live.values(revoke_time=self.now))).rowcount:
            await self.note("logins", "", account)

    async def add_signing_key(self, kid: str, private: bytes) -> None:
        """Store a key that signs from now on."""
        row = {"kid": kid, "private": private, "create_time": self.now}
        await self.connection.execute(tables.signing_key.insert().values(row))

    async def delete_signing_key(self, kid: str) -> None:
        """Forget a key: what it signed is refused."""
        await self.connection.execute(tables.signing_key.delete().where(tables.signing_key.c.kid == kid))

    async def prune(self) -> None:
        """Forget what nobody can ask about any more: expired logins with their tokens, old changes."""
        login, token, change = tables.login, tables.refresh_token, tables.policy_change
        expired = sa.select(login.c.id).where(login.c.expire_time < self.now - USED_TOKENS_KEPT_SECONDS)
        await self.connection.execute(token.delete().where(token.c.login.in_(expired)))
        await self.connection.execute(login.delete().where(login.c.id.in_(expired)))
        await self.connection.execute(change.delete().where(change.c.time < self.now - CHANGES_KEPT_SECONDS))


class Store:
    """Opens transactions; a database that cannot be reached is Unavailable, a full one ResourceExhausted."""

    def __init__(self, engine: AsyncEngine, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reads]:
        """Give one consistent look."""
        with _translated():
            async with connected(self._engine) as connection:
                yield Reads(await connection.execution_options(**self._snapshot_options()))

    def _snapshot_options(self) -> dict[str, object]:
        if self._engine.dialect.name == "sqlite":
            return {"read_only": True}
        return {"isolation_level": "REPEATABLE READ"}

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Give a transaction that commits at the end of the block, or leave nothing behind when it raises.

        Writers come one after the other: they hold the lock on the policy's revision.
        """
        with _translated():
            async with transaction(self._engine) as connection, AsyncSession(bind=connection) as session:
                await connection.execute(sa.select(tables.policy_revision.c.revision).with_for_update())
                yield Transaction(connection, session, self._now())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # never the database's fault: a rule above let something through
    except (DBAPIError, PoolTimeout, OSError) as error:
        text = str(error)
        if "full" in text or "No space" in text:
            raise ResourceExhausted("there is no space left for the database of auth", limit="disk") from error
        raise Unavailable("the database of auth cannot be reached now", dependency="database") from error
