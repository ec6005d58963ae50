"""Sending pictures: only what is missing, many batches in flight, going on after a cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from loupe.backoff import Backoff
from loupe.errors import Cancelled, LoupeError, Unavailable, UploadIncomplete, invalid
from loupe.limits import MAX_DIGESTS
from loupe.picture import MAX_BYTES
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS, Service
from loupe.terminal.hashing import Hashed, cannot_be_read
from loupe.terminal.progress import PushProgress

if TYPE_CHECKING:
    from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

BATCH_BYTES = 1 << 20
BATCH_PICTURES = 1_000
IN_FLIGHT = 8


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


class ProjectBlobs:
    """A project's BlobService as an upload needs it."""

    def __init__(self, service: Service[BlobServiceAsyncStub], project: str) -> None:
        self._service = service
        self._project = project

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Return those that the project does not have, in the same order."""
        missing: list[str] = []
        for start in range(0, len(digests), MAX_DIGESTS):
            some = digests[start : start + MAX_DIGESTS]
            request = blobs.FindMissingBlobsRequest(parent=self._project, digests=some)
            missing += (await self._service.call(lambda stub: stub.FindMissingBlobs, request)).digests
        return missing

    def upload(
        self, requests: Callable[[], AsyncIterator[blobs.UploadPicturesRequest]]
    ) -> AsyncGenerator[blobs.UploadPicturesResponse]:
        """Open one UploadPictures stream; `requests` begins what is sent."""
        return self._service.read(lambda stub: stub.UploadPictures(requests()))


Show = Callable[[PushProgress], None]


async def upload_pictures(
    door: BlobDoor, parent: str, files: Sequence[Hashed], show: Show, backoff: Backoff | None = None
) -> Uploaded:
    """Make every picture durable in the project `parent`, or say which were refused and why.

    After a cut it asks what is missing and sends the rest. Raises Unavailable when nothing moved for too long.
    """
    return await _Upload(door, parent, files, show, backoff or Backoff(TRANSFER_RETRY_SECONDS)).run()


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
        there = {one.digest: one for one in files}
        missing = [there[digest] for digest in await self._door.find_missing(list(there)) if digest in there]
        return [one for one in missing if one.digest not in self._uploaded.refused]

    async def _send(self, files: Sequence[Hashed]) -> None:
        """Send the files in one stream. Raises UploadIncomplete when it ends without storage's last answer."""
        stream = _Stream(self._parent, files)
        here = len(self._wanted) - len(files)
        here_bytes = self._total_bytes - sum(one.size for one in files)
        complete = False
        try:
            async with contextlib.aclosing(self._door.upload(stream.requests)) as responses:
                async for response in responses:
                    self._take_verdicts(response.verdicts)
                    complete = complete or response.complete
                    if stream.unanswered and not response.complete:
                        self._backoff.reset()
                        count, size = stream.answered()
                        self._uploaded.pictures += count
                        self._uploaded.bytes += size
                        here += count
                        here_bytes += size
                        self._tell(here, here_bytes)
        except (Cancelled, asyncio.CancelledError):
            if stream.fault:
                raise stream.fault from None
            raise
        if not complete:
            raise UploadIncomplete("storage ended the stream before everything was there", committed=here_bytes)

    def _take_verdicts(self, verdicts: Iterable[blobs.PictureVerdict]) -> None:
        for verdict in verdicts:
            if verdict.problem != blobs.PICTURE_PROBLEM_DUPLICATE:
                self._uploaded.refused[verdict.digest] = verdict

    def _tell(self, pictures: int, size: int) -> None:
        self._show(PushProgress("send", pictures, len(self._wanted), size, self._total_bytes))


class _Stream:
    """What one stream sends: batches follow each other without waiting, up to IN_FLIGHT that are not answered.

    unanswered: pictures and bytes of each batch on its way, oldest first. fault: why this side ended the stream.
    """

    def __init__(self, parent: str, files: Sequence[Hashed]) -> None:
        self.unanswered: deque[tuple[int, int]] = deque()
        self.fault: LoupeError | None = None
        self._parent = parent
        self._files = files
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def requests(self) -> AsyncIterator[blobs.UploadPicturesRequest]:
        """Yield the header, the batches and the closing message."""
        yield blobs.UploadPicturesRequest(header=blobs.UploadPicturesHeader(parent=self._parent))
        closing = blobs.UploadPicturesClosing()
        try:
            async for batch in _read_ahead(_batches(self._files)):
                await self._slots.acquire()
                count, size = len(batch.pictures), sum(len(one.data) for one in batch.pictures)
                self.unanswered.append((count, size))
                closing.picture_count += count
                closing.byte_count += size
                yield blobs.UploadPicturesRequest(batch=batch)
        except LoupeError as error:
            self.fault = error  # gRPC would only cancel the call
            raise
        yield blobs.UploadPicturesRequest(closing=closing)

    def answered(self) -> tuple[int, int]:
        """Make room for another batch, and return pictures and bytes of the one that storage has now."""
        self._slots.release()
        return self.unanswered.popleft()


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
        expected = f"a file that stays there while it is sent, a file that can be read; it {cannot_be_read(error)}"
        raise invalid("path", str(one.path), expected) from error
    if len(data) > MAX_BYTES:
        raise invalid("path", str(one.path), "a file that does not grow while it is sent")
    return data
