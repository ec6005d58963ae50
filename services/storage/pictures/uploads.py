"""Taking a stream of pictures: check, append, sync and index overlap, and each batch is answered when it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from loupe.byte_budget import Hold
from loupe.concurrency import shielded
from loupe.errors import QuotaExceeded, SizeMismatch, UploadIncomplete
from loupe.names import ProjectName
from services.storage.database.session import Database, Session
from services.storage.marks.store import MarkTable
from services.storage.pictures.admission import Problem, UploadedPicture, Verdict, check
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.naming import keep_pictures
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import PictureRow, PictureTable
from services.storage.projects.projects import find_project
from services.storage.projects.usage import Quotas
from services.storage.streams import Held

_BATCHES_AHEAD = 6


@dataclass(frozen=True)
class PictureClosing:
    """Ends a stream: how many pictures were sent, and how many bytes they have together."""

    picture_count: int
    byte_count: int


@dataclass(frozen=True)
class Answer:
    """Says how many pictures of the stream are durable by now, and what is to be said of the last batch."""

    stored_count: int
    verdicts: Sequence[Verdict]
    complete: bool = False


Part = Sequence[UploadedPicture] | PictureClosing


@dataclass(frozen=True)
class _Coming:
    pictures: Sequence[UploadedPicture]
    hold: Hold
    verdicts: asyncio.Task[list[Verdict | None]]


@dataclass(frozen=True)
class _Ended:
    """The stream has ended without its closing: by itself, or with an error."""

    error: Exception | None = None


@dataclass(frozen=True)
class _Batch:
    pictures: Sequence[UploadedPicture]
    hold: Hold
    verdicts: Sequence[Verdict | None]

    def checked(self) -> Iterator[tuple[UploadedPicture, Verdict | None]]:
        return zip(self.pictures, self.verdicts, strict=True)


_Ahead = _Coming | PictureClosing | _Ended


class PictureUploads:
    """Stores streams of pictures in packs."""

    def __init__(self, database: Database, packs: Packs, indexer: Indexer, quotas: Quotas) -> None:
        self._database = database
        self._packs = packs
        self._indexer = indexer
        self._quotas = quotas

    async def receive(self, project: ProjectName, parts: AsyncIterator[Held[Part]]) -> AsyncIterator[Answer]:
        """Answer each batch once it is durable, and the closing once counts and bytes agree.

        Raises UploadIncomplete when the stream ends without its closing, SizeMismatch when the closing does not agree,
        QuotaExceeded at the first picture that does not fit; what was answered stays stored, and what came before.
        """
        async with self._database.read() as session:
            await find_project(session, project)
        ahead: asyncio.Queue[_Ahead] = asyncio.Queue(_BATCHES_AHEAD)
        held: set[Hold] = set()
        reader = asyncio.create_task(_read_ahead(parts, ahead, held), name="upload-reader")
        received = received_bytes = stored = 0
        try:
            while True:
                batches, end = await _take(ahead)
                if batches:
                    received += sum(len(each.pictures) for each in batches)
                    received_bytes += sum(len(picture.data) for each in batches for picture in each.pictures)
                    answers, refusal = await shielded(self._store(project.project, batches))
                    _release(batches, held)
                    for added, said in answers:
                        stored += added
                        yield Answer(stored, said)
                    if refusal is not None:
                        raise refusal
                if isinstance(end, PictureClosing):
                    _agree("pictures", end.picture_count, received)
                    _agree("bytes", end.byte_count, received_bytes)
                    yield Answer(stored, (), complete=True)
                    return
                if isinstance(end, _Ended):
                    raise end.error or UploadIncomplete(
                        f"the stream ended without its closing message; {stored} pictures are stored", committed=stored
                    )
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            for hold in held:
                hold.release()
            self._indexer.wake(project.project)

    async def _store(
        self, project: str, batches: Sequence[_Batch]
    ) -> tuple[list[tuple[int, list[Verdict]]], QuotaExceeded | None]:
        """Store batches with one sync and one commit, as far as the quota reaches; return why it went no further.

        Return for each how many of its pictures are durable now, new ones and those that were there, and what to say:
        for those from the first picture on that did not fit, nothing.
        """
        good = [each for batch in batches for each, verdict in batch.checked() if verdict is None]
        async with self._database.read() as session:
            seen = await self._known(session, project, [each.digest for each in good])
            fresh: list[UploadedPicture] = []
            answers, ends = [], []
            for batch in batches:
                stored, said = 0, []
                for each, verdict in batch.checked():
                    if verdict is not None:
                        said.append(verdict)
                        continue
                    stored += 1
                    if each.digest in seen:
                        said.append(Verdict(each.digest, Problem.DUPLICATE, "it is there already"))
                    else:
                        seen.add(each.digest)
                        fresh.append(each)
                answers.append((stored, said))
                ends.append(len(fresh))
            fitting, refusal = await self._fitting(session, project, fresh, lock=False)
        if fitting:
            fitting, less = await self._append(project, fresh[:fitting])
            refusal = less or refusal
        return [answer for answer, end in zip(answers, ends, strict=True) if end <= fitting], refusal

    async def _known(self, session: Session, project: str, digests: Sequence[str]) -> set[str]:
        """Return those that the project has, which nobody collects now."""
        known, marks = await PictureTable(session).known(project, digests), MarkTable(session)
        if await marks.any(project) and (marked := await marks.marked(project, digests)):
            async with self._database.write() as writing:
                known.difference_update(await keep_pictures(writing, project, list(marked)))
        return known

    async def _append(self, project: str, fresh: Sequence[UploadedPicture]) -> tuple[int, QuotaExceeded | None]:
        """Write what still fits now, return how many that are, and why the next one does not."""
        async with self._packs.append(project, [each.data for each in fresh]) as placed:
            rows = [
                PictureRow(each.digest, len(each.data), placed.pack.pack, position)
                for each, position in zip(fresh, placed.positions, strict=True)
            ]
            async with self._database.write() as session:
                fitting, refusal = await self._fitting(session, project, fresh, lock=True)
                if fitting:
                    last = rows[fitting - 1]
                    pack = replace(placed.pack, length=last.position + last.size)
                    await PictureTable(session).add(project, rows[:fitting], pack)
        return fitting, refusal

    async def _fitting(
        self, session: Session, project: str, fresh: Sequence[UploadedPicture], *, lock: bool
    ) -> tuple[int, QuotaExceeded | None]:
        """Return how many of the pictures the quota leaves room for, and why not for the next one."""
        room = await self._quotas.room(session, project, lock=lock)
        if not fresh or not room.limited:
            return len(fresh), None
        there = await PictureTable(session).present(project, [each.digest for each in fresh])
        return room.fitting([None if each.digest in there else len(each.data) for each in fresh])


async def _take(ahead: asyncio.Queue[_Ahead]) -> tuple[list[_Batch], PictureClosing | _Ended | None]:
    """Wait for what comes next, and take along all batches that came meanwhile: they share a sync and a commit."""
    batches: list[_Batch] = []
    while not batches or (len(batches) < _BATCHES_AHEAD and not ahead.empty()):
        part = await ahead.get()
        if not isinstance(part, _Coming):
            return batches, part
        batches.append(_Batch(part.pictures, part.hold, await part.verdicts))
    return batches, None


async def _read_ahead(parts: AsyncIterator[Held[Part]], ahead: asyncio.Queue[_Ahead], held: set[Hold]) -> None:
    """Hand on what comes, checked in a thread while earlier batches are written; `held` is the room that it takes."""
    try:
        async for coming in parts:
            held.add(coming.hold)
            part = coming.part
            if isinstance(part, PictureClosing):
                await ahead.put(part)
                return
            await ahead.put(_Coming(part, coming.hold, asyncio.create_task(asyncio.to_thread(check, part))))
            del coming, part  # or they stayed in memory until the next one has come
        await ahead.put(_Ended())
    except Exception as error:
        await ahead.put(_Ended(error))


def _release(batches: list[_Batch], held: set[Hold]) -> None:
    """Give back the room of batches, which are forgotten: they need not wait until their answers are sent."""
    for batch in batches:
        batch.hold.release()
        held.discard(batch.hold)
    batches.clear()


def _agree(what: str, announced: int, received: int) -> None:
    if announced != received:
        raise SizeMismatch(
            f"the closing announces {announced} {what}, but {received} came", announced=announced, received=received
        )
