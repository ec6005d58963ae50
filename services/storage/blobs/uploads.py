"""Large blobs: gathered in a temporary file that a cut does not lose, visible only when size and sha256 are right."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from loupe.concurrency import shielded
from loupe.errors import DigestMismatch, ResourceExhausted, SizeMismatch, UploadIncomplete, invalid, not_found
from loupe.identity import AttemptGrant
from loupe.names import ProjectName, check_sha256, check_sha256s
from services.storage.blobs.chunks import Measured, PiecedFile, measure
from services.storage.blobs.disk import Disk, full_disk_is_exhaustion
from services.storage.blobs.fences import require_current
from services.storage.blobs.files import Files
from services.storage.blobs.store import BlobRow
from services.storage.database.session import Database

log = structlog.get_logger(__name__)

MAX_DIGESTS = 20_000
_KEPT_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class BlobOrder:
    """Announces a blob; grant is set when a training attempt sends it."""

    project: ProjectName
    digest: str
    size: int
    offset: int
    grant: AttemptGrant | None = None


@dataclass(frozen=True)
class Closing:
    """Ends a stream: the whole blob's sha256 in hex and its size."""

    digest: str
    size: int


def check_digests(digests: Sequence[str]) -> Sequence[str]:
    """Return a request's list of digests. Raises InvalidArgument, ResourceExhausted above 20,000."""
    if len(digests) > MAX_DIGESTS:
        raise ResourceExhausted(
            f"{len(digests)} digests in one request; at most {MAX_DIGESTS}", limit="digests", value=MAX_DIGESTS
        )
    return check_sha256s("digests", list(digests))


def blob_file(project: str, row: BlobRow) -> PiecedFile:
    """Say where a blob's bytes are and what they must be."""
    return PiecedFile(_key(project, row.digest), Measured(row.digest, row.size, row.piece_digests))


