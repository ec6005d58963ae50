"""Files of any kind that a job may name: sent whole, only those that are missing, going on after a cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loupe.backoff import Backoff
from loupe.errors import Cancelled, DigestMismatch, InvalidArgument, LoupeError, Unavailable, UploadIncomplete, invalid
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.terminal.connection import CALL_SECONDS, TRANSFER_RETRY_SECONDS, Connection, Service
from loupe.terminal.digests import FileState
from loupe.terminal.hashing import Hashed, hash_files, unreadable
from loupe.terminal.progress import SendProgress
from loupe.terminal.upload import ProjectBlobs

if TYPE_CHECKING:
    from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

CHUNK = 1 << 20

Show = Callable[[SendProgress], None]


class PushedBlob(NamedTuple):
    """A file that the project has, by its sha256 (hex) and size in bytes. sent: whether it was not there before."""

    file: Path
    digest: str
    size: int
    sent: bool


class Blobs:
    """A project's files that are no pictures, such as the weights that a training begins with."""

    def __init__(self, connection: Connection) -> None:
        self._service = Service(connection, BlobServiceStub)

    async def push(
        self, project: str, files: Sequence[Path], *, show: Show = lambda progress: None
    ) -> list[PushedBlob]:
        """Make files durable in "projects/{project}", and return them in their order; what is there is not sent.

        All are looked at before the first is sent. Raises InvalidArgument for a file that is missing, empty, cannot be
        read, or changes while it is sent; ResourceExhausted for one that is larger than storage takes, with the limit;
        Unavailable when nothing moved for too long.
        """
        states = {path: await asyncio.to_thread(_state_of, path) for path in files}
        hashed = await hash_files(files, lambda progress: None)
        for one in hashed:
            if one.problem:
                raise invalid("path", str(one.path), f"a file that can be read; it {one.problem}")
        missing = await self._missing(project, hashed)
        bar = _Bar(show, sum(one.size for one in missing.values()))
        for one in missing.values():
            await _Sending(self._service, project, one, bar).run()
            if await asyncio.to_thread(_state_of, one.path) != states[one.path]:
                raise _changed(one.path)
            bar.done += one.size
        bar.tell(0)
        return [PushedBlob(one.path, one.digest, one.size, missing.get(one.digest) is one) for one in hashed]

    async def _missing(self, project: str, files: Sequence[Hashed]) -> dict[str, Hashed]:
        """Return, by their digests, the files that the project does not have, each content once."""
        wanted = {one.digest: one for one in reversed(files)}
        digests = list(dict.fromkeys(one.digest for one in files))
        found = await ProjectBlobs(self._service, project).find_missing(digests)
        return {digest: wanted[digest] for digest in found if digest in wanted}


class _Bar:
    """How far a push is. done: the bytes of the files that are there by now."""

    def __init__(self, show: Show, total: int) -> None:
        self.done = 0
        self._show = show
        self._total = total

    def tell(self, here: int) -> None:
        """Show that so many bytes of the next file are sent."""
        self._show(SendProgress(self.done + here, self._total))


class _Sending:
    """One file on its way, through as many streams as it takes."""

    def __init__(self, service: Service[BlobServiceAsyncStub], project: str, file: Hashed, bar: _Bar) -> None:
        self._service = service
        self._project = project
        self._file = file
        self._bar = bar
        self._paused = 0.0
        # Only the pauses count: a stream that sent for minutes until it was cut was no silence.
        self._backoff = Backoff(TRANSFER_RETRY_SECONDS, clock=lambda: self._paused, sleep=self._pause)
        self._offset = 0
        self._fault: LoupeError | None = None

    async def run(self) -> None:
        """Send the file until storage has it."""
        while True:
            try:
                await self._service.send(self._go_on, 0.0)
            except (Unavailable, UploadIncomplete) as error:
                await self._backoff.wait(error)
            except DigestMismatch as error:
                # With an offset, what came before may be of an earlier push; storage has thrown it away.
                if self._offset == 0:
                    raise _changed(self._file.path) from error
            except (Cancelled, asyncio.CancelledError):
                if self._fault is not None:
                    raise self._fault from None
                raise
            else:
                return

    async def _pause(self, seconds: float) -> None:
        self._paused += seconds
        await asyncio.sleep(seconds)

    async def _go_on(self, stub: BlobServiceAsyncStub) -> None:
        """Send what storage lacks in one stream."""
        asked = blobs.QueryUploadRequest(parent=self._project, digest=self._file.digest)
        held = await stub.QueryUpload(asked, timeout=CALL_SECONDS)
        if held.complete:
            return
        if held.committed_size > self._offset:
            self._backoff.reset()
        self._offset = held.committed_size
        await stub.UploadBlob(self._requests(self._offset))

    async def _requests(self, offset: int) -> AsyncIterator[blobs.UploadBlobRequest]:
        digest, size, request = self._file.digest, self._file.size, blobs.UploadBlobRequest
        yield request(header=blobs.UploadBlobHeader(parent=self._project, digest=digest, size=size, offset=offset))
        try:
            async for chunk in _chunks(self._file, offset):
                yield request(chunk=chunk)
                offset += len(chunk)
                self._bar.tell(offset)
        except LoupeError as error:
            self._fault = error  # gRPC would only cancel the call
            raise
        yield request(closing=blobs.UploadBlobClosing(digest=digest, size=size))


async def _chunks(file: Hashed, offset: int) -> AsyncIterator[bytes]:
    """Yield a file from an offset to the size that it had when it was hashed."""
    try:
        with file.path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            while offset < file.size:
                chunk = await asyncio.to_thread(stream.read, min(CHUNK, file.size - offset))
                if not chunk:
                    raise _changed(file.path)
                yield chunk
                offset += len(chunk)
    except OSError as error:
        raise unreadable(file.path, error) from error


def _state_of(path: Path) -> FileState:
    """Look at a file. Raises InvalidArgument for what cannot be pushed."""
    try:
        state = FileState.of(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not path.is_file():
        raise invalid("path", str(path), "a file; this is a folder, a pipe or a device")
    if not state.size:
        raise invalid("path", str(path), "a file that is not empty")
    return state


def _changed(path: Path) -> InvalidArgument:
    return invalid("path", str(path), "a file that stays as it is while it is sent; push it again")
