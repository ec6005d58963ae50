"""The algorithm image library in the database."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, String

from loupe.lifetimes import THERE
from loupe.names import AlgorithmVersionName
from services.storage.database.lifetimes import Lifetime, lifetime_columns, visible
from services.storage.database.metadata import metadata
from services.storage.database.session import Session

versions = sa.Table(
    "algorithm_versions",
    metadata,
    Column("algorithm", String(63), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("sequence", Integer, nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("piece_digests", LargeBinary, key="chunk_digests", nullable=False),
    # newest is true for one version of each algorithm that has any which is not deleted.
    Column("newest", Boolean, nullable=False),
    # document is the loupe.storage.v1.AlgorithmVersion, encoded.
    Column("document", LargeBinary, nullable=False),
    *lifetime_columns(),
    sa.Index("algorithm_digests", "digest"),
)


@dataclass(frozen=True)
class AlgorithmRow(Lifetime):
    """A version of an algorithm; sequence counts up over the whole library.

    document is the contract's AlgorithmVersion, encoded.
    """

    algorithm: str
    version: str
    sequence: int
    digest: str
    size: int
    chunk_digests: bytes
    document: bytes

    @property
    def name(self) -> AlgorithmVersionName:
        """Its resource name."""
        return AlgorithmVersionName(self.algorithm, self.version)


_SELECT = sa.select(*(column.label(key) for key, column in versions.c.items() if key != "newest"))


class AlgorithmTable:
    """Reads and writes the library inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection

    async def find(self, algorithm: str, version: str) -> AlgorithmRow | None:
        """Return a version, deleted or not; "latest" is the one that joined last of those that are not."""
        which = versions.c.newest if version == "latest" else versions.c.version == version
        row = (await self._connection.execute(_SELECT.where(versions.c.algorithm == algorithm, which))).first()
        return AlgorithmRow(**row._mapping) if row else None

    async def has_digest(self, digest: str) -> bool:
        """Say whether any version that is not purged has this image."""
        query = sa.select(versions.c.sequence).where(versions.c.digest == digest, versions.c.purged == THERE)
        return (await self._connection.execute(query.limit(1))).first() is not None

    async def next_sequence(self) -> int:
        """Return the number of the version that joins next."""
        query = sa.select(sa.func.coalesce(sa.func.max(versions.c.sequence), 0) + 1)
        number: int = (await self._connection.execute(query)).scalar_one()
        return number

    async def add(self, row: AlgorithmRow) -> None:
        """Write a version and make it the newest of its algorithm."""
        older = versions.update().where(versions.c.algorithm == row.algorithm, versions.c.newest)
        await self._connection.execute(older.values(newest=False))
        await self._connection.execute(versions.insert().values(newest=True, **row.__dict__))

    async def remove(self, row: AlgorithmRow) -> None:
        """Remove a version."""
        key = (versions.c.algorithm == row.algorithm) & (versions.c.version == row.version)
        await self._connection.execute(versions.delete().where(key))

    async def algorithms(self) -> list[str]:
        """Return the ids of all algorithms."""
        return list((await self._connection.execute(sa.select(versions.c.algorithm).distinct())).scalars())

    async def set_newest(self, algorithm: str, sequence: int | None) -> None:
        """Make one version of an algorithm the newest, or none."""
        newest = versions.c.sequence == sequence if sequence is not None else sa.false()
        await self._connection.execute(versions.update().where(versions.c.algorithm == algorithm).values(newest=newest))

    async def replace_document(self, row: AlgorithmRow, document: bytes) -> None:
        """Change what is said about a version; never its image."""
        key = (versions.c.algorithm == row.algorithm) & (versions.c.version == row.version)
        await self._connection.execute(versions.update().where(key).values(document=document))

    async def set_lifetime(self, row: AlgorithmRow, lifetime: Lifetime) -> AlgorithmRow:
        """Delete or restore a version and return it."""
        key = (versions.c.algorithm == row.algorithm) & (versions.c.version == row.version)
        await self._connection.execute(versions.update().where(key).values(**lifetime.__dict__))
        return replace(row, **lifetime.__dict__)

    async def extend(self, row: AlgorithmRow, expire_time: float) -> None:
        """Let a deleted version expire later."""
        key = (versions.c.algorithm == row.algorithm) & (versions.c.version == row.version)
        later = versions.update().where(key, versions.c.expire_time < expire_time)
        await self._connection.execute(later.values(expire_time=expire_time))

    async def page_newest(self, after: str, limit: int, *, show_deleted: bool = False) -> list[AlgorithmRow]:
        """Return the newest version of each algorithm, by algorithm id; with show_deleted the one that joined last."""
        joined_last = sa.select(sa.func.max(versions.c.sequence)).where(versions.c.purged == THERE)
        last = versions.c.sequence.in_(joined_last.group_by(versions.c.algorithm))
        query = _SELECT.where(last if show_deleted else versions.c.newest, versions.c.algorithm > after)
        rows = await self._connection.execute(query.order_by(versions.c.algorithm).limit(limit))
        return [AlgorithmRow(**row._mapping) for row in rows]

    async def page_versions(
        self, algorithm: str, before: int, limit: int, *, show_deleted: bool = False
    ) -> list[AlgorithmRow]:
        """Return an algorithm's versions, newest first; deleted ones only when they are asked for."""
        query = _SELECT.where(versions.c.algorithm == algorithm, versions.c.sequence < before)
        query = query.where(visible(versions, show_deleted=show_deleted))
        rows = await self._connection.execute(query.order_by(versions.c.sequence.desc()).limit(limit))
        return [AlgorithmRow(**row._mapping) for row in rows]
