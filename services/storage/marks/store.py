"""Marks in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy import Column, Float, String
from sqlalchemy.dialects import postgresql, sqlite

from services.storage.database.array_parameter import ArrayParameter
from services.storage.database.metadata import metadata
from services.storage.database.session import Session

picture_marks = sa.Table(
    "picture_marks",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    # time is when it was found that nothing names the picture, in wall-clock seconds.
    Column("time", Float, nullable=False),
)


class MarkTable:
    """Reads and writes marks inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection

    async def any(self, project: str) -> bool:
        """Say whether any picture of the project is marked."""
        query = sa.select(picture_marks.c.digest).where(picture_marks.c.project == project).limit(1)
        return (await self._connection.execute(query)).first() is not None

    async def marked(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the digests that are marked."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(picture_marks.c.digest).where(
            picture_marks.c.project == project, picture_marks.c.digest.in_(array.values)
        )
        return set((await self._connection.execute(query, array.parameters)).scalars())

    async def mark(self, project: str, digests: Iterable[str], time: float) -> None:
        """Mark pictures; one that is marked already keeps its time."""
        insert = sqlite.insert if self._connection.dialect.name == "sqlite" else postgresql.insert
        values = [{"project": project, "digest": digest, "time": time} for digest in digests]
        await self._connection.execute(insert(picture_marks).on_conflict_do_nothing(), values)

    async def clear(self, project: str, digests: Sequence[str]) -> None:
        """Take marks away."""
        array = ArrayParameter(self._session, digests)
        key = (picture_marks.c.project == project) & picture_marks.c.digest.in_(array.values)
        await self._connection.execute(picture_marks.delete().where(key), array.parameters)

    async def due(self, project: str, before: float, limit: int) -> list[str]:
        """Return pictures that were marked before a time; until this transaction ends, nobody takes the marks away."""
        query = (
            sa.select(picture_marks.c.digest)
            .where(picture_marks.c.project == project, picture_marks.c.time < before)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return list((await self._connection.execute(query)).scalars())
