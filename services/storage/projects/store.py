"""Projects in the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, String, Text

from services.storage.database.metadata import metadata
from services.storage.database.session import Session

projects = sa.Table(
    "projects",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("creator", String(128), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("create_time", Float, nullable=False),
)


@dataclass(frozen=True)
class ProjectRow:
    """A project; while it is not active, its groups are still being made."""

    project: str
    uid: str
    display_name: str
    creator: str
    active: bool
    create_time: float


class ProjectTable:
    """Reads and writes projects inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection

    async def find(self, project: str) -> ProjectRow | None:
        """Return a project in any state."""
        row = (await self._connection.execute(sa.select(projects).where(projects.c.project == project))).first()
        return ProjectRow(**row._mapping) if row else None

    async def add(self, row: ProjectRow) -> None:
        """Write a new project."""
        await self._connection.execute(projects.insert().values(**row.__dict__))

    async def activate(self, project: str) -> None:
        """Say that the project's groups are there."""
        await self._connection.execute(projects.update().where(projects.c.project == project).values(active=True))

    async def page(self, ids: list[str], after: str, limit: int) -> list[ProjectRow]:
        """Return active projects that have one of these ids, by id, after one of them."""
        wanted = sorted(each for each in ids if each > after)
        found: list[ProjectRow] = []
        for start in range(0, len(wanted), 1000):
            query = (
                sa.select(projects)
                .where(projects.c.project.in_(wanted[start : start + 1000]), projects.c.active)
                .order_by(projects.c.project)
            )
            found += [ProjectRow(**row._mapping) for row in await self._connection.execute(query)]
            if len(found) >= limit:
                break
        return found[:limit]
