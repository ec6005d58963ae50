"""Sending pictures: hashed in threads, only what is missing, many batches in flight, going on after a cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from loupe.backoff import Backoff
from loupe.errors import Cancelled, InvalidArgument, LoupeError, Unavailable, UploadIncomplete, invalid
from loupe.picture import MAX_BYTES
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.terminal.digests import DigestCache, FileState

PAGE = 10_000
BATCH_BYTES = 1 << 20
BATCH_PICTURES = 1_000
IN_FLIGHT = 8
HASH_THREADS = 4
HASH_CHUNK = 32
SMALL_FILE = 1 << 20
RETRY_SECONDS = 120.0


class Hashed(NamedTuple):
    """A file by its sha256 (hex) and size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class PushProgress:
    """How far a push is. phase: "hash", "send" or "version"; the counts are that phase's."""

    phase: str
    pictures: int = 0
    total_pictures: int = 0
    bytes: int = 0
    total_bytes: int = 0


@dataclass
class Uploaded:
    """What an upload came to. refused: digest -> verdict of the pictures that storage did not take."""

    pictures: int = 0
    bytes: int = 0
    cuts: int = 0
    refused: dict[str, blobs.PictureVerdict] = field(default_factory=dict)


class BlobDoor(Protocol):
    """What an upload needs of storage. Both calls raise LoupeError."""

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Return those that the project does not have, in the same order."""

    def upload(
        self, requests: Callable[[], AsyncIterator[blobs.UploadPicturesRequest]]
    ) -> AsyncGenerator[blobs.UploadPicturesResponse]:
        """Open one UploadPictures stream; `requests` begins what is sent."""


Show = Callable[[PushProgress], None]


async def hash_files(paths: Sequence[Path], show: Show, cache: DigestCache | None = None) -> list[Hashed]:
    """Return digest and size of each file, in their order. Raises InvalidArgument for an unreadable one.

    Files that are as they were when they were last hashed are not read again.
    """
    cache = cache or DigestCache()
    states, digests = await asyncio.to_thread(_look_up, paths, cache)
    if fresh := [(path, state) for path, state, digest in zip(paths, states, digests, strict=True) if not digest]:
        found = await _hash_fresh(fresh, len(paths) - len(fresh), show)
        await asyncio.to_thread(cache.remember, found.items())
        digests = [digest or found[state] for state, digest in zip(states, digests, strict=True)]
    hashed = [Hashed(path, digest, state.size) for path, state, digest in zip(paths, states, digests, strict=True)]
    show(PushProgress("hash", len(hashed), len(paths), sum(one.size for one in hashed)))
    return hashed


def _look_up(paths: Sequence[Path], cache: DigestCache) -> tuple[list[FileState], list[str | None]]:
    states = [_state(path) for path in paths]
    return states, cache.known(states)


async def _hash_fresh(files: Sequence[tuple[Path, FileState]], before: int, show: Show) -> dict[FileState, str]:
    loop = asyncio.get_running_loop()
    digests: dict[FileState, str] = {}
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        running: deque[asyncio.Future[dict[FileState, str]]] = deque()
        chunks = (files[start : start + HASH_CHUNK] for start in range(0, len(files), HASH_CHUNK))
        exhausted = False
        while running or not exhausted:
            while not exhausted and len(running) < 2 * HASH_THREADS:
                chunk = next(chunks, None)
                exhausted = chunk is None
                if chunk is not None:
                    running.append(loop.run_in_executor(pool, _hash_chunk, chunk))
            if running:
                digests |= await running.popleft()
                size = sum(state.size for state in digests)
                show(PushProgress("hash", before + len(digests), before + len(files), size))
    return digests


def _hash_chunk(files: Sequence[tuple[Path, FileState]]) -> dict[FileState, str]:
    return {state: _hash_file(path, state.size) for path, state in files}


def _state(path: Path) -> FileState:
    try:
        return FileState.of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _hash_file(path: Path, size: int) -> str:
    try:
        if size <= SMALL_FILE:  # reading it at once is quicker than hashing it piece by piece
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InvalidArgument:
    return invalid("path", str(path), f"a file that can be read ({error.strerror})")


async def upload_pictures(
    door: BlobDoor, parent: str, files: Sequence[Hashed], show: Show, backoff: Backoff | None = None
) -> Uploaded:
    """Make every picture durable in the project `parent`, or say which were refused and why.

    After a cut it asks what is missing and sends the rest. Raises Unavailable when nothing moved for too long.
    """
    return await _Upload(door, parent, files, show, backoff or Backoff(RETRY_SECONDS)).run()


class _Upload:
    """One upload through as many streams as it takes."""

    def __init__(self, door: BlobDoor, parent: str, files: Sequence[Hashed], show: Show, backoff: Backoff) -> None:
        self._door = door
        self._parent = parent
        self._show = show
        self._backoff = backoff
        self._uploaded = Uploaded()
        self._wanted: dict[str, Hashed] = {}
        for one in files:
            if one.size > MAX_BYTES:
                self._uploaded.refused[one.digest] = blobs.PictureVerdict(
                    digest=one.digest,
                    problem=blobs.PICTURE_PROBLEM_TOO_LARGE,
                    message=f"{one.size} bytes; at most {MAX_BYTES} are taken",
                )
            else:
                self._wanted.setdefault(one.digest, one)
        self._total_bytes = sum(one.size for one in self._wanted.values())

    async def run(self) -> Uploaded:
        missing = list(self._wanted.values())
        while missing:
            try:
                missing = await self._still_missing(missing)
                if missing:
                    await self._send(missing)
            except (Unavailable, UploadIncomplete) as error:
                self._uploaded.cuts += 1
                await self._backoff.wait(error)
            else:
                break
        self._tell(len(self._wanted), self._total_bytes)
        return self._uploaded

    async def _still_missing(self, files: Sequence[Hashed]) -> list[Hashed]:
        missing: list[Hashed] = []
        for start in range(0, len(files), PAGE):
            page = {one.digest: one for one in files[start : start + PAGE]}
            missing += [page[digest] for digest in await self._door.find_missing(list(page))]
        return [one for one in missing if one.digest not in self._uploaded.refused]

    async def _send(self, files: Sequence[Hashed]) -> None:
        """Return one stream; batches follow each other without waiting, up to IN_FLIGHT that are not answered."""
        slots = asyncio.Semaphore(IN_FLIGHT)
        unanswered: deque[tuple[int, int]] = deque()
        own_fault: list[LoupeError] = []
        here = len(self._wanted) - len(files)
        here_bytes = self._total_bytes - sum(one.size for one in files)

        async def requests() -> AsyncIterator[blobs.UploadPicturesRequest]:
            yield blobs.UploadPicturesRequest(header=blobs.UploadPicturesHeader(parent=self._parent))
            closing = blobs.UploadPicturesClosing()
            try:
                async for batch in _read_ahead(_batches(files)):
                    await slots.acquire()
                    unanswered.append((len(batch.pictures), sum(len(one.data) for one in batch.pictures)))
                    closing.picture_count += unanswered[-1][0]
                    closing.byte_count += unanswered[-1][1]
                    yield blobs.UploadPicturesRequest(batch=batch)
            except LoupeError as error:
                own_fault.append(error)  # gRPC would only cancel the call
                raise
            yield blobs.UploadPicturesRequest(closing=closing)

        complete = False
        try:
            async with contextlib.aclosing(self._door.upload(requests)) as responses:
                async for response in responses:
                    self._take_verdicts(response.verdicts)
                    complete = complete or response.complete
                    if unanswered and not response.complete:
                        self._backoff.reset()
                        slots.release()
                        count, size = unanswered.popleft()
                        self._uploaded.pictures += count
                        self._uploaded.bytes += size
                        here += count
                        here_bytes += size
                        self._tell(here, here_bytes)
        except (Cancelled, asyncio.CancelledError):
            if own_fault:
                raise own_fault[0] from None
            raise
        if not complete:
            raise UploadIncomplete("storage ended the stream before everything was there", committed=here_bytes)

    def _take_verdicts(self, verdicts: Iterable[blobs.PictureVerdict]) -> None:
        for verdict in verdicts:
            if verdict.problem != blobs.PICTURE_PROBLEM_DUPLICATE:
                self._uploaded.refused[verdict.digest] = verdict

    def _tell(self, pictures: int, size: int) -> None:
        self._show(PushProgress("send", pictures, len(self._wanted), size, self._total_bytes))


async def _read_ahead(batches: Iterator[blobs.PictureBatch]) -> AsyncIterator[blobs.PictureBatch]:
    """Read the next batch in a thread while the last one is on its way."""
    reading = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
    try:
        while (batch := await reading) is not None:
            reading = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
            yield batch
    finally:
        reading.cancel()


def _batches(files: Sequence[Hashed]) -> Iterator[blobs.PictureBatch]:
    batch, size = blobs.PictureBatch(), 0
    for one in files:
        if batch.pictures and (size + one.size > BATCH_BYTES or len(batch.pictures) >= BATCH_PICTURES):
            yield batch
            batch, size = blobs.PictureBatch(), 0
        batch.pictures.add(digest=one.digest, data=_content(one))
        size += one.size
    if batch.pictures:
        yield batch


def _content(one: Hashed) -> bytes:
    try:
        data = one.path.read_bytes()
    except OSError as error:
        raise invalid("path", str(one.path), f"a file that can be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise invalid("path", str(one.path), "a file that does not grow while it is sent")
    return data
