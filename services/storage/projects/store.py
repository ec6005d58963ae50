"""Projects in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, String, Text

from loupe.lifetimes import THERE
from services.storage.database.lifetimes import Lifetime, lifetime_columns, visible
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.projects.quotas import Usage

projects = sa.Table(
    "projects",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("creator", String(128), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("create_time", Float, nullable=False),
    # What the project holds; it changes in the transactions that write and remove the rows of pictures and blobs.
    Column("pictures", BigInteger, nullable=False, server_default="0"),
    Column("picture_bytes", BigInteger, nullable=False, server_default="0"),
    Column("blobs", BigInteger, nullable=False, server_default="0"),
    Column("blob_bytes", BigInteger, nullable=False, server_default="0"),
    # The quota of its own, 0 for no limit; null where storage's settings hold.
    Column("max_pictures", BigInteger),
    Column("max_bytes", BigInteger),
    *lifetime_columns(),
)

_ROW = projects.c[
    "project", "uid", "display_name", "creator", "active", "create_time", "delete_time", "expire_time", "purged"
]
_USAGE = projects.c["pictures", "picture_bytes", "blobs", "blob_bytes"]
_QUOTA = projects.c["max_pictures", "max_bytes"]


@dataclass(frozen=True)
class ProjectRow(Lifetime):
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

    async def find(self, project: str, *, lock: bool = False) -> ProjectRow | None:
        """Return a project in any state; with lock, nobody else deletes or restores it before this transaction ends."""
        query = sa.select(*_ROW).where(projects.c.project == project)
        query = query.with_for_update(key_share=True) if lock else query
        row = (await self._connection.execute(query)).first()
        return ProjectRow(**row._mapping) if row else None

    async def set_lifetime(self, row: ProjectRow, lifetime: Lifetime) -> ProjectRow:
        """Delete or restore a project and return it."""
        update = projects.update().where(projects.c.project == row.project)
        await self._connection.execute(update.values(**lifetime.__dict__))
        return replace(row, **lifetime.__dict__)

    async def deleted(self) -> list[str]:
        """Return the projects that are deleted and can be restored."""
        restorable = projects.c.delete_time.is_not(None) & (projects.c.purged == THERE)
        return list((await self._connection.execute(sa.select(projects.c.project).where(restorable))).scalars())

    async def add(self, row: ProjectRow) -> None:
        """Write a new project."""
        await self._connection.execute(projects.insert().values(**row.__dict__))

    async def activate(self, project: str) -> None:
        """Say that the project's groups are there."""
        await self._connection.execute(projects.update().where(projects.c.project == project).values(active=True))

    async def page(self, ids: list[str], after: str, limit: int, *, show_deleted: bool = False) -> list[ProjectRow]:
        """Return active projects that have one of these ids, by id, after one of them; see DatasetTable.page."""
        wanted = sorted(each for each in ids if each > after)
        found: list[ProjectRow] = []
        for start in range(0, len(wanted), 1000):
            query = (
                sa.select(*_ROW)
                .where(projects.c.project.in_(wanted[start : start + 1000]), projects.c.active)
                .where(visible(projects, show_deleted=show_deleted))
                .order_by(projects.c.project)
            )
            found += [ProjectRow(**row._mapping) for row in await self._connection.execute(query)]
            if len(found) >= limit:
                break
        return found[:limit]

    async def usage(self, project: str, *, lock: bool = False) -> tuple[Usage, int | None, int | None]:
        """Return what a project holds, and its own quota of pictures and of bytes; nothing for one that is not there.

        lock: nobody else changes them before this transaction ends.
        """
        query = sa.select(*_USAGE, *_QUOTA).where(projects.c.project == project)
        # Rows that refer to the project may still be written meanwhile: its key does not change.
        query = query.with_for_update(key_share=True) if lock else query
        row = (await self._connection.execute(query)).first()
        return (Usage(*row[:4]), row[4], row[5]) if row else (Usage(), None, None)

    async def count(self, project: str, **more: int) -> None:
        """Add to what a project holds: pictures, picture_bytes, blobs, blob_bytes; what goes is negative."""
        values = {name: projects.c[name] + number for name, number in more.items()}
        await self._connection.execute(projects.update().where(projects.c.project == project).values(**values))

    async def set_quota(self, project: str, quota: Mapping[str, int]) -> None:
        """Set max_pictures, max_bytes or both."""
        await self._connection.execute(projects.update().where(projects.c.project == project).values(**quota))
