"""The algorithm image library, which all projects share: an image is verified as a whole before it joins."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from loupe import paging
from loupe.algorithm.manifest import FILE_NAME
from loupe.algorithm.reserved import is_reserved
from loupe.concurrency import shielded
from loupe.errors import (
    AlreadyExists,
    BadAlgorithm,
    DigestMismatch,
    ResourceExhausted,
    SizeMismatch,
    UploadIncomplete,
    not_found,
)
from loupe.identity import AttemptGrant
from loupe.lifetimes import THERE
from loupe.limits import MAX_IMAGE_BYTES
from loupe.names import AccountName, AlgorithmName, AlgorithmVersionName, check_sha256
from services.storage.algorithms.messages import built_in, creator_of, encode_version, is_built_in
from services.storage.algorithms.store import AlgorithmRow, AlgorithmTable
from services.storage.algorithms.verification import VerifiedImage, verify
from services.storage.database.lifetimes import READING_SECONDS, Lifetime, list_scope
from services.storage.database.session import Database, Session
from services.storage.files.chunks import ChunkedFile, Measured, read_chunks
from services.storage.files.disk import Disk, full_disk_is_exhaustion
from services.storage.files.files import Files
from services.storage.models.store import ModelTable

log = structlog.get_logger(__name__)

_NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class ImageClosing:
    """Ends a stream, as the header began it: sha256 in hex and size of the packed image."""

    digest: str
    size: int


class Algorithms:
    """Takes, lists and gives algorithm images.

    now: wall-clock seconds.
    """

    def __init__(
        self, database: Database, files: Files, disk: Disk, *, staging: Path, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._files = files
        self._disk = disk
        self._staging = staging
        self._now = now
        self._publishing = asyncio.Lock()

    async def publish(
        self, header: ImageClosing, parts: AsyncIterator[bytes | ImageClosing], creator: AccountName | None
    ) -> AlgorithmRow:
        """Verify a packed image and put it into the library; the same image again is the same version.

        creator: None for an image that ships with Loupe. The names of those are reserved: an upload under one is
        BadAlgorithm, and one from before the name was reserved makes way for the image that ships. Raises BadAlgorithm,
        AlreadyExists, DigestMismatch, SizeMismatch, UploadIncomplete, ResourceExhausted; then nothing of it stays.
        """
        check_sha256("header.digest", header.digest)
        if header.size > MAX_IMAGE_BYTES:
            raise ResourceExhausted(
                f"the image has {header.size} bytes; at most {MAX_IMAGE_BYTES}", limit="image_bytes", value=header.size
            )
        folder = self._staging / uuid.uuid4().hex
        await asyncio.to_thread(folder.mkdir, parents=True)
        try:
            packed = folder / "image.tar"
            await self._gather(packed, header, parts)
            verified = await asyncio.to_thread(verify, packed, folder / "tree")
            async with self._publishing:
                return await self._join(packed, verified, creator)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)

    async def _gather(self, packed: Path, header: ImageClosing, parts: AsyncIterator[bytes | ImageClosing]) -> None:
        descriptor = await asyncio.to_thread(self._disk.create, packed)
        received, total = 0, hashlib.sha256()
        try:
            async for part in parts:
                if isinstance(part, ImageClosing):
                    _agree(header, part, received, total.hexdigest())
                    return
                if received + len(part) > header.size:
                    raise SizeMismatch(
                        f"{header.size} bytes were announced, but more came",
                        announced=header.size,
                        received=received + len(part),
                    )
                await shielded(asyncio.to_thread(self._write, descriptor, part, received))
                total.update(part)
                received += len(part)
                del part  # or it stayed in memory until the next one has come
        finally:
            os.close(descriptor)
        raise UploadIncomplete("the stream ended without its closing message; send the image again", committed=0)

    def _write(self, descriptor: int, data: bytes, position: int) -> None:
        with full_disk_is_exhaustion():
            self._disk.write(descriptor, data, position)

    async def _join(self, packed: Path, verified: VerifiedImage, creator: AccountName | None) -> AlgorithmRow:
        async with self._database.read() as session:
            there = await _same_or_taken(session, verified, creator)
        if there is None:
            await self._files.publish(packed, _key(verified.measured.digest))
        try:
            async with self._database.write() as session:
                return await self._write_row(session, verified, creator)
        except BaseException:
            if there is None:
                await self._remove_unknown(verified.measured.digest)
            raise

    async def _write_row(self, session: Session, verified: VerifiedImage, creator: AccountName | None) -> AlgorithmRow:
        table = AlgorithmTable(session)
        row = await _same_or_taken(session, verified, creator)
        if row is not None:
            document = built_in(row.document) if creator is None else row.document
            if document != row.document:
                await table.replace_document(row, document)
            if row.deleted:
                row = await table.set_lifetime(row, Lifetime())
            await settle_newest(table, row.algorithm)
            return replace(row, document=document)
        squatter = await table.find(verified.name.algorithm, verified.name.version)
        if squatter is not None:
            if squatter.digest != verified.measured.digest:
                log.warning(
                    "an upload had taken the version of an image that ships with Loupe; it was removed",
                    version=str(squatter.name),
                    creator=creator_of(squatter.document),
                    digest=squatter.digest,
                )
            await table.remove(squatter)
        measured = verified.measured
        row = AlgorithmRow(
            verified.name.algorithm,
            verified.name.version,
            await table.next_sequence(),
            measured.digest,
            measured.size,
            measured.chunk_digests,
            encode_version(verified, uuid.uuid4().hex, creator, self._now()),
        )
        await table.add(row)
        await settle_newest(table, row.algorithm)
        return row

    async def get(
        self, name: AlgorithmVersionName, *, show_deleted: bool = False, grant: AttemptGrant | None = None
    ) -> AlgorithmRow:
        """Return a version; "latest" is the one that joined last, of a built-in algorithm the last that is built in.

        Raises NotFound, also for a deleted one unless it is asked for. grant: the attempt that reads. It reads on what
        was deleted after its job began, and puts off that it is purged.
        """
        async with self._database.read() as session:
            row = await find_algorithm_version(session, name, show_deleted=show_deleted or grant is not None)
        until = self._now() + READING_SECONDS
        if grant is not None and row.expire_time is not None and row.expire_time < until:
            async with self._database.write() as session:
                await AlgorithmTable(session).extend(row, until)
                return await find_algorithm_version(session, row.name, show_deleted=True)
        return row

    async def page(
        self, algorithm: str, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[AlgorithmRow], str]:
        """Return a page of the newest version of each algorithm, or of all versions of one, newest first.

        Deleted ones only when they are asked for; see AlgorithmTable.page_newest.
        """
        scope = list_scope(f"algorithm versions of {algorithm}", show_deleted=show_deleted)
        size = paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            if algorithm:
                name = AlgorithmName.parse(algorithm, "algorithm")
                before = int(last[0]) if last else _NO_LIMIT
                rows = await AlgorithmTable(session).page_versions(
                    name.algorithm, before, size + 1, show_deleted=show_deleted
                )
            else:
                rows = await AlgorithmTable(session).page_newest(
                    str(last[0]) if last else "", size + 1, show_deleted=show_deleted
                )
        end = rows[size - 1] if len(rows) > size else None
        more = paging.encode(scope, [end.sequence if algorithm else end.algorithm]) if end else ""
        return rows[:size], more

    async def download(self, name: AlgorithmVersionName, grant: AttemptGrant | None = None) -> AsyncIterator[bytes]:
        """Yield a packed image, also of a deleted version that a model was made with. Raises NotFound, DataLoss.

        grant: see get.
        """
        row = await self.get(name, show_deleted=True, grant=grant)
        if row.deleted and grant is None:
            async with self._database.read() as session:
                if not await ModelTable(session).made_with(str(row.name)):
                    raise not_found(name)
        file = ChunkedFile(_key(row.digest), Measured(row.digest, row.size, row.chunk_digests))
        async for _, data in read_chunks(self._files, file):
            yield data

    async def recover(self) -> None:
        """Remove, after a start, images that never joined and what was being verified.

        What is the newest version of an algorithm is settled anew: names may have been reserved since.
        """
        async with self._database.write() as session:
            table = AlgorithmTable(session)
            for algorithm in await table.algorithms():
                await settle_newest(table, algorithm)
        for key in await self._files.keys("algorithms"):
            await self._remove_unknown(key.rsplit("/", 1)[1])
        await asyncio.to_thread(shutil.rmtree, self._staging, ignore_errors=True)

    async def _remove_unknown(self, digest: str) -> None:
        async with self._database.read() as session:
            known = await AlgorithmTable(session).has_digest(digest)
        if not known:
            await self._files.delete(_key(digest))

    async def remove_images(self, digests: Iterable[str]) -> None:
        """Delete the images of versions that are purged."""
        async with self._publishing:
            for digest in digests:
                await self._remove_unknown(digest)


async def find_algorithm_version(
    session: Session, name: AlgorithmVersionName, *, show_deleted: bool = False
) -> AlgorithmRow:
    """Return a version; see AlgorithmTable.find. Raises NotFound, with show_deleted only where none can be restored."""
    row = await AlgorithmTable(session).find(name.algorithm, name.version)
    if row is None or not row.visible(show_deleted=show_deleted):
        raise not_found(name)
    return row


async def settle_newest(table: AlgorithmTable, algorithm: str) -> None:
    """Make the version that joined last, of those that are not deleted, an algorithm's newest one.

    Of an algorithm that ships with Loupe, no upload from before its name was reserved is that.
    """
    rows = await table.page_versions(algorithm, _NO_LIMIT, _NO_LIMIT)
    built_in_ones = [row for row in rows if is_built_in(row.document)]
    rows = built_in_ones if built_in_ones or is_reserved(algorithm) else rows
    await table.set_newest(algorithm, rows[0].sequence if rows else None)


async def _same_or_taken(session: Session, verified: VerifiedImage, creator: AccountName | None) -> AlgorithmRow | None:
    """Return the row of the very same image; None where this one is to join, also in an uploaded one's place."""
    table, name = AlgorithmTable(session), verified.name
    row = await table.find(name.algorithm, name.version)
    same = row is not None and row.digest == verified.measured.digest
    if row is not None and same and row.purged == THERE:
        if row.deleted and creator is not None:
            raise AlreadyExists(f"{name} is there already, deleted; restore it", resource=name, state="DELETED")
        return row
    rows = await table.page_versions(name.algorithm, _NO_LIMIT, _NO_LIMIT)
    ships = is_reserved(name.algorithm) or any(is_built_in(each.document) for each in rows)
    if ships and creator is not None:
        raise BadAlgorithm(
            f'the image is refused: "{name.algorithm}" is the name of an algorithm that ships with Loupe; '
            "give yours another one",
            entry=FILE_NAME,
            problem="reserved_name",
        )
    if row is not None and (same or (ships and not is_built_in(row.document))):
        return None
    if row is not None:
        raise AlreadyExists(
            f"{verified.name} is there with another content; give the image another version",
            resource=verified.name,
            digest=row.digest,
        )
    return None


def _agree(header: ImageClosing, closing: ImageClosing, received: int, digest: str) -> None:
    if not header.size == closing.size == received:
        raise SizeMismatch(
            f"{header.size} bytes were announced, {received} came", announced=header.size, received=received
        )
    if not header.digest == closing.digest == digest:
        raise DigestMismatch(
            "the bytes that came do not have the announced sha256",
            announced=f"sha256:{header.digest}",
            received=f"sha256:{digest}",
        )


def _key(digest: str) -> str:
    return f"algorithms/{digest}"
