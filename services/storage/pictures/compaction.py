"""Compaction: what is left of packs that are mostly dead is copied together, and their room is given back."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence

import structlog

from loupe.concurrency import shielded
from services.storage.database.session import Database
from services.storage.files.disk import Disk, full_disk_is_exhaustion
from services.storage.files.files import Files
from services.storage.pictures.packs import Packs, pack_key
from services.storage.pictures.store import PackRow, PictureRow, PictureTable, WastefulPack

log = structlog.get_logger(__name__)

_PACKS_AT_ONCE = 64
_COPIED_AT_ONCE = 8 << 20
_ROWS_AT_ONCE = 20_000

Moves = list[tuple[PictureRow, int]]


class Compaction:
    """Rewrites packs in the folder of the open ones, whose unknown files are removed at every start.

    Of a pack that is more than half dead at most as many bytes are copied as are given back. The new pack is durable
    before the database says that pictures stand in it, and old ones go after that. Whoever reads by an older row
    meanwhile finds the old file or looks anew (`Packs.read`).
    """

    def __init__(self, packs: Packs, files: Files, disk: Disk, database: Database, pack_bytes: int) -> None:
        self._folder = packs.folder
        self._packs = packs
        self._files = files
        self._disk = disk
        self._database = database
        self._pack_bytes = pack_bytes

    async def compact(self, project: str) -> int:
        """Compact a project's packs, and return how many bytes were given back. Raises ResourceExhausted."""
        given_back, seen = 0, set[str]()
        while packs := [each for each in await self._wasteful(project) if each.pack not in seen]:
            seen.update(each.pack for each in packs)
            sealed = [each for each in packs if each.sealed]
            rows: dict[str, list[PictureRow]] = {each.pack: [] for each in sealed}
            async with self._database.read() as session:
                for row in await PictureTable(session).of_packs(project, list(rows)):
                    rows[row.pack].append(row)
            for names in _groups(sealed, rows, self._pack_bytes):
                there = [row for name in names for row in rows[name]]
                try:
                    given_back += await shielded(self._rewrite(project, names, there))
                except FileNotFoundError:
                    log.warning("packs were compacted by somebody else, or are lost", project=project, packs=names)
        return given_back

    async def _wasteful(self, project: str) -> list[WastefulPack]:
        async with self._database.read() as session:
            found = await PictureTable(session).wasteful_packs(project, _PACKS_AT_ONCE)
        if growing := [each.pack for each in found if not each.sealed]:
            for pack in growing:
                await self._packs.seal_current(project, pack)
            async with self._database.read() as session:
                found = await PictureTable(session).wasteful_packs(project, _PACKS_AT_ONCE)
        return found

    async def _rewrite(self, project: str, old: Sequence[str], rows: Sequence[PictureRow]) -> int:
        """Copy what stands in old packs into a new one, and return how many bytes less there are."""
        name = uuid.uuid4().hex
        length, moves = await self._copy(project, name, rows) if rows else (0, [])
        try:
            async with self._database.write() as session:
                table = PictureTable(session)
                before = await table.pack_bytes(old)
                await table.move(project, old, PackRow(name, project, length, True), moves)
        finally:
            await self._packs.remove_unused(project, [*old, name])
        log.info("packs were compacted", project=project, packs=len(old), bytes_before=before, bytes_after=length)
        return before - length

    async def _copy(self, project: str, name: str, rows: Sequence[PictureRow]) -> tuple[int, Moves]:
        """Make a finished pack of the pictures, damaged ones as they are; return its length and the moves."""
        path = self._folder / name
        with full_disk_is_exhaustion():
            descriptor = await asyncio.to_thread(self._disk.create, path)
        moves: Moves = []
        try:
            try:
                end = 0
                await asyncio.to_thread(self._disk.require_space, self._folder, sum(row.size for row in rows))
                for some in _batches(rows):
                    found = await self._read(project, some)
                    await asyncio.to_thread(self._write, descriptor, b"".join(found), end)
                    for data, row in zip(found, some, strict=True):
                        moves.append((row, end))
                        end += len(data)
                await asyncio.to_thread(self._disk.sync, descriptor)
            finally:
                os.close(descriptor)
            await self._files.publish(path, pack_key(project, name))
        except BaseException:
            await asyncio.to_thread(self._disk.remove, path)
            raise
        return end, moves

    async def _read(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        ranges = [(row.position, row.size) for row in rows]
        return await self._files.read(pack_key(project, rows[0].pack), ranges)

    def _write(self, descriptor: int, data: bytes, position: int) -> None:
        with full_disk_is_exhaustion():
            self._disk.write(descriptor, data, position)


def _groups(
    packs: Sequence[WastefulPack], rows: Mapping[str, Sequence[PictureRow]], pack_bytes: int
) -> Iterator[list[str]]:
    """Put packs together whose live pictures fill a new one, and can be moved in one transaction."""
    group: list[str] = []
    size = count = 0
    for each in packs:
        if group and (size + each.live > pack_bytes or count + len(rows[each.pack]) > _ROWS_AT_ONCE):
            yield group
            group, size, count = [], 0, 0
        group.append(each.pack)
        size, count = size + each.live, count + len(rows[each.pack])
    if group:
        yield group


def _batches(rows: Sequence[PictureRow]) -> Iterator[list[PictureRow]]:
    """Divide rows, which are ordered by pack, into those of one pack that are read into memory at once."""
    batch: list[PictureRow] = []
    size = 0
    for row in rows:
        if batch and (row.pack != batch[0].pack or size + row.size > _COPIED_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.size
    if batch:
        yield batch
