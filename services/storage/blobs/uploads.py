"""Uploads of large blobs: resumed where they were cut, visible only when size and sha256 are right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from loupe.concurrency import shielded, shielded_method
from loupe.errors import DigestMismatch, ResourceExhausted, SizeMismatch, UploadIncomplete, invalid
from loupe.identity import AttemptGrant
from loupe.names import ProjectName, check_sha256
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.staging import Staging
from services.storage.files.chunks import measure


@dataclass(frozen=True)
class BlobOrder:
    """Announces a blob; grant is set when a training attempt sends it."""

    project: ProjectName
    digest: str
    size: int
    offset: int
    grant: AttemptGrant | None = None


@dataclass(frozen=True)
class BlobClosing:
    """Ends a stream: the whole blob's sha256 in hex and its size."""

    digest: str
    size: int


class BlobUploads:
    """Takes single files of any size.

    max_bytes: largest size that is taken.
    """

    def __init__(self, blobs: Blobs, staging: Staging, max_bytes: int) -> None:
        self._blobs = blobs
        self._staging = staging
        self._max_bytes = max_bytes
        self._writers: dict[tuple[str, str], Upload] = {}

    async def query(self, project: ProjectName, digest: str, grant: AttemptGrant | None) -> tuple[int, bool]:
        """Return how many bytes of a blob are durable, and whether it is complete."""
        check_sha256("digest", digest)
        row = await self._blobs.find(project, digest, grant)
        if row is not None:
            return row.size, True
        part = self._staging.path(project.project, digest)
        return await asyncio.to_thread(self._staging.committed, part), False

    async def receive(self, order: BlobOrder, parts: AsyncIterator[bytes | BlobClosing]) -> None:
        """Store a blob, durable when it returns; a blob that is there already is not read again.

        Raises UploadIncomplete (what came can be resumed), SizeMismatch, DigestMismatch (what came is thrown away),
        StaleAttempt, ResourceExhausted, QuotaExceeded (what came can be resumed once there is room).
        """
        self._check(order)
        upload = Upload(order, self._blobs, self._staging, self._writers)
        try:
            if not await upload.begin():
                return
            async for part in parts:
                if isinstance(part, BlobClosing):
                    await upload.commit(part)
                    return
                await upload.append(part)
                del part  # or it stayed in memory until the next one has come
            message = f"the stream ended without its closing message; go on at {upload.position}"
            raise UploadIncomplete(message, committed=upload.position)
        finally:
            upload.abort()

    def _check(self, order: BlobOrder) -> None:
        check_sha256("header.digest", order.digest)
        if not 0 <= order.offset <= order.size:
            raise invalid("header.offset", order.offset, f"0 to the size, {order.size}")
        if order.size > self._max_bytes:
            raise ResourceExhausted(
                f"{order.size} bytes; at most {self._max_bytes} are taken", limit="max_blob_bytes", value=order.size
            )


class Upload:
    """One stream that brings a blob. Of several that bring the same one, the youngest writes.

    writers: which upload writes, by project and digest. position: where the next bytes go.
    """

    def __init__(
        self, order: BlobOrder, blobs: Blobs, staging: Staging, writers: dict[tuple[str, str], Upload]
    ) -> None:
        self.position = order.offset
        self._order = order
        self._blobs = blobs
        self._staging = staging
        self._writers = writers
        self._key = (order.project.project, order.digest)
        self._part = staging.path(*self._key)
        self._lock = blobs.lock(*self._key)

    @shielded_method
    async def begin(self) -> bool:
        """Take an older stream's place; False when the blob is there and nothing needs to come.

        Raises QuotaExceeded.
        """
        order = self._order
        async with self._lock:
            if await self._blobs.find(order.project, order.digest, order.grant) is not None:
                return False
            await self._blobs.require_room(order.project.project, order.size)
            self._writers[self._key] = self
            await asyncio.to_thread(self._staging.open, self._part, order.offset, order.size)
            return True

    async def append(self, data: bytes) -> None:
        """Write what came next. Raises SizeMismatch, UploadIncomplete once a younger stream writes."""
        size, end = self._order.size, self.position + len(data)
        if end > size:
            message = f"{size} bytes were announced, but at least {end} came"
            raise SizeMismatch(message, announced=size, received=end)
        async with self._lock:
            self._require_turn()
            await shielded(asyncio.to_thread(self._staging.write, self._part, data, self.position))
        self.position = end

    @shielded_method
    async def commit(self, closing: BlobClosing) -> None:
        """Make the blob visible and durable when it is whole.

        Raises SizeMismatch, DigestMismatch, StaleAttempt, UploadIncomplete once a younger stream writes.
        """
        order = self._order
        _agree(order, closing)
        if self.position != order.size:
            message = f"{order.size} bytes were announced, but {self.position} came"
            raise SizeMismatch(message, announced=order.size, received=self.position)
        async with self._lock:
            self._require_turn()
            measured = await asyncio.to_thread(measure, self._part)
            if (measured.digest, measured.size) != (order.digest, order.size):
                await asyncio.to_thread(self._part.unlink)
                raise DigestMismatch(
                    "the bytes that came do not have the announced sha256; begin again at 0",
                    announced=f"sha256:{order.digest}",
                    received=f"sha256:{measured.digest}",
                )
            await self._blobs.add(order.project.project, self._part, measured, order.grant)

    def abort(self) -> None:
        """Write no more; what came stays, to be gone on with. Nothing happens after commit()."""
        if self._writers.get(self._key) is self:
            del self._writers[self._key]

    def _require_turn(self) -> None:
        if self._writers.get(self._key) is not self:
            raise UploadIncomplete("the same blob is being uploaded anew; this stream is given up", committed=0)


def _agree(order: BlobOrder, closing: BlobClosing) -> None:
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
