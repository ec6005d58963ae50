"""Large blobs that are complete: a row in the database and a finished file, the file there before the row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from loupe.errors import ResourceExhausted
from loupe.identity import AttemptGrant
from loupe.limits import MAX_DIGESTS
from loupe.names import ProjectName, check_sha256s
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import BlobRow, BlobTable
from services.storage.database.session import Database
from services.storage.files.chunks import ChunkedFile, Measured
from services.storage.files.files import Files
from services.storage.marks.store import MarkTable
from services.storage.projects.projects import find_project
from services.storage.projects.usage import Quotas

USE_SECONDS = 24 * 3600.0
"""How far apart uses of a blob are that are written down each."""


def check_digests(digests: Sequence[str]) -> Sequence[str]:
    """Return a request's list of digests. Raises InvalidArgument, ResourceExhausted above 20,000."""
    if len(digests) > MAX_DIGESTS:
        raise ResourceExhausted(
            f"{len(digests)} digests in one request; at most {MAX_DIGESTS}", limit="digests", value=MAX_DIGESTS
        )
    return check_sha256s("digests", list(digests))


def blob_file(project: str, row: BlobRow) -> ChunkedFile:
    """Say where a blob's bytes are and what they must be."""
    return ChunkedFile(_key(project, row.digest), Measured(row.digest, row.size, row.chunk_digests))


class Blobs:
    """Knows, adds and removes the blobs of each project.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, files: Files, quotas: Quotas, now: Callable[[], float]) -> None:
        self._database = database
        self._files = files
        self._quotas = quotas
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, project: str, digest: str) -> asyncio.Lock:
        """Return what is held while a blob is added or removed."""
        return self._locks.setdefault(_key(project, digest), asyncio.Lock())

    async def find_missing(
        self, project: ProjectName, digests: Sequence[str], grant: AttemptGrant | None = None
    ) -> list[str]:
        """Return those of the digests that this project has neither as picture nor as blob. Raises StaleAttempt.

        The others are not collected for some time from now on.
        """
        wanted = check_digests(digests)
        async with self._database.read() as session:
            await find_project(session, project)
            await require_current(session, grant)
            table = BlobTable(session)
            missing = await table.missing(project.project, wanted, _job(grant))
            borrowed = await table.known(project.project, list(missing)) if missing else set()
            unused = await table.unused_since(project.project, wanted, self._now() - USE_SECONDS)
            marks = MarkTable(session)
            marked = await marks.marked(project.project, wanted) if await marks.any(project.project) else set()
        if borrowed or unused or marked:
            async with self._database.write() as session:
                table = BlobTable(session)
                await MarkTable(session).clear(project.project, list(marked))
                await table.keep(project.project, list(borrowed))
                await table.note_use(project.project, unused, self._now())
                missing = await table.missing(project.project, wanted, _job(grant))
        return [digest for digest in wanted if digest in missing]

    async def find(self, project: ProjectName, digest: str, grant: AttemptGrant | None) -> BlobRow | None:
        """Return the blob when it is there; one that somebody else asks about no longer goes with a checkpoint.

        Raises NotFound for a project that is not there, StaleAttempt.
        """
        async with self._database.read() as session:
            await find_project(session, project)
            await require_current(session, grant)
            row = (await BlobTable(session).locate(project.project, [digest])).get(digest)
        borrowed = row is not None and row.job not in (None, _job(grant))
        if row is not None and (borrowed or row.use_time < self._now() - USE_SECONDS):
            async with self._database.write() as session:
                table = BlobTable(session)
                if borrowed:
                    await table.keep(project.project, [digest])
                await table.note_use(project.project, [digest], self._now())
                row = (await table.locate(project.project, [digest])).get(digest)
        return row

    async def require_room(self, project: str, size: int) -> None:
        """Raise QuotaExceeded unless the project's quota leaves room for a blob of `size` bytes now."""
        async with self._database.read() as session:
            (await self._quotas.room(session, project)).require(size)

    async def add(self, project: str, path: Path, measured: Measured, grant: AttemptGrant | None) -> None:
        """Move a complete file to the finished ones and write its row; to be called with the blob's lock held.

        Raises StaleAttempt, ResourceExhausted, QuotaExceeded.
        """
        await self.require_room(project, measured.size)  # here already, while what came can stay
        await self._files.publish(path, _key(project, measured.digest))
        try:
            async with self._database.write() as session:
                await require_current(session, grant)
                (await self._quotas.room(session, project, lock=True)).require(measured.size)
                row = BlobRow(measured.digest, measured.size, measured.chunk_digests, _job(grant), self._now())
                await BlobTable(session).add(project, row)
        except BaseException:
            await self._remove_unknown(project, measured.digest)
            raise

    async def remove(self, project: str, digests: Sequence[str]) -> None:
        """Delete the files of blobs that are no longer in the database."""
        for digest in digests:
            async with self.lock(project, digest):
                await self._remove_unknown(project, digest)

    async def _remove_unknown(self, project: str, digest: str) -> None:
        async with self._database.read() as session:
            known = await BlobTable(session).known(project, [digest])
        if not known:
            await self._files.delete(_key(project, digest))

    async def recover(self) -> None:
        """Remove, after a start, finished files without a row."""
        for key in await self._files.keys("blobs"):
            _, project, digest = key.split("/")
            await self._remove_unknown(project, digest)


def _job(grant: AttemptGrant | None) -> str | None:
    return str(grant.job) if grant else None


def _key(project: str, digest: str) -> str:
    return f"blobs/{project}/{digest}"
