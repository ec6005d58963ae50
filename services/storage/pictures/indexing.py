"""Decoding uploaded pictures beside the calls: whether they are whole, and what near-duplicates are found by."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog

from loupe.errors import DataLoss
from services.storage.database.session import Database
from services.storage.pictures.decoders import Decoders, Encoded
from services.storage.pictures.inspection import Inspected
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import BROKEN, WHOLE, IndexRow, PictureRow, PictureTable

log = structlog.get_logger(__name__)

_AT_ONCE = 64


class Indexer:
    """Sees to it that each picture is decoded once, in the background or because a version waits for it."""

    def __init__(self, database: Database, packs: Packs, decoders: Decoders) -> None:
        self._database = database
        self._packs = packs
        self._decoders = decoders
        self._at_once = _AT_ONCE * decoders.processes
        self._work = asyncio.Event()
        # One share at a time: a version that waits for its pictures takes turns with the background.
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work in the background, with what was left over from before."""
        self._work.set()
        self._task = asyncio.create_task(self._follow(), name="indexer")

    def wake(self) -> None:
        """Say that there are new pictures."""
        self._work.set()

    async def close(self) -> None:
        """Stop after the pictures that are being decoded now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ensure(self, project: str, digests: Sequence[str]) -> None:
        """Return when each of these pictures that the project has is decoded."""
        async with self._database.read() as session:
            left = await PictureTable(session).undecoded(project, digests)
        for start in range(0, len(left), self._at_once):
            await self._index(project, left[start : start + self._at_once])

    async def _follow(self) -> None:
        await self._decoders.warm()
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
            found = await PictureTable(session).to_decode(self._at_once)
        by_project: defaultdict[str, list[str]] = defaultdict(list)
        for project, digest in found:
            by_project[project].append(digest)
        for project, digests in by_project.items():
            await self._index(project, digests)
        return bool(found)

    async def _index(self, project: str, digests: Sequence[str]) -> None:
        async with self._turn:
            async with self._database.read() as session:
                table = PictureTable(session)
                located = await table.locate(project, await table.undecoded(project, digests))
            rows = list(located.values())
            if not rows:
                return
            pairs = await self._read_all(project, rows)
            inspected = await self._decoders.inspect(pairs) if pairs else []
            indexed = [_index_row(located[each.digest], each) for each in inspected]
            lost = located.keys() - {digest for digest, _ in pairs}
            async with self._database.write() as session:
                if indexed:
                    await PictureTable(session).set_index(project, indexed)
                if lost:
                    await PictureTable(session).set_damaged(project, sorted(lost))

    async def _read_all(self, project: str, rows: Sequence[PictureRow]) -> list[Encoded]:
        try:
            data = await self._packs.read(project, rows)
        except DataLoss:
            return [pair for row in rows for pair in await self._read(project, row)]
        return [(row.digest, each) for row, each in zip(rows, data, strict=True)]

    async def _read(self, project: str, row: PictureRow) -> list[Encoded]:
        try:
            return [(row.digest, (await self._packs.read(project, [row]))[0])]
        except DataLoss:
            return []


def _index_row(row: PictureRow, told: Inspected) -> IndexRow:
    state = BROKEN if told.problem else WHOLE
    return IndexRow(row.digest, row.size, state, told.problem, told.perceptual_hash, told.thumbnail)
