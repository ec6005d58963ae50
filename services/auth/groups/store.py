"""Projects and their groups in the database; levels and members stand in the policy."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from services.auth.database.metadata import metadata
from services.auth.database.session import Session
from services.auth.policy.store import RuleTable

project = sa.Table(
    "project",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("uid", sa.String(64), nullable=False, unique=True),
    sa.Column("create_time", sa.Float, nullable=False),
)

account_group = sa.Table(
    "account_group",
    metadata,
    sa.Column("project", sa.String(63), sa.ForeignKey("project.id"), primary_key=True),
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("uid", sa.String(36), nullable=False, unique=True),
    sa.Column("create_time", sa.Float, nullable=False),
)
"""Groups; their permission parameter is the level of their p row, their members are their g rows."""


@dataclass(frozen=True)
class GroupRow:
    """A group as it is stored."""

    project: str
    id: str
    uid: str
    create_time: float


class GroupTable:
    """Projects and their groups, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def project_uid(self, name: str) -> str | None:
        """Return the uid of a project that has groups."""
        return (await self._execute(sa.select(project.c.uid).where(project.c.id == name))).scalar_one_or_none()

    async def add_project(self, name: str, uid: str) -> None:
        """Make a project known, so that it can have groups."""
        await self._execute(project.insert().values(id=name, uid=uid, create_time=self._session.now))

    async def remove_project(self, name: str) -> None:
        """Forget a project and all its groups, with their permission parameters and their members."""
        await RuleTable(self._session).remove_project(name)
        await self._execute(account_group.delete().where(account_group.c.project == name))
        await self._execute(project.delete().where(project.c.id == name))

    async def find(self, of: str, group: str) -> GroupRow | None:
        """Return a group of a project."""
        query = sa.select(account_group).where(account_group.c.project == of, account_group.c.id == group)
        row = (await self._execute(query)).one_or_none()
        return None if row is None else GroupRow(**row._mapping)

    async def page(self, of: str, after: str, limit: int) -> list[GroupRow]:
        """Return groups of a project, by id."""
        query = sa.select(account_group).where(account_group.c.project == of, account_group.c.id > after)
        rows = await self._execute(query.order_by(account_group.c.id).limit(limit))
        return [GroupRow(**row._mapping) for row in rows]

    async def add(self, row: GroupRow, level: int) -> None:
        """Store a new group with its permission parameter."""
        await self._execute(account_group.insert().values(vars(row)))
        await RuleTable(self._session).set_level(row.project, row.id, level)

    async def delete(self, of: str, group: str) -> None:
        """Forget a group and its permission parameter."""
        at = (account_group.c.project == of) & (account_group.c.id == group)
        await self._execute(account_group.delete().where(at))
        await RuleTable(self._session).set_level(of, group, None)
