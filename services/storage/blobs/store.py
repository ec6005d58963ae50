"""Large blobs in the database, what holds them, and the fences that refuse stale writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, String

from services.storage.database.array_parameter import ArrayParameter
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.pictures.store import DAMAGED, pictures
from services.storage.projects.store import ProjectTable, projects

blobs = sa.Table(
    "blobs",
    metadata,
    Column("project", ForeignKey(projects.c.project), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # The sha256 of every chunk of 1 MiB, one after the other: what is read is checked chunk by chunk.
    Column("piece_digests", LargeBinary, key="chunk_digests", nullable=False),
    # job is set while only a training attempt of that job has uploaded it; such a blob goes with its checkpoint.
    Column("job", String(160)),
    # use_time is when somebody asked for it, to the day: what nothing holds is removed some time after that.
    Column("use_time", Float, nullable=False, server_default="0"),
)

CHECKPOINT, MODEL, PARAMETERS = "checkpoint", "model", "parameters"
"""What holds blobs: a job's checkpoint, a model version that consists of them, and one that was made with them."""

# held_blobs says which blobs something holds: a job, or a model version, by its name.
held_blobs = sa.Table(
    "held_blobs",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("holder", String(200), primary_key=True),
    Column("filename", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    sa.ForeignKeyConstraint(["project", "digest"], [blobs.c.project, blobs.c.digest]),
    sa.Index("held_blobs_by_digest", "project", "digest"),
)

# held_pictures says the same of files that the project has as pictures.
held_pictures = sa.Table(
    "held_pictures",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("holder", String(200), primary_key=True),
    Column("filename", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    sa.Index("held_pictures_by_digest", "project", "digest"),
)

fences = sa.Table(
    "fences",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("attempt", Integer, nullable=False),
)


@dataclass(frozen=True)
class BlobRow:
    """A blob that stands alone; chunk_digests are the 32-byte sha256 of its chunks of 1 MiB, joined."""

    digest: str
    size: int
    chunk_digests: bytes
    job: str | None = None
    use_time: float = 0.0


@dataclass(frozen=True)
class Holder:
    """What holds blobs: CHECKPOINT, MODEL or PARAMETERS, and the resource name of the job or the model version."""

    project: str
    kind: str
    name: str


@cache
def _missing(listed: sa.ColumnElement[str]) -> sa.Select[str]:
    """Select what is listed and not there; built once, as building it takes as long as running it."""
    project, job = sa.bindparam("project", type_=sa.String), sa.bindparam("job", type_=sa.String)
    lasting = blobs.c.job.is_(None) | (blobs.c.job == job)
    blob = sa.exists().where(blobs.c.project == project, blobs.c.digest == listed, lasting)
    picture = sa.exists().where(pictures.c.project == project, pictures.c.digest == listed, pictures.c.state != DAMAGED)
    return sa.select(listed).where(~picture, ~blob)


class BlobTable:
    """Reads and writes blobs, holders and fences inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection

    async def missing(self, project: str, digests: Sequence[str], job: str | None) -> set[str]:
        """Return those of the digests that the project has neither as whole pictures nor as blobs that last.

        Blobs of this job last for it; those of other jobs go with their checkpoints.
        """
        array = ArrayParameter(self._session, digests)
        parameters = {**array.parameters, "project": project, "job": job}
        return set((await self._connection.execute(_missing(array.value), parameters)).scalars())

    async def known(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the digests that the project has as blobs."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(blobs.c.digest).where(blobs.c.project == project, blobs.c.digest.in_(array.values))
        return set((await self._connection.execute(query, array.parameters)).scalars())

    async def locate(self, project: str, digests: Sequence[str]) -> dict[str, BlobRow]:
        """Return these blobs; those that are not there are left out."""
        array = ArrayParameter(self._session, digests)
        columns = blobs.c["digest", "size", "chunk_digests", "job", "use_time"]
        query = sa.select(*columns).where(blobs.c.project == project, blobs.c.digest.in_(array.values))
        return {row[0]: BlobRow(*row) for row in await self._connection.execute(query, array.parameters)}

    async def add(self, project: str, row: BlobRow) -> None:
        """Write a blob, and count it."""
        await self._connection.execute(blobs.insert().values(project=project, **row.__dict__))
        await ProjectTable(self._session).count(project, blobs=1, blob_bytes=row.size)

    async def unused_since(self, project: str, digests: Sequence[str], before: float) -> list[str]:
        """Return those of the blobs that nobody asked for since then."""
        array = ArrayParameter(self._session, digests)
        key = (blobs.c.project == project) & (blobs.c.use_time < before) & blobs.c.digest.in_(array.values)
        return list((await self._connection.execute(sa.select(blobs.c.digest).where(key), array.parameters)).scalars())

    async def note_use(self, project: str, digests: Sequence[str], time: float) -> None:
        """Say that somebody asked for the blobs."""
        array = ArrayParameter(self._session, digests)
        key = (blobs.c.project == project) & blobs.c.digest.in_(array.values)
        await self._connection.execute(blobs.update().where(key).values(use_time=time), array.parameters)

    async def keep(self, project: str, digests: Sequence[str]) -> None:
        """Take blobs away from the jobs that uploaded them, so that they stay when the checkpoints go."""
        array = ArrayParameter(self._session, digests)
        key = (blobs.c.project == project) & blobs.c.digest.in_(array.values)
        await self._connection.execute(blobs.update().where(key).values(job=None), array.parameters)

    async def hold(
        self, holder: Holder, files: Sequence[tuple[str, str]], as_pictures: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Write what a holder consists of: (filename, digest), in place of what it held before.

        as_pictures: those that the project has as pictures only.
        """
        key = {"project": holder.project, "kind": holder.kind, "holder": holder.name}
        for table, held in ((held_blobs, files), (held_pictures, as_pictures)):
            mine = (table.c.project == holder.project) & (table.c.kind == holder.kind)
            await self._connection.execute(table.delete().where(mine, table.c.holder == holder.name))
            if values := [{**key, "filename": filename, "digest": digest} for filename, digest in held]:
                await self._connection.execute(table.insert(), values)

    async def drop_unheld(self, project: str, job: str, digests: Sequence[str]) -> list[str]:
        """Remove those of the blobs that only this job uploaded and that nothing holds; return them."""
        array = ArrayParameter(self._session, digests)
        held = sa.select(held_blobs.c.digest).where(held_blobs.c.project == project)
        key = (
            (blobs.c.project == project)
            & (blobs.c.job == job)
            & blobs.c.digest.in_(array.values)
            & blobs.c.digest.not_in(held)
        )
        query = blobs.delete().where(key).returning(blobs.c.digest, blobs.c.size)
        dropped = (await self._connection.execute(query, array.parameters)).all()
        size = sum(row.size for row in dropped)
        await ProjectTable(self._session).count(project, blobs=-len(dropped), blob_bytes=-size)
        return [row.digest for row in dropped]

    async def held(self, project: str) -> dict[str, tuple[int, int]]:
        """Return by kind of holder how many blobs are part of one, each once, and their bytes."""
        each = sa.select(held_blobs.c.kind, held_blobs.c.digest).where(held_blobs.c.project == project).distinct()
        listed = each.subquery()
        query = (
            sa.select(listed.c.kind, sa.func.count(), sa.func.sum(blobs.c.size))
            .join(blobs, (blobs.c.project == project) & (blobs.c.digest == listed.c.digest))
            .group_by(listed.c.kind)
        )
        return {kind: (count, int(size)) for kind, count, size in await self._connection.execute(query)}

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
