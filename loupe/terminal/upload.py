"""Sending pictures: hashed in threads, only what is missing, many batches in flight, going on after a cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loupe.errors import Cancelled, LoupeError, Unavailable, UploadIncomplete, invalid
from loupe.picture import MAX_BYTES
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.terminal.patience import Patience

PAGE = 10_000
BATCH_BYTES = 1 << 20
BATCH_PICTURES = 1_000
IN_FLIGHT = 8
HASH_THREADS = 4
HASH_CHUNK = 32
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Hashed:
    """Hashed is a file by its sha256 (hex) and size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class PushProgress:
    """PushProgress is how far a push is. phase: "hash", "send" or "version"; the counts are that phase's."""

    phase: str
    pictures: int = 0
    total_pictures: int = 0
    bytes: int = 0
    total_bytes: int = 0


@dataclass
class Uploaded:
    """Uploaded is what an upload came to. refused: digest -> verdict of the pictures that storage did not take."""

    pictures: int = 0
    bytes: int = 0
    cuts: int = 0
    refused: dict[str, blobs.PictureVerdict] = field(default_factory=dict)


class BlobDoor(Protocol):
    """BlobDoor is what an upload needs of storage. Both calls raise LoupeError."""

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        """find_missing returns those that the project does not have, in the same order."""

    def upload(
        self, requests: Callable[[], AsyncIterator[blobs.UploadPicturesRequest]]
    ) -> AsyncGenerator[blobs.UploadPicturesResponse]:
        """upload opens one UploadPictures stream; `requests` begins what is sent."""


Show = Callable[[PushProgress], None]


async def hash_files(paths: Sequence[Path], show: Show) -> list[Hashed]:
    """hash_files returns digest and size of each file, in the same order. Raises InvalidArgument for an unreadable one."""
    loop = asyncio.get_running_loop()
    hashed: list[Hashed] = []
    size = 0
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        running: deque[asyncio.Future[list[Hashed]]] = deque()
        chunks = (paths[start : start + HASH_CHUNK] for start in range(0, len(paths), HASH_CHUNK))
        exhausted = False
        while running or not exhausted:
            while not exhausted and len(running) < 2 * HASH_THREADS:
                chunk = next(chunks, None)
                exhausted = chunk is None
                if chunk is not None:
                    running.append(loop.run_in_executor(pool, _hash_chunk, chunk))
            if running:
                done = await running.popleft()
                hashed += done
                size += sum(one.size for one in done)
                show(PushProgress("hash", len(hashed), len(paths), size))
    return hashed


def _hash_chunk(paths: Sequence[Path]) -> list[Hashed]:
    return [_hash_file(path) for path in paths]


def _hash_file(path: Path) -> Hashed:
    try:
        with path.open("rb", buffering=0) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Hashed(path, digest, file.tell())
    except OSError as error:
        raise invalid("path", str(path), f"a file that can be read ({error.strerror})") from error


async def upload_pictures(
    door: BlobDoor, parent: str, files: Sequence[Hashed], show: Show, patience: Patience | None = None
) -> Uploaded:
    """upload_pictures makes every picture durable in the project `parent`, or says which were refused and why.

    After a cut it asks what is missing and sends the rest. Raises Unavailable when nothing moved for the patience's time.
    """
    patience = patience or Patience(PATIENCE_SECONDS)
    uploaded = Uploaded()
    wanted: dict[str, Hashed] = {}
    for one in files:
        if one.size > MAX_BYTES:
            message = f"{one.size} bytes; at most {MAX_BYTES} are taken"
            uploaded.refused[one.digest] = blobs.PictureVerdict(
                digest=one.digest, problem=blobs.PICTURE_PROBLEM_TOO_LARGE, message=message
            )
        else:
            wanted.setdefault(one.digest, one)
    total = Uploaded(len(wanted), sum(one.size for one in wanted.values()))
    missing = list(wanted.values())
    while missing:
        try:
            missing = [one for one in await _find_missing(door, missing) if one.digest not in uploaded.refused]
            present = Uploaded(total.pictures - len(missing), total.bytes - sum(one.size for one in missing))
            if missing:
                await _send(door, parent, missing, uploaded, present, total, show, patience)
            show(PushProgress("send", total.pictures, total.pictures, total.bytes, total.bytes))
        except (Unavailable, UploadIncomplete) as error:
            uploaded.cuts += 1
            await patience.wait(error)
        else:
            break
    return uploaded


async def _find_missing(door: BlobDoor, files: Sequence[Hashed]) -> list[Hashed]:
    missing: list[Hashed] = []
    for start in range(0, len(files), PAGE):
        page = {one.digest: one for one in files[start : start + PAGE]}
        missing += [page[digest] for digest in await door.find_missing(list(page))]
    return missing


async def _send(
    door: BlobDoor,
    parent: str,
    files: Sequence[Hashed],
    uploaded: Uploaded,
    present: Uploaded,
    total: Uploaded,
    show: Show,
    patience: Patience,
) -> None:
    slots = asyncio.Semaphore(IN_FLIGHT)
    unanswered: deque[int] = deque()
    own_fault: list[LoupeError] = []

    async def requests() -> AsyncIterator[blobs.UploadPicturesRequest]:
        yield blobs.UploadPicturesRequest(header=blobs.UploadPicturesHeader(parent=parent))
        pictures = size = 0
        try:
            async for batch in _read_ahead(_batches(files)):
                await slots.acquire()
                unanswered.append(sum(len(picture.data) for picture in batch.pictures))
                pictures += len(batch.pictures)
                size += unanswered[-1]
                yield blobs.UploadPicturesRequest(batch=batch)
        except LoupeError as error:
            own_fault.append(error)  # gRPC would only cancel the call
            raise
        yield blobs.UploadPicturesRequest(closing=blobs.UploadPicturesClosing(picture_count=pictures, byte_count=size))

    complete = False
    done = present.bytes
    try:
        async with contextlib.aclosing(door.upload(requests)) as responses:
            async for response in responses:
                patience.moved()
                complete = complete or response.complete
                if not response.complete:
                    slots.release()
                    size = unanswered.popleft() if unanswered else 0
                    done += size
                    uploaded.bytes += size
                for verdict in response.verdicts:
                    if verdict.problem != blobs.PICTURE_PROBLEM_DUPLICATE:
                        uploaded.refused[verdict.digest] = verdict
                stored = present.pictures + response.stored_count
                show(PushProgress("send", stored, total.pictures, done, total.bytes))
    except (Cancelled, asyncio.CancelledError):
        if own_fault:
            raise own_fault[0] from None
        raise
    if not complete:
        raise UploadIncomplete("storage ended the stream before everything was there", committed=done)
    uploaded.pictures += len(files)


async def _read_ahead(batches: Iterator[blobs.PictureBatch]) -> AsyncIterator[blobs.PictureBatch]:
    """_read_ahead reads the next batch in a thread while the last one is on its way."""
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
