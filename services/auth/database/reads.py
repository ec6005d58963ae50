"""Everything that auth reads from its database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.database import tables
from services.auth.database.tables import PolicyRule
from services.auth.policy import project_policy as policy


@dataclass(frozen=True)
class Change:
    """One thing that a revision changed; kind is "group", "member", "threshold", "account" or "logins"."""

    kind: str
    project: str
    key: str


@dataclass(frozen=True)
class AccountRow:
    """An account as it is stored."""

    id: str
    uid: str
    display_name: str
    password_hash: str
    disabled: bool
    create_time: float


@dataclass(frozen=True)
class GroupRow:
    """A group as it is stored."""

    project: str
    id: str
    uid: str
    create_time: float


@dataclass(frozen=True)
class RefreshRow:
    """A refresh token with the login that it belongs to."""

    login: str
    account: str
    expire_time: float
    use_time: float | None
    revoke_time: float | None


class Reads:
    """One consistent look at the database."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def revision(self) -> int:
        """Return the policy's revision."""
        return await self._one(sa.select(tables.policy_revision.c.revision))

    async def changes(self, after: int) -> list[Change] | None:
        """Return what came after a revision; None when that is no longer remembered."""
        table = tables.policy_change
        query = sa.select(table).where(table.c.revision > after).order_by(table.c.id)
        rows = (await self.connection.execute(query)).all()
        if rows and rows[0].revision != after + 1:
            return None
        return [Change(row.kind, row.project, row.key) for row in rows]

    async def rules(self) -> Sequence[policy.RuleRow]:
        """Return Casbin's rows.

        They are read as columns: Casbin's own loading joins them to a line and splits that again at its commas.
        """
        query = sa.select(PolicyRule.ptype, PolicyRule.v0, PolicyRule.v1, PolicyRule.v2)
        return [tuple(row) for row in await self.connection.execute(query)]

    async def level_rule(self, project: str, group: str) -> policy.RuleRow | None:
        """Return the p row of a group."""
        return await self._rule("p", PolicyRule.v0 == policy.role(project, group))

    async def member_rule(self, project: str, account: str) -> policy.RuleRow | None:
        """Return the g row of an account in a project."""
        at = (PolicyRule.v0 == policy.user(account)) & (PolicyRule.v2 == policy.domain(project))
        return await self._rule("g", at)

    async def _rule(self, ptype: str, condition: sa.ColumnElement[bool]) -> policy.RuleRow | None:
        query = sa.select(PolicyRule.ptype, PolicyRule.v0, PolicyRule.v1, PolicyRule.v2)
        row = (await self.connection.execute(query.where(PolicyRule.ptype == ptype, condition))).one_or_none()
        return None if row is None else tuple(row)

    async def level(self, project: str, group: str) -> int | None:
        """Return a group's permission parameter, None when there is no such group."""
        row = await self.level_rule(project, group)
        return None if row is None else policy.parse_level(row).level

    async def group_of(self, project: str, account: str) -> str | None:
        """Return the account's group in a project."""
        row = await self.member_rule(project, account)
        return None if row is None else policy.parse_member(row).group

    async def parameter_of(self, project: str, account: str) -> int:
        """Return the account's permission parameter in a project, 0 when it is in no group."""
        group = await self.group_of(project, account)
        return 0 if group is None else await self.level(project, group) or 0

    async def groups_of(self, account: str) -> list[policy.MemberRule]:
        """Return the account's memberships, by project."""
        query = (
            sa.select(PolicyRule.ptype, PolicyRule.v0, PolicyRule.v1, PolicyRule.v2)
            .where(PolicyRule.ptype == "g", PolicyRule.v0 == policy.user(account))
            .order_by(PolicyRule.v2)
        )
        return [policy.parse_member(tuple(row)) for row in await self.connection.execute(query)]

    async def members(self, project: str, group: str, after: str = "", limit: int | None = None) -> list[str]:
        """Return the accounts in a group, by id."""
        query = (
            sa.select(PolicyRule.v0)
            .where(PolicyRule.ptype == "g", PolicyRule.v1 == policy.role(project, group))
            .where(PolicyRule.v0 > policy.user(after))
            .order_by(PolicyRule.v0)
            .limit(limit)
        )
        return [name.removeprefix("user:") for name in (await self.connection.execute(query)).scalars()]

    async def member_count(self, project: str, group: str) -> int:
        """Return how many accounts are in a group."""
        at = (PolicyRule.ptype == "g") & (PolicyRule.v1 == policy.role(project, group))
        return await self._one(sa.select(sa.func.count()).select_from(PolicyRule).where(at))

    async def project_uid(self, project: str) -> str | None:
        """Return the uid of a project that has groups."""
        return await self._one(sa.select(tables.project.c.uid).where(tables.project.c.id == project))

    async def group(self, project: str, group: str) -> GroupRow | None:
        """Return a group."""
        table = tables.account_group
        query = sa.select(table).where(table.c.project == project, table.c.id == group)
        row = (await self.connection.execute(query)).one_or_none()
        return None if row is None else GroupRow(**row._mapping)

    async def groups(self, project: str, after: str, limit: int) -> list[GroupRow]:
        """Return groups of a project, by id."""
        table = tables.account_group
        query = sa.select(table).where(table.c.project == project, table.c.id > after).order_by(table.c.id).limit(limit)
        return [GroupRow(**row._mapping) for row in await self.connection.execute(query)]

    async def account(self, account: str) -> AccountRow | None:
        """Return an account."""
        query = sa.select(tables.account).where(tables.account.c.id == account)
        row = (await self.connection.execute(query)).one_or_none()
        return None if row is None else AccountRow(**row._mapping)

    async def accounts(self, after: str, limit: int) -> list[AccountRow]:
        """Return accounts, by id."""
        table = tables.account
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        return [AccountRow(**row._mapping) for row in await self.connection.execute(query)]

    async def enabled(self, accounts: Sequence[str] | None = None) -> set[str]:
        """Return which of the accounts (None: of all) exist and are not disabled."""
        table = tables.account
        query = sa.select(table.c.id).where(table.c.disabled.is_(False))
        query = query if accounts is None else query.where(table.c.id.in_(accounts))
        return set((await self.connection.execute(query)).scalars())

    async def thresholds(self) -> dict[str, int]:
        """Return the thresholds that differ from their default."""
        rows = await self.connection.execute(sa.select(tables.threshold))
        return {row.action: row.value for row in rows}

    async def revoked_logins(self, since: float, account: str | None = None) -> dict[str, float]:
        """Return the logins (of an account) that were revoked since a time, with that time."""
        table = tables.login
        query = sa.select(table.c.id, table.c.revoke_time).where(table.c.revoke_time >= since)
        query = query if account is None else query.where(table.c.account == account)
        return {row.id: row.revoke_time for row in await self.connection.execute(query)}

    async def refresh_token(self, digest: str) -> RefreshRow | None:
        """Return a refresh token by the sha256 of its text."""
        token, login = tables.refresh_token, tables.login
        query = (
            sa.select(token.c.login, login.c.account, token.c.expire_time, token.c.use_time, login.c.revoke_time)
            .join(login, login.c.id == token.c.login)
            .where(token.c.digest == digest)
        )
        row = (await self.connection.execute(query)).one_or_none()
        return None if row is None else RefreshRow(**row._mapping)

    async def signing_keys(self) -> list[tuple[str, bytes, float]]:
        """Return (kid, private key, create time), newest first."""
        table = tables.signing_key
        query = sa.select(table.c.kid, table.c.private, table.c.create_time).order_by(table.c.create_time.desc())
        return [tuple(row) for row in await self.connection.execute(query)]

    async def _one(self, query: sa.Select) -> Any:
        return (await self.connection.execute(query)).scalar_one_or_none()
