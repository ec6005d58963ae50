"""Decoding uploaded pictures beside the calls: whether they are whole, how large, what finds near-duplicates."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from loupe.errors import BlobMissing, DataLoss, LoupeError
from services.storage.database.session import Database
from services.storage.pictures.decoders import Decoders, Encoded, Turn
from services.storage.pictures.inspection import Inspected
from services.storage.pictures.notes import written
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import BROKEN, WHOLE, IndexRow, PictureRow, PictureTable

log = structlog.get_logger(__name__)

_AT_ONCE = 64
_BYTES_AT_ONCE = 32 << 20
_QUICK_SECONDS = 0.5


@dataclass
class _Waiting:
    """A version that waits for pictures: those that are left, and what it waits on."""

    left: dict[str, None]
    done: asyncio.Future[None]


class Indexer:
    """Sees to it that each picture is decoded once, in the background or because a version waits for it.

    Pictures that an earlier Loupe decoded without keeping their size are measured when nothing else is to be done.
    Projects take turns, each of a few pictures or a moment. A project whose pictures take long is served apart, so that
    nobody else waits for them.
    """

    def __init__(self, database: Database, packs: Packs, decoders: Decoders) -> None:
        self._database = database
        self._packs = packs
        self._decoders = decoders
        self._at_once = _AT_ONCE * decoders.processes
        # The projects that have something to decode; whose turn comes next stands first.
        self._work: dict[str, None] = {}
        self._in_turn: set[str] = set()
        self._patient: set[str] = set()
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        self._notifier = {False: asyncio.Event(), True: asyncio.Event()}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to work in the background, with what was left over from before."""
        await self._decoders.warm()
        async with self._database.read() as session:
            for project in await PictureTable(session).projects_to_decode():
                self.wake(project)
        self._tasks = [
            asyncio.create_task(self._follow(patient), name=f"indexer-{'patient' if patient else 'quick'}")
            for patient in (False, True)
        ]

    def wake(self, project: str) -> None:
        """Say that a project has new pictures."""
        self._work.setdefault(project)
        for event in self._notifier.values():
            event.set()

    async def close(self) -> None:
        """Stop; what is being decoded now will be decoded again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ensure(self, project: str, digests: Sequence[str]) -> None:
        """Return when each of these pictures that the project has is decoded. Raises Unavailable."""
        async with self._database.read() as session:
            left = await PictureTable(session).undecoded(project, digests)
        if not left:
            return
        waiting = _Waiting(dict.fromkeys(left), asyncio.get_running_loop().create_future())
        self._waiting[project].append(waiting)
        self.wake(project)
        try:
            await waiting.done
        finally:
            self._waiting[project].remove(waiting)
            if not self._waiting[project]:
                del self._waiting[project]

    async def _follow(self, patient: bool) -> None:
        while True:
            project = await self._next(patient)
            try:
                if await self._turn(project, patient):
                    self._work.setdefault(project)
            except LoupeError as error:
                log.warning("indexing failed", project=project, problem=error.message)
                self._fail(project, error)
            except Exception as error:
                # The next upload or start tries again; a version that needs these pictures is told.
                log.exception("indexing failed", project=project)
                self._fail(project, error)
            finally:
                self._in_turn.discard(project)
                for event in self._notifier.values():
                    event.set()

    async def _next(self, patient: bool) -> str:
        """Wait for a project and return the one whose turn is the longest ago."""
        event = self._notifier[patient]
        while True:
            for project in self._work:
                if project not in self._in_turn and (project in self._patient) == patient:
                    del self._work[project]
                    self._in_turn.add(project)
                    return project
            event.clear()
            await event.wait()

    async def _turn(self, project: str, patient: bool) -> bool:
        """Decode some of a project's pictures, those first that a version waits for; False when none was left.

        Nobody who waits is forgotten: False is returned only when there was nobody who waits for anything, and whoever
        comes after that wakes the indexer anew.
        """
        # Who was just told may still stand in front, while one behind it waits for what was decoded since it asked.
        left = next((each.left for each in self._waiting.get(project, ()) if each.left), {})
        wanted = list(islice(left, self._at_once))
        async with self._database.read() as session:
            table = PictureTable(session)
            chosen = await (table.undecoded(project, wanted) if wanted else table.to_decode(project, self._at_once))
            measuring = not wanted and not chosen
            if measuring:
                chosen = await table.to_measure(project, self._at_once)
            located = await table.locate(project, chosen)
        self._tell(project, set(wanted) - located.keys())
        rows = _some(list(located.values()))
        if not rows:
            self._patient.discard(project)
            return bool(wanted)
        pairs = await self._read_all(project, rows)
        started = time.monotonic()
        turn = await self._decoders.inspect(pairs, patient=patient) if pairs else Turn()
        elapsed = time.monotonic() - started
        lost = {row.digest for row in rows} - {digest for digest, _ in pairs}
        if measuring:
            await self._write_sizes(project, turn.inspected)
            await self._write(project, [], lost)
        else:
            await self._write(project, [_index_row(located[each.digest], each) for each in turn.inspected], lost)
        self._tell(project, lost | {each.digest for each in turn.inspected})
        if turn.slow:
            self._patient.add(project)
        elif elapsed < _QUICK_SECONDS * len(turn.inspected):
            self._patient.discard(project)
        return True

    async def _write(self, project: str, indexed: Sequence[IndexRow], lost: set[str]) -> None:
        if indexed or lost:
            async with self._database.write() as session:
                if indexed:
                    await PictureTable(session).set_index(project, indexed)
                if lost:
                    await PictureTable(session).set_damaged(project, sorted(lost))

    async def _write_sizes(self, project: str, inspected: Sequence[Inspected]) -> None:
        """Write what was measured; a picture that can no longer be decoded has no size, and stays what it was."""
        if inspected:
            async with self._database.write() as session:
                sizes = {each.digest: (each.width, each.height) for each in inspected}
                await PictureTable(session).set_sizes(project, sizes)

    def _tell(self, project: str, decoded: set[str]) -> None:
        for waiting in self._waiting.get(project, ()):
            for digest in decoded & waiting.left.keys():
                del waiting.left[digest]
            if not waiting.left and not waiting.done.done():
                waiting.done.set_result(None)

    def _fail(self, project: str, error: Exception) -> None:
        for waiting in self._waiting.get(project, ()):
            if not waiting.done.done():
                waiting.done.set_exception(error)

    async def _read_all(self, project: str, rows: Sequence[PictureRow]) -> list[Encoded]:
        try:
            data = await self._packs.read(project, rows)
        except (DataLoss, BlobMissing):
            return [pair for row in rows for pair in await self._read(project, row)]
        return [(row.digest, each) for row, each in zip(rows, data, strict=True)]

    async def _read(self, project: str, row: PictureRow) -> list[Encoded]:
        try:
            return [(row.digest, (await self._packs.read(project, [row]))[0])]
        except (DataLoss, BlobMissing):
            return []


def _some(rows: Sequence[PictureRow]) -> list[PictureRow]:
    """Return as many of the rows, one at least, as are read into memory at once."""
    chosen, size = list(rows[:1]), sum(row.size for row in rows[:1])
    for row in rows[1:]:
        size += row.size
        if size > _BYTES_AT_ONCE:
            break
        chosen.append(row)
    return chosen


def _index_row(row: PictureRow, told: Inspected) -> IndexRow:
    state = BROKEN if told.problem else WHOLE
    said = told.problem or written(told)
    size = (told.width, told.height) if state == WHOLE else (None, None)
    return IndexRow(row.digest, row.size, state, said, told.perceptual_hash, told.thumbnail, *size)
