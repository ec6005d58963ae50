"""Decoding uploaded pictures beside the calls: whether they are whole, and what near-duplicates are found by."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from loupe.errors import DataLoss
from services.storage.packs import Packs
from services.storage.pictures import look
from services.storage.store import Database
from services.storage.store.pictures import IndexRow, PictureRow

log = structlog.get_logger(__name__)

_AT_ONCE = 64
_NICE = 10


class Indexer:
    """Indexer decodes each picture once. Pillow lets other threads run while it decodes, so threads are enough.

    threads: how many decode at a time; they run at low priority, so that uploads and answers go first.
    """

    def __init__(self, database: Database, packs: Packs, threads: int) -> None:
        self._database = database
        self._packs = packs
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "index", initializer=_lower_priority)
        self._work = asyncio.Event()
        # One chunk at a time: a version that waits for its pictures takes turns with the background.
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """start begins to work in the background, with what was left over from before."""
        self._work.set()
        self._task = asyncio.create_task(self._follow(), name="indexer")

    def wake(self) -> None:
        """wake says that there are new pictures."""
        self._work.set()

    async def close(self) -> None:
        """close stops after the pictures that are being decoded now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)

    async def ensure(self, project: str, digests: Sequence[str]) -> None:
        """ensure returns when each of these pictures that the project has is decoded."""
        async with self._database.read() as session:
            left = await session.pictures.to_decode_among(project, digests)
        for start in range(0, len(left), _AT_ONCE * self._threads):
            await self._index(project, left[start : start + _AT_ONCE * self._threads])

    async def _follow(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                while await self._index_some():
                    pass
            except Exception:
                # The next upload or start tries again; a version that needs these pictures meets the error itself.
                log.exception("indexing failed")

    async def _index_some(self) -> bool:
        async with self._database.read() as session:
            found = await session.pictures.to_decode(_AT_ONCE * self._threads)
        by_project: defaultdict[str, list[str]] = defaultdict(list)
        for project, digest in found:
            by_project[project].append(digest)
        for project, digests in by_project.items():
            await self._index(project, digests)
        return bool(found)

    async def _index(self, project: str, digests: Sequence[str]) -> None:
        async with self._turn:
            async with self._database.read() as session:
                left = await session.pictures.to_decode_among(project, digests)
                located = await session.pictures.locate(project, left)
            rows = list(located.values())
            if not rows:
                return
            loop = asyncio.get_running_loop()
            pairs = await self._read_all(project, rows)
            shares = [pairs[start :: self._threads] for start in range(self._threads)]
            looked = await asyncio.gather(
                *(loop.run_in_executor(self._pool, _look_all, share) for share in shares if share)
            )
            indexed = [row for share in looked for row in share]
            lost = located.keys() - {digest for digest, _ in pairs}
            async with self._database.write() as session:
                if indexed:
                    await session.pictures.set_index(project, indexed)
                if lost:
                    await session.pictures.set_damaged(project, sorted(lost))

    async def _read_all(self, project: str, rows: Sequence[PictureRow]) -> list[tuple[str, bytes]]:
        try:
            data = await self._packs.read(project, rows)
        except DataLoss:
            return [pair for row in rows for pair in await self._read(project, row)]
        return [(row.digest, each) for row, each in zip(rows, data, strict=True)]

    async def _read(self, project: str, row: PictureRow) -> list[tuple[str, bytes]]:
        try:
            return [(row.digest, (await self._packs.read(project, [row]))[0])]
        except DataLoss:
            return []


def _look_all(pairs: Sequence[tuple[str, bytes]]) -> list[IndexRow]:
    return [look(digest, data) for digest, data in pairs]


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
