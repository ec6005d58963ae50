"""Giving bytes back: many small pictures to a message, large ones in chunks, all of them checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from loupe.errors import BlobMissing, DataLoss, invalid
from loupe.identity import AttemptGrant
from loupe.names import ProjectName
from services.storage.blobs.blobs import blob_file, check_digests
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import BlobRow, BlobTable
from services.storage.database.session import Database
from services.storage.files.chunks import CHUNK, read_chunks
from services.storage.files.files import Files
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import PictureRow, PictureTable

Located = PictureRow | BlobRow


@dataclass(frozen=True)
class Chunk:
    """Part of a blob, or a whole small one: its bytes begin at `offset` of `size`."""

    digest: str
    offset: int
    size: int
    data: bytes


_Started = tuple[list[Located], asyncio.Task[list[bytes]]]
"""A group of blobs, and the reading of those of them that are pictures."""


class Downloads:
    """Reads what one project has."""

    def __init__(self, database: Database, packs: Packs, files: Files) -> None:
        self._database = database
        self._packs = packs
        self._files = files

    async def read(
        self, project: ProjectName, digests: Sequence[str], offset: int, grant: AttemptGrant | None = None
    ) -> AsyncIterator[list[Chunk]]:
        """Yield messages of about 1 MiB: the blobs in the order asked for, the first from an offset on.

        Raises BlobMissing before anything is sent when the project lacks one, DataLoss before a damaged one,
        StaleAttempt.
        """
        located = await self._locate(project.project, check_digests(digests), grant)
        if not located:
            return
        if not 0 <= offset <= located[0].size:
            raise invalid("offset", offset, f"0 to the first blob's size, {located[0].size}")
        groups = _groups(located)
        ahead: _Started | None = self._start(project.project, next(groups))
        try:
            while ahead is not None:
                current, following = ahead, next(groups, None)
                ahead = self._start(project.project, following) if following else None
                async for message in self._messages(project.project, current, offset):
                    yield message
                offset = 0
        finally:
            if ahead is not None:
                ahead[1].cancel()
                await asyncio.gather(ahead[1], return_exceptions=True)

    async def _locate(self, project: str, digests: Sequence[str], grant: AttemptGrant | None) -> list[Located]:
        async with self._database.read() as session:
            await require_current(session, grant)
            found: dict[str, Located] = {**await PictureTable(session).locate(project, digests)}
            left = [digest for digest in digests if digest not in found]
            if left:
                found |= await BlobTable(session).locate(project, left)
        missing = [digest for digest in digests if digest not in found]
        if missing:
            message = f"{len(missing)} of the {len(digests)} blobs are not in this project"
            raise BlobMissing(message, digest=missing[0], count=len(missing))
        return [found[digest] for digest in digests]

    def _start(self, project: str, group: list[Located]) -> _Started:
        """Read a group while the one before it is sent; a large blob is read only as it is sent."""
        pictures = [row for row in group if isinstance(row, PictureRow)]
        return group, asyncio.create_task(self._read_pictures(project, pictures))

    async def _read_pictures(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        try:
            return await self._packs.read(project, rows)
        except DataLoss as error:
            if digest := error.digest:
                async with self._database.write() as session:
                    await PictureTable(session).set_damaged(project, [digest])
            raise

    async def _messages(self, project: str, started: _Started, offset: int) -> AsyncIterator[list[Chunk]]:
        group, reading = started
        first = group[0]
        found = await reading
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
