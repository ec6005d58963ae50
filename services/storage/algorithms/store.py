"""The algorithm image library in the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.storage.database.schema import algorithm_versions as versions


@dataclass(frozen=True)
class AlgorithmRow:
    """A version of an algorithm; sequence counts up over the whole library."""

    algorithm: str
    version: str
    sequence: int
    digest: str
    size: int
    piece_digests: bytes
    document: bytes


class AlgorithmTable:
    """Reads and writes the library inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, algorithm: str, version: str) -> AlgorithmRow | None:
        """Return a version; "latest" is the one that joined last."""
        which = versions.c.newest if version == "latest" else versions.c.version == version
        row = (await self._connection.execute(self._select().where(versions.c.algorithm == algorithm, which))).first()
        return AlgorithmRow(*row) if row else None

    async def has_digest(self, digest: str) -> bool:
        """Say whether any version has this image."""
        query = sa.select(versions.c.sequence).where(versions.c.digest == digest).limit(1)
        return (await self._connection.execute(query)).first() is not None

    async def next_sequence(self) -> int:
        """Return the number of the version that joins next."""
        query = sa.select(sa.func.coalesce(sa.func.max(versions.c.sequence), 0) + 1)
        return (await self._connection.execute(query)).scalar_one()

    async def add(self, row: AlgorithmRow) -> None:
        """Write a version and make it the newest of its algorithm."""
        older = versions.update().where(versions.c.algorithm == row.algorithm, versions.c.newest)
        await self._connection.execute(older.values(newest=False))
        await self._connection.execute(versions.insert().values(newest=True, **row.__dict__))

    async def replace_document(self, row: AlgorithmRow, document: bytes) -> None:
        """Change what is said about a version; never its image."""
        key = (versions.c.algorithm == row.algorithm) & (versions.c.version == row.version)
        await self._connection.execute(versions.update().where(key).values(document=document))

    async def page_newest(self, after: str, limit: int) -> list[AlgorithmRow]:
        """Return the newest version of each algorithm, by algorithm id."""
        query = self._select().where(versions.c.newest, versions.c.algorithm > after)
        rows = await self._connection.execute(query.order_by(versions.c.algorithm).limit(limit))
        return [AlgorithmRow(*row) for row in rows]

    async def page_versions(self, algorithm: str, before: int, limit: int) -> list[AlgorithmRow]:
        """Return an algorithm's versions, newest first."""
        query = self._select().where(versions.c.algorithm == algorithm, versions.c.sequence < before)
        rows = await self._connection.execute(query.order_by(versions.c.sequence.desc()).limit(limit))
        return [AlgorithmRow(*row) for row in rows]

    @staticmethod
    def _select() -> sa.Select:
        return sa.select(
            versions.c.algorithm,
            versions.c.version,
            versions.c.sequence,
            versions.c.digest,
            versions.c.size,
            versions.c.piece_digests,
            versions.c.document,
        )
