"""Packs: many small pictures appended to one file, because creating files is what costs, not writing them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from loupe.concurrency import shielded
from loupe.errors import BlobMissing, DataLoss
from services.storage.database.session import Database
from services.storage.files.disk import Disk, full_disk_is_exhaustion
from services.storage.files.files import Files, Range, read_ranges
from services.storage.pictures.store import PackRow, PictureRow, PictureTable

log = structlog.get_logger(__name__)

_WRITTEN_AT_ONCE = 8 << 20


@dataclass
class _OpenPack:
    name: str
    project: str
    path: Path
    descriptor: int
    end: int
    unindexed: int = 0
    full: bool = False


@dataclass(frozen=True)
class Placed:
    """Says where appended pictures stand: durable in the pack's file, to be indexed now."""

    pack: PackRow
    positions: list[int]


@dataclass
class _Project:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: _OpenPack | None = None


class Packs:
    """Appends pictures to the current pack of each project, and reads them back, checked.

    An open pack is a local file in `folder`; at `pack_bytes` it is sealed: moved to the finished files under "packs/".
    """

    def __init__(self, folder: Path, files: Files, disk: Disk, database: Database, pack_bytes: int) -> None:
        self.folder = folder
        self._files = files
        self._disk = disk
        self._database = database
        self._pack_bytes = pack_bytes
        self._projects: defaultdict[str, _Project] = defaultdict(_Project)
        self._sealing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def append(self, project: str, pictures: Sequence[bytes]) -> AsyncIterator[Placed]:
        """Make the pictures durable with one sync; the block is to index them in the database.

        What is not indexed when the process dies is cut off at the next start. Raises ResourceExhausted.
        """
        state = self._projects[project]
        size = sum(len(picture) for picture in pictures)
        async with state.lock:
            pack = state.current
            if pack is None:
                pack = state.current = await asyncio.to_thread(self._create, project)
            start = pack.end
            await shielded(asyncio.to_thread(self._write, pack, pictures, size))
            pack.end += size
            pack.unindexed += 1
            if pack.end >= self._pack_bytes:
                pack.full, state.current = True, None
        positions = [start]
        for picture in pictures[:-1]:
            positions.append(positions[-1] + len(picture))
        try:
            yield Placed(PackRow(pack.name, project, start + size, False), positions)
        finally:
            pack.unindexed -= 1
            if pack.full and not pack.unindexed:
                self._seal_soon(pack)

    def _create(self, project: str) -> _OpenPack:
        name = uuid.uuid4().hex
        path = self.folder / name
        with full_disk_is_exhaustion():
            return _OpenPack(name, project, path, self._disk.create(path), 0)

    def _write(self, pack: _OpenPack, pictures: Sequence[bytes], size: int) -> None:
        self._disk.require_space(self.folder, size)
        try:
            with full_disk_is_exhaustion():
                position = pack.end
                for data in _joined(pictures):
                    self._disk.write(pack.descriptor, data, position)
                    position += len(data)
                self._disk.sync(pack.descriptor)
        except BaseException:
            os.ftruncate(pack.descriptor, pack.end)
            raise

    async def seal_current(self, project: str, pack: str) -> None:
        """Seal a pack before it is full; nothing happens when it is not the one that grows, or is being appended to."""
        state = self._projects[project]
        async with state.lock:
            current = state.current
            if current is None or current.name != pack or current.unindexed:
                return
            state.current = None
            await shielded(self._seal(current))

    def _seal_soon(self, pack: _OpenPack) -> None:
        task = asyncio.create_task(self._seal(pack), name=f"seal-{pack.name}")
        self._sealing.add(task)
        task.add_done_callback(self._sealing.discard)

    async def _seal(self, pack: _OpenPack) -> None:
        os.close(pack.descriptor)
        try:
            await self._files.publish(pack.path, pack_key(pack.project, pack.name))
            async with self._database.write() as session:
                await PictureTable(session).seal(pack.name)
        except Exception:
            # Its pictures stay readable where they are; the next start seals it.
            log.exception("a pack could not be sealed", pack=pack.name, project=pack.project)

    async def read(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        """Return the pictures in the order of the rows, also of rows that were read before their packs were compacted.

        Raises DataLoss when one is not what was stored, BlobMissing when one was removed meanwhile.
        """
        while True:
            try:
                found = await self._read_rows(project, rows)
            except FileNotFoundError as error:
                moved = await self._locate_anew(project, rows)
                if moved == list(rows):
                    log.exception("a pack is lost", project=project)
                    raise DataLoss("the file that held stored pictures is gone", pack=rows[0].pack) from error
                rows = moved
            else:
                await asyncio.to_thread(_verify, rows, found)
                return found

    async def _locate_anew(self, project: str, rows: Sequence[PictureRow]) -> list[PictureRow]:
        async with self._database.read() as session:
            located = await PictureTable(session).locate(project, [row.digest for row in rows])
        if missing := [row.digest for row in rows if row.digest not in located]:
            message = f"{len(missing)} of the pictures were removed while they were read"
            raise BlobMissing(message, digest=missing[0], count=len(missing))
        return [located[row.digest] for row in rows]

    async def _read_rows(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        by_pack: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            by_pack[row.pack, row.sealed].append(number)
        found: list[bytes] = [b""] * len(rows)
        for (pack, sealed), numbers in by_pack.items():
            ranges = [(rows[number].position, rows[number].size) for number in numbers]
            for number, data in zip(numbers, await self._read(project, pack, sealed, ranges), strict=True):
                found[number] = data
        return found

    async def _read(self, project: str, pack: str, sealed: bool, ranges: Sequence[Range]) -> list[bytes]:
        if not sealed:
            try:
                return await asyncio.to_thread(read_ranges, self.folder / pack, ranges)
            except FileNotFoundError:
                pass  # it was sealed since the row was read
        return await self._files.read(pack_key(project, pack), ranges)

    async def recover(self) -> None:
        """Bring files and index together after a start: what was not indexed goes, seals are finished."""
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        async with self._database.read() as session:
            rows = await PictureTable(session).open_packs()
        for row in rows:
            await self._recover(row)
        known = {row.pack for row in rows}
        for path in await asyncio.to_thread(lambda: list(self.folder.iterdir())):
            if path.name not in known:
                log.info("removed a pack that was never indexed", pack=path.name)
                await asyncio.to_thread(path.unlink)
        async with self._database.read() as session:
            known = set(await PictureTable(session).packs_in_use())
        for key in await self._files.keys("packs"):
            if key.rpartition("/")[2] not in known:
                log.info("removed a pack in which no picture stands", key=key)
                await self._files.delete(key)

    async def remove_unused(self, project: str, packs: Sequence[str]) -> None:
        """Remove the finished files of those of the packs in which no picture stands by the database."""
        async with self._database.read() as session:
            known = set(await PictureTable(session).packs_in_use(packs))
        for pack in packs:
            if pack not in known:
                await self._files.delete(pack_key(project, pack))

    async def _recover(self, row: PackRow) -> None:
        path = self.folder / row.pack
        if not await asyncio.to_thread(path.is_file):
            if await self._files.exists(pack_key(row.project, row.pack)):
                async with self._database.write() as session:
                    await PictureTable(session).seal(row.pack)
            else:
                log.error("a pack is lost", pack=row.pack, project=row.project)
            return
        pack = await asyncio.to_thread(self._reopen, row, path)
        state = self._projects[row.project]
        if row.length >= self._pack_bytes or pack.end < row.length or state.current is not None:
            await self._seal(pack)
        else:
            state.current = pack

    def _reopen(self, row: PackRow, path: Path) -> _OpenPack:
        descriptor = self._disk.create(path)
        size = os.fstat(descriptor).st_size
        if size > row.length:
            log.info("cut off what was never indexed", pack=row.pack, bytes=size - row.length)
            os.ftruncate(descriptor, row.length)
            self._disk.sync(descriptor)
        elif size < row.length:
            log.error("a pack is shorter than its index", pack=row.pack, missing=row.length - size)
        return _OpenPack(row.pack, row.project, path, descriptor, min(size, row.length))

    async def close(self) -> None:
        """Wait for running seals and close the files."""
        await asyncio.gather(*self._sealing)
        for state in self._projects.values():
            if state.current is not None:
                os.close(state.current.descriptor)
                state.current = None


def _joined(pictures: Sequence[bytes]) -> Iterator[bytes]:
    """Join small pictures, so that they are written at once; a large one is not copied."""
    small: list[bytes] = []
    size = 0
    for picture in pictures:
        if small and size + len(picture) > _WRITTEN_AT_ONCE:
            yield b"".join(small)
            small, size = [], 0
        small.append(picture)
        size += len(picture)
    yield b"".join(small)


def pack_key(project: str, pack: str) -> str:
    """Return the key of a finished pack."""
    return f"packs/{project}/{pack}"


def _verify(rows: Sequence[PictureRow], found: Sequence[bytes]) -> None:
    for row, data in zip(rows, found, strict=True):
        if hashlib.sha256(data).hexdigest() != row.digest:
            log.error("stored bytes have changed", digest=row.digest, pack=row.pack)
            raise DataLoss("stored bytes are no longer what was stored; upload the file again", digest=row.digest)
