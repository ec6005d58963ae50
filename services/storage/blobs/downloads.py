"""Giving bytes back: many small pictures to a message, large ones in chunks, all of them checked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from loupe.byte_budget import ByteBudget, Hold, Parties
from loupe.errors import BlobMissing, DataLoss, ResourceExhausted, invalid
from loupe.identity import AttemptGrant
from loupe.names import ProjectName
from services.storage.blobs.blobs import USE_SECONDS, blob_file, check_digests
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import BlobRow, BlobTable
from services.storage.database.session import Database
from services.storage.files.chunks import CHUNK, READ_AHEAD, read_chunks
from services.storage.files.files import Files
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import PictureRow, PictureTable
from services.storage.projects.projects import find_project

log = structlog.get_logger(__name__)

Located = PictureRow | BlobRow


@dataclass(frozen=True)
class Chunk:
    """Part of a blob, or a whole small one: its bytes begin at `offset` of `size`."""

    digest: str
    offset: int
    size: int
    data: bytes


@dataclass(frozen=True)
class _Started:
    """A group of blobs, the room that they take, and the reading of those of them that are pictures."""

    group: list[Located]
    hold: Hold
    reading: asyncio.Task[list[bytes]]


class Downloads:
    """Reads what one project has.

    budget: memory for what was read and is not sent yet. now: wall-clock seconds.
    """

    def __init__(
        self, database: Database, packs: Packs, files: Files, budget: ByteBudget, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._now = now
        self._packs = packs
        self._files = files
        self._budget = budget

    async def read(
        self,
        project: ProjectName,
        digests: Sequence[str],
        offset: int,
        grant: AttemptGrant | None = None,
        who: Parties = (),
    ) -> AsyncGenerator[list[Chunk], None]:
        """Yield messages of about 1 MiB: the blobs in the order asked for, the first from an offset on.

        who: for whom the bytes are counted. A reader that takes nothing for too long while others wait is cut off.
        Raises BlobMissing before anything is sent when the project lacks one, DataLoss before a damaged one,
        StaleAttempt.
        """
        located = await self._locate(project.project, check_digests(digests), grant)
        if not located:
            return
        if not 0 <= offset <= located[0].size:
            raise invalid("offset", offset, f"0 to the first blob's size, {located[0].size}")
        groups = _groups(located)
        started: deque[_Started] = deque()
        following: list[Located] | None = next(groups)
        try:
            while started or following:
                if following and not started:
                    started.append(self._start(project.project, following, await self._take(who, following)))
                    following = next(groups, None)
                # The next group is read ahead if there is room for it, and waited for only with empty hands.
                if following and (hold := self._budget.try_take(who, _size(following))) is not None:
                    started.append(self._start(project.project, following, hold))
                    following = next(groups, None)
                async for message in self._messages(project.project, started[0], offset):
                    with started[0].hold.waiting_for_peer():
                        yield message
                started.popleft().hold.release()
                offset = 0
        finally:
            for each in started:
                each.hold.release()
                each.reading.cancel()
            await asyncio.gather(*(each.reading for each in started), return_exceptions=True)

    async def _take(self, who: Parties, group: list[Located]) -> Hold:
        return await self._budget.take(who, _size(group))

    async def _locate(self, project: str, digests: Sequence[str], grant: AttemptGrant | None) -> list[Located]:
        async with self._database.read() as session:
            await find_project(session, ProjectName(project))
            await require_current(session, grant)
            found: dict[str, Located] = {**await PictureTable(session).locate(project, digests)}
            left = [digest for digest in digests if digest not in found]
            if left:
                found |= await BlobTable(session).locate(project, left)
        missing = [digest for digest in digests if digest not in found]
        if missing:
            message = f"{len(missing)} of the {len(digests)} blobs are not in this project"
            raise BlobMissing(message, digest=missing[0], count=len(missing))
        await self._note_use(project, [row for row in found.values() if isinstance(row, BlobRow)], grant)
        return [found[digest] for digest in digests]

    async def _note_use(self, project: str, rows: Sequence[BlobRow], grant: AttemptGrant | None) -> None:
        """Keep blobs that are read from being collected; on a full disk they can still be read.

        Those of another job that an attempt reads, as weights to start from, no longer go with that job's model.
        """
        now = self._now()
        unused = [row.digest for row in rows if row.use_time < now - USE_SECONDS]
        borrowed = [row.digest for row in rows if grant and row.job not in (None, str(grant.job))]
        if not unused and not borrowed:
            return
        try:
            async with self._database.write() as session:
                await BlobTable(session).note_use(project, unused, now)
                await BlobTable(session).keep(project, borrowed)
        except ResourceExhausted as error:
            log.warning("that blobs are used was not written down", project=project, problem=error.message)

    def _start(self, project: str, group: list[Located], hold: Hold) -> _Started:
        """Read a group while the one before it is sent; a large blob is read only as it is sent."""
        pictures = [row for row in group if isinstance(row, PictureRow)]
        return _Started(group, hold, asyncio.create_task(self._read_pictures(project, pictures)))

    async def _read_pictures(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        try:
            return await self._packs.read(project, rows)
        except DataLoss as error:
            if digest := error.digest:
                async with self._database.write() as session:
                    await PictureTable(session).set_damaged(project, [digest])
            raise

    async def _messages(self, project: str, started: _Started, offset: int) -> AsyncIterator[list[Chunk]]:
        group = started.group
        first = group[0]
        found = await started.reading
        if isinstance(first, BlobRow):
            async for position, data in read_chunks(self._files, blob_file(project, first), offset):
                yield [Chunk(first.digest, position, first.size, data)]
            if offset == first.size:
                yield [Chunk(first.digest, offset, first.size, b"")]
        elif len(group) == 1:
            for start in range(offset, max(first.size, offset + 1), CHUNK):
                yield [Chunk(first.digest, start, first.size, found[0][start : start + CHUNK])]
        else:
            chunks = [Chunk(row.digest, 0, row.size, data) for row, data in zip(group, found, strict=True)]
            chunks[0] = Chunk(first.digest, offset, first.size, found[0][offset:])
            yield chunks


def _size(group: Sequence[Located]) -> int:
    """Return the bytes of a group that are in memory at a time."""
    if isinstance(group[0], BlobRow):
        return min(group[0].size, READ_AHEAD * CHUNK)
    return sum(row.size for row in group)


def _groups(rows: Sequence[Located]) -> Iterator[list[Located]]:
    """Put neighbouring pictures of up to about 1 MiB together; a large blob stands alone."""
    group: list[Located] = []
    size = 0
    for row in rows:
        if group and (isinstance(row, BlobRow) or isinstance(group[-1], BlobRow) or size + row.size > CHUNK):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.size
    if group:
        yield group
