"""The policy in the database: Casbin's rows, thresholds, and what each revision changed.

A change and the rows that it means are one transaction, which also counts the policy's revision up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from casbin_async_sqlalchemy_adapter import Adapter
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

from services.auth.database import metadata as database
from services.auth.database.metadata import policy_revision
from services.auth.database.session import Session
from services.auth.policy.project_policy import MemberRule, RuleRow, domain, parse_level, parse_member, role, user

CHANGES_KEPT_SECONDS = 24 * 3600


class Base(DeclarativeBase):
    """Puts Casbin's table beside the others."""

    metadata = database.metadata


class PolicyRule(Base):
    """A row of Casbin's policy, in the columns that casbin-async-sqlalchemy-adapter expects.

    p rows: v0 = role, v1 = level. g rows: v0 = user, v1 = role, v2 = project. The partial indexes make a group with
    two levels, and an account in two groups of a project, impossible.
    """

    __tablename__ = "casbin_rule"
    __table_args__ = (
        sa.Index("casbin_rule_one_level", "v0", unique=True, sqlite_where=sa.text("ptype = 'p'"),
                 postgresql_where=sa.text("ptype = 'p'")),
        sa.Index("casbin_rule_one_group", "v2", "v0", unique=True, sqlite_where=sa.text("ptype = 'g'"),
                 postgresql_where=sa.text("ptype = 'g'")),
        sa.Index("casbin_rule_subject", "v0"),
        sa.Index("casbin_rule_role", "v1", "v0"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    ptype: Mapped[str] = mapped_column(sa.String(1))
    v0: Mapped[str] = mapped_column(sa.String(255))
    v1: Mapped[str] = mapped_column(sa.String(255))
    v2: Mapped[str | None] = mapped_column(sa.String(255))
    v3: Mapped[str | None] = mapped_column(sa.String(255))
    v4: Mapped[str | None] = mapped_column(sa.String(255))
    v5: Mapped[str | None] = mapped_column(sa.String(255))


policy_change = sa.Table(
    "policy_change",
    database.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("key", sa.String(63), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)
"""What each revision changed, so that a process in memory follows without reading everything again."""

deleted_membership = sa.Table(
    "deleted_membership",
    database.metadata,
    sa.Column("account", sa.String(63), primary_key=True),
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("group", sa.String(63), nullable=False),
    sa.Index("deleted_membership_group", "project", "group"),
)
"""Memberships of deleted accounts. They are no rules: nothing that looks at a group's members meets them."""

threshold = sa.Table(
    "threshold",
    database.metadata,
    sa.Column("action", sa.String(63), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
"""Thresholds that differ from the contract's default."""


@dataclass(frozen=True)
class PolicyChange:
    """One thing that a revision changed; kind is "group", "member", "project", "threshold", "account" or "logins"."""

    kind: str
    project: str
    key: str


class ChangeTable:
    """The policy's changes, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def note(self, kind: str, project: str, key: str) -> None:
        """Record what changes; all notes of a session are one revision."""
        now, revision = self._session.now, self._session.revision + 1
        await self._execute(policy_revision.update().values(revision=revision))
        row = {"revision": revision, "kind": kind, "project": project, "key": key, "time": now}
        await self._execute(policy_change.insert().values(row))

    async def after(self, revision: int) -> list[PolicyChange] | None:
        """Return what came after a revision; None when that is no longer remembered."""
        query = sa.select(policy_change).where(policy_change.c.revision > revision).order_by(policy_change.c.id)
        rows = (await self._execute(query)).all()
        if rows and rows[0].revision != revision + 1:
            return None
        return [PolicyChange(row.kind, row.project, row.key) for row in rows]

    async def prune(self) -> None:
        """Forget what is so old that nobody follows from there."""
        old = policy_change.c.time < self._session.now - CHANGES_KEPT_SECONDS
        await self._execute(policy_change.delete().where(old))


class RuleTable:
    """Casbin's rows, over one session: the level of each group, the members of each; Casbin's own adapter writes them.

    They are read as columns: Casbin's own loading joins them to a line and splits that again at its commas.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def all(self) -> Sequence[RuleRow]:
        """Return every row."""
        return await self._rows(sa.true())

    async def level(self, project: str, group: str) -> int | None:
        """Return a group's permission parameter, None when there is no such group."""
        row = await self._level_row(project, group)
        return None if row is None else parse_level(row).level

    async def group_of(self, project: str, account: str) -> str | None:
        """Return the account's group in a project."""
        row = await self._member_row(project, account)
        return None if row is None else parse_member(row).group

    async def parameter_of(self, project: str, account: str) -> int:
        """Return the account's permission parameter in a project, 0 when it is in no group."""
        group = await self.group_of(project, account)
        return 0 if group is None else await self.level(project, group) or 0

    async def groups_of(self, account: str) -> list[MemberRule]:
        """Return the account's memberships, by project."""
        at = (PolicyRule.ptype == "g") & (PolicyRule.v0 == user(account))
        return [parse_member(row) for row in await self._rows(at, PolicyRule.v2)]

    async def members(self, project: str, group: str, after: str = "", limit: int | None = None) -> list[str]:
        """Return the accounts in a group, by id."""
        query = (
            sa.select(PolicyRule.v0)
            .where(PolicyRule.ptype == "g", PolicyRule.v1 == role(project, group))
            .where(PolicyRule.v0 > user(after))
            .order_by(PolicyRule.v0)
            .limit(limit)
        )
        return [name.removeprefix("user:") for name in (await self._execute(query)).scalars()]

    async def member_count(self, project: str, group: str) -> int:
        """Return how many accounts are in a group."""
        at = (PolicyRule.ptype == "g") & (PolicyRule.v1 == role(project, group))
        return (await self._execute(sa.select(sa.func.count()).select_from(PolicyRule).where(at))).scalar_one()

    async def set_level(self, project: str, group: str, level: int | None) -> None:
        """Give a group its permission parameter; None removes it, and with it the way back into the group."""
        known = await self._level_row(project, group)
        async with self._casbin() as casbin:
            if known is not None:
                await casbin.remove_policy("p", "p", known[1:3])
            if level is not None:
                await casbin.add_policies("p", "p", [[role(project, group), str(level)]])
        if level is None:
            await DeletedMembershipTable(self._session).forget_group(project, group)
        await ChangeTable(self._session).note("group", project, group)

    async def set_member(self, project: str, account: str, group: str | None) -> None:
        """Put an account into a group, out of its other one in that project; None takes it out."""
        known = await self._member_row(project, account)
        async with self._casbin() as casbin:
            if known is not None:
                await casbin.remove_policy("g", "g", known[1:4])
            if group is not None:
                await casbin.add_policies("g", "g", [[user(account), role(project, group), domain(project)]])
        await ChangeTable(self._session).note("member", project, account)

    async def remove_project(self, project: str) -> None:
        """Remove the permission parameters and the members of all groups of a project."""
        levels = await self._rows((PolicyRule.ptype == "p") & PolicyRule.v0.startswith(role(project, "")))
        async with self._casbin() as casbin:
            await casbin.remove_filtered_policy("g", "g", 2, domain(project))
            for row in levels:
                await casbin.remove_policy("p", "p", row[1:3])
        await DeletedMembershipTable(self._session).forget_project(project)
        await ChangeTable(self._session).note("project", project, "")

    async def _level_row(self, project: str, group: str) -> RuleRow | None:
        rows = await self._rows((PolicyRule.ptype == "p") & (PolicyRule.v0 == role(project, group)))
        return rows[0] if rows else None

    async def _member_row(self, project: str, account: str) -> RuleRow | None:
        at = (PolicyRule.v0 == user(account)) & (PolicyRule.v2 == domain(project))
        rows = await self._rows((PolicyRule.ptype == "g") & at)
        return rows[0] if rows else None

    async def _rows(self, at: sa.ColumnElement[bool], *order: InstrumentedAttribute[str | None]) -> list[RuleRow]:
        query = sa.select(PolicyRule.ptype, PolicyRule.v0, PolicyRule.v1, PolicyRule.v2).where(at).order_by(*order)
        return [(ptype, v0, v1, v2) for ptype, v0, v1, v2 in await self._execute(query)]

    @asynccontextmanager
    async def _casbin(self) -> AsyncIterator[Adapter]:
        async with AsyncSession(bind=self._session.connection) as session:
            yield Adapter(session.bind, PolicyRule, db_session=session)


class DeletedMembershipTable:
    """The groups that deleted accounts come back into, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def groups_of(self, account: str) -> list[MemberRule]:
        """Return a deleted account's memberships, by project."""
        mine = deleted_membership.c.account == account
        rows = await self._execute(sa.select(deleted_membership).where(mine).order_by(deleted_membership.c.project))
        return [MemberRule(row.project, row.account, row.group) for row in rows]

    async def put_away(self, account: str) -> None:
        """Take an account out of all its groups, and remember which these are."""
        rules = RuleTable(self._session)
        for rule in await rules.groups_of(account):
            await self._execute(deleted_membership.insert().values(vars(rule)))
            await rules.set_member(rule.project, account, None)

    async def bring_back(self, account: str) -> None:
        """Put an account into the groups that it was taken out of and that are still there."""
        rules = RuleTable(self._session)
        for rule in await self.groups_of(account):
            await rules.set_member(rule.project, account, rule.group)
        await self.forget_account(account)

    async def forget_account(self, account: str) -> None:
        """Let an account come back into no group."""
        await self._execute(deleted_membership.delete().where(deleted_membership.c.account == account))

    async def forget_group(self, project: str, group: str) -> None:
        """Let nobody come back into a group."""
        at = (deleted_membership.c.project == project) & (deleted_membership.c.group == group)
        await self._execute(deleted_membership.delete().where(at))

    async def forget_project(self, project: str) -> None:
        """Let nobody come back into the groups of a project."""
        await self._execute(deleted_membership.delete().where(deleted_membership.c.project == project))


class ThresholdTable:
    """The thresholds that differ from their default, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def all(self) -> dict[str, int]:
        """Return them by action."""
        return {row.action: row.value for row in await self._execute(sa.select(threshold))}

    async def put(self, action: str, value: int) -> None:
        """Store what an action needs."""
        await self._execute(threshold.delete().where(threshold.c.action == action))
        await self._execute(threshold.insert().values(action=action, value=value))
        await ChangeTable(self._session).note("threshold", "", action)