class Blobs:
    """Takes single files of any size.

    staging: folder for what is not complete. max_bytes: largest size that is taken.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        disk: Disk,
        *,
        staging: Path,
        max_bytes: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._files = files
        self._disk = disk
        self._staging = staging
        self._max_bytes = max_bytes
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writers: dict[str, object] = {}

    async def find_missing(
        self, project: ProjectName, digests: Sequence[str], grant: AttemptGrant | None = None
    ) -> list[str]:
        """Return those of the digests that this project has neither as picture nor as blob."""
        wanted = check_digests(digests)
        async with self._database.read() as session:
            missing = await session.blobs.missing(project.project, wanted, _job(grant))
            borrowed = await session.blobs.known(project.project, list(missing)) if missing else ()
        if borrowed:
            async with self._database.write() as session:
                await session.blobs.keep(project.project, list(borrowed))
                missing = await session.blobs.missing(project.project, wanted, _job(grant))
        return [digest for digest in wanted if digest in missing]

    async def query(self, project: ProjectName, digest: str, grant: AttemptGrant | None) -> tuple[int, bool]:
        """Return how many bytes of a blob are durable, and whether it is complete."""
        check_sha256("digest", digest)
        row = await self._find(BlobOrder(project, digest, 0, 0, grant))
        if row is not None:
            return row.size, True
        return await asyncio.to_thread(self._committed, self._part(project.project, digest)), False

    async def receive(self, order: BlobOrder, parts: AsyncIterator[bytes | Closing]) -> None:
        """Store a blob, durable when it returns; a blob that is there already is not read again.

        Raises UploadIncomplete (what came can be resumed), SizeMismatch, DigestMismatch (what came is thrown away),
        StaleAttempt, ResourceExhausted.
        """
        self._check(order)
        path, key = self._part(order.project.project, order.digest), _key(order.project.project, order.digest)
        writer = object()
        try:
            if not await shielded(self._begin(order, path, key, writer)):
                return
            position = await self._write_all(order, parts, path, key, writer)
            if position != order.size:
                raise SizeMismatch(
                    f"{order.size} bytes were announced, but {position} came", announced=order.size, received=position
                )
            await shielded(self._complete(order, path, key, writer))
        finally:
            if self._writers.get(key) is writer:
                del self._writers[key]

    def _check(self, order: BlobOrder) -> None:
        check_sha256("header.digest", order.digest)
        if not 0 <= order.offset <= order.size:
            raise invalid("header.offset", order.offset, f"0 to the size, {order.size}")
        if order.size > self._max_bytes:
            raise ResourceExhausted(
                f"{order.size} bytes; at most {self._max_bytes} are taken", limit="max_blob_bytes", value=order.size
            )

    async def _begin(self, order: BlobOrder, path: Path, key: str, writer: object) -> bool:
        """Make this stream the one that writes the blob, in place of an older one; False when the blob is there."""
        async with self._lock(key):
            if await self._find(order) is not None:
                return False
            self._writers[key] = writer
            await asyncio.to_thread(self._open, path, order)
            return True

    async def _find(self, order: BlobOrder) -> BlobRow | None:
        """Return the blob when it is there; one that somebody else asks about no longer goes with a checkpoint."""
        project = order.project.project
        async with self._database.read() as session:
            if await session.projects.find(project) is None:
                raise not_found(order.project)
            await require_current(session, order.grant)
            row = (await session.blobs.locate(project, [order.digest])).get(order.digest)
        if row is not None and row.job not in (None, _job(order.grant)):
            async with self._database.write() as session:
                await session.blobs.keep(project, [order.digest])
                row = (await session.blobs.locate(project, [order.digest])).get(order.digest)
        return row

    def _open(self, path: Path, order: BlobOrder) -> None:
        committed = path.stat().st_size if path.exists() else 0
        if order.offset > committed:
            raise UploadIncomplete(
                f"header.offset is {order.offset}, but {committed} bytes are stored; go on there", committed=committed
            )
        self._disk.require_space(self._staging, order.size - order.offset)
        with full_disk_is_exhaustion():
            descriptor = self._disk.create(path)
            try:
                os.ftruncate(descriptor, order.offset)
            finally:
                os.close(descriptor)

    async def _write_all(
        self, order: BlobOrder, parts: AsyncIterator[bytes | Closing], path: Path, key: str, writer: object
    ) -> int:
        position = order.offset
        async for part in parts:
            if isinstance(part, Closing):
                _agree(order, part)
                return position
            if position + len(part) > order.size:
                received = position + len(part)
                message = f"{order.size} bytes were announced, but at least {received} came"
                raise SizeMismatch(message, announced=order.size, received=received)
            async with self._lock(key):
                self._require_writer(key, writer)
                await shielded(asyncio.to_thread(self._write, path, part, position))
            position += len(part)
        raise UploadIncomplete(f"the stream ended without its closing message; go on at {position}", committed=position)

    def _require_writer(self, key: str, writer: object) -> None:
        if self._writers.get(key) is not writer:
            raise UploadIncomplete("the same blob is being uploaded anew; this stream is given up", committed=0)

    def _write(self, path: Path, data: bytes, position: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with full_disk_is_exhaustion():
                self._disk.write(descriptor, data, position)
        finally:
            os.close(descriptor)

    async def _complete(self, order: BlobOrder, path: Path, key: str, writer: object) -> None:
        async with self._lock(key):
            self._require_writer(key, writer)
            measured = await asyncio.to_thread(measure, path)
            if (measured.digest, measured.size) != (order.digest, order.size):
                await asyncio.to_thread(path.unlink)
                raise DigestMismatch(
                    "the bytes that came do not have the announced sha256; begin again at 0",
                    announced=f"sha256:{order.digest}",
                    received=f"sha256:{measured.digest}",
                )
            await self._publish(order, path, key, measured)

    async def _publish(self, order: BlobOrder, path: Path, key: str, measured: Measured) -> None:
        project = order.project.project
        await self._files.publish(path, key)
        try:
            async with self._database.write() as session:
                await require_current(session, order.grant)
                row = BlobRow(measured.digest, measured.size, measured.piece_digests, _job(order.grant))
                await session.blobs.add(project, row)
        except BaseException:
            await self._remove_unknown(project, order.digest)
            raise

    async def remove(self, project: str, digests: Sequence[str]) -> None:
        """Delete the files of blobs that are no longer in the database."""
        for digest in digests:
            async with self._lock(_key(project, digest)):
                await self._remove_unknown(project, digest)

    async def _remove_unknown(self, project: str, digest: str) -> None:
        async with self._database.read() as session:
            known = await session.blobs.known(project, [digest])
        if not known:
            await self._files.delete(_key(project, digest))

    async def recover(self) -> None:
        """Remove, after a start, finished files without a row and temporary files older than a week."""
        for key in await self._files.keys("blobs"):
            _, project, digest = key.split("/")
            await self._remove_unknown(project, digest)
        await asyncio.to_thread(self._remove_old_parts)

    def _remove_old_parts(self) -> None:
        self._staging.mkdir(parents=True, exist_ok=True)
        for path in self._staging.rglob("*"):
            if path.is_file() and path.stat().st_mtime < self._now() - _KEPT_SECONDS:
                log.info("removed an upload that nobody resumed", part=path.name)
                path.unlink()

    def _committed(self, path: Path) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            self._disk.sync(descriptor)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def _part(self, project: str, digest: str) -> Path:
        return self._staging / project / digest

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())


def _job(grant: AttemptGrant | None) -> str | None:
    return str(grant.job) if grant else None


def _key(project: str, digest: str) -> str:
    return f"blobs/{project}/{digest}"


def _agree(order: BlobOrder, closing: Closing) -> None:
    if closing.size != order.size:
        raise SizeMismatch(
            f"the header announces {order.size} bytes, the closing {closing.size}",
            announced=order.size,
            received=closing.size,
        )
    if closing.digest != order.digest:
        raise DigestMismatch(
            "header and closing announce different digests",
            announced=f"sha256:{order.digest}",
            received=f"sha256:{closing.digest[:64]}",
        )
