"""Large blobs in the database, what holds them, and the fences that refuse stale writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.storage.database.array_parameter import Among
from services.storage.database.schema import blobs, fences, held_blobs, pictures
from services.storage.pictures.store import DAMAGED


@dataclass(frozen=True)
class BlobRow:
    """A blob that stands alone; piece_digests are the 32-byte sha256 of its pieces of 1 MiB, joined."""

    digest: str
    size: int
    piece_digests: bytes
    job: str | None = None


@dataclass(frozen=True)
class Holder:
    """What a blob is part of: kind "checkpoint" or "model", and its resource name."""

    project: str
    kind: str
    name: str


@cache
def _missing(listed: sa.ColumnElement[str]) -> sa.Select[tuple[str]]:
    """Select what is listed and not there; built once, as building it takes as long as running it."""
    project, job = sa.bindparam("project", type_=sa.String), sa.bindparam("job", type_=sa.String)
    lasting = blobs.c.job.is_(None) | (blobs.c.job == job)
    blob = sa.exists().where(blobs.c.project == project, blobs.c.digest == listed, lasting)
    picture = sa.exists().where(pictures.c.project == project, pictures.c.digest == listed, pictures.c.state != DAMAGED)
    return sa.select(listed).where(~picture, ~blob)


class BlobTable:
    """Reads and writes blobs, holders and fences inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def missing(self, project: str, digests: Sequence[str], job: str | None) -> set[str]:
        """Return those of the digests that the project has neither as whole pictures nor as blobs that last.

        Blobs of this job last for it; those of other jobs go with their checkpoints.
        """
        among = Among(self._connection, digests)
        parameters = {**among.parameters, "project": project, "job": job}
        return set((await self._connection.execute(_missing(among.value), parameters)).scalars())

    async def known(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the digests that the project has as blobs."""
        among = Among(self._connection, digests)
        query = sa.select(blobs.c.digest).where(blobs.c.project == project, blobs.c.digest.in_(among.values))
        return set((await self._connection.execute(query, among.parameters)).scalars())

    async def locate(self, project: str, digests: Sequence[str]) -> dict[str, BlobRow]:
        """Return these blobs; those that are not there are left out."""
        among = Among(self._connection, digests)
        query = sa.select(blobs.c.digest, blobs.c.size, blobs.c.piece_digests, blobs.c.job).where(
            blobs.c.project == project, blobs.c.digest.in_(among.values)
        )
        return {row[0]: BlobRow(*row) for row in await self._connection.execute(query, among.parameters)}

    async def add(self, project: str, row: BlobRow) -> None:
        """Write a blob."""
        await self._connection.execute(blobs.insert().values(project=project, **row.__dict__))

    async def keep(self, project: str, digests: Sequence[str]) -> None:
        """Take blobs away from the jobs that uploaded them, so that they stay when the checkpoints go."""
        among = Among(self._connection, digests)
        key = (blobs.c.project == project) & blobs.c.digest.in_(among.values)
        await self._connection.execute(blobs.update().where(key).values(job=None), among.parameters)

    async def hold(self, holder: Holder, files: Sequence[tuple[str, str]]) -> None:
        """Write what a holder consists of: (filename, digest), in place of what it held before."""
        mine = (held_blobs.c.project == holder.project) & (held_blobs.c.kind == holder.kind)
        await self._connection.execute(held_blobs.delete().where(mine, held_blobs.c.holder == holder.name))
        values = [
            {
                "project": holder.project,
                "kind": holder.kind,
                "holder": holder.name,
                "filename": filename,
                "digest": digest,
            }
            for filename, digest in files
        ]
        if values:
            await self._connection.execute(held_blobs.insert(), values)

    async def drop_unheld(self, project: str, job: str, digests: Sequence[str]) -> list[str]:
        """Remove those of the blobs that only this job uploaded and that nothing holds; return them."""
        among = Among(self._connection, digests)
        held = sa.select(held_blobs.c.digest).where(held_blobs.c.project == project)
        key = (
            (blobs.c.project == project)
            & (blobs.c.job == job)
            & blobs.c.digest.in_(among.values)
            & blobs.c.digest.not_in(held)
        )
        query = sa.select(blobs.c.digest).where(key)
        dropped = list((await self._connection.execute(query, among.parameters)).scalars())
        await self._connection.execute(blobs.delete().where(key), among.parameters)
        return dropped

    async def fence(self, job: str) -> int:
        """Return the lowest attempt of the job that may write; 0 before any was set."""
        query = sa.select(fences.c.attempt).where(fences.c.job == job)
        return (await self._connection.execute(query)).scalar_one_or_none() or 0

    async def raise_fence(self, job: str, attempt: int) -> int:
        """Set the lowest attempt that may write, never lower than it is; return what holds."""
        current = await self.fence(job)
        if current == 0:
            await self._connection.execute(fences.insert().values(job=job, attempt=attempt))
        elif attempt > current:
            await self._connection.execute(fences.update().where(fences.c.job == job).values(attempt=attempt))
        return max(current, attempt)
