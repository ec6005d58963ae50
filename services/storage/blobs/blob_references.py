"""Files that a model or a checkpoint consists of: named sensibly, and there before they are named."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from loupe.errors import BlobMissing, SizeMismatch, invalid
from loupe.names import check_sha256
from services.storage.blobs.store import BlobTable, Holder
from services.storage.database.session import Session
from services.storage.pictures.naming import keep_pictures
from services.storage.pictures.store import PictureTable

Named = tuple[str, str]
"""A filename and a digest."""

_MAX_FILES = 1000
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class BlobReference:
    """A file of something: what it is called there, its sha256 in hex, and its size in bytes."""

    filename: str
    digest: str
    size: int


def check_files(files: Sequence[BlobReference]) -> None:
    """Raise InvalidArgument unless each file has a plain name of its own and a digest."""
    if len(files) > _MAX_FILES:
        raise invalid("files", len(files), f"at most {_MAX_FILES} files")
    seen: set[str] = set()
    for file in files:
        if not _FILENAME.fullmatch(file.filename):
            raise invalid("files.filename", file.filename, "letters, digits, dots, hyphens and underscores, no folder")
        if file.filename in seen:
            raise invalid("files.filename", file.filename, "each filename once")
        seen.add(file.filename)
        check_sha256("files.digest", file.digest)


async def hold_files(session: Session, holder: Holder, files: Sequence[BlobReference]) -> None:
    """Keep the files' blobs from being removed while the holder names them.

    Raises BlobMissing for a file that the project does not have, SizeMismatch for one that has another size.
    """
    digests = [file.digest for file in files]
    blobs = await BlobTable(session).locate(holder.project, digests)
    gone = await keep_pictures(session, holder.project, [digest for digest in digests if digest not in blobs])
    pictures = await PictureTable(session).locate(holder.project, digests)
    sizes = {digest: row.size for digest, row in pictures.items()} | {digest: row.size for digest, row in blobs.items()}
    if missing := [file for file in files if file.digest in gone or file.digest not in sizes]:
        names = ", ".join(file.filename for file in missing[:5])
        raise BlobMissing(
            f"{len(missing)} of the files are not stored in this project: {names}",
            digest=missing[0].digest,
            count=len(missing),
        )
    for file in files:
        if file.size != sizes[file.digest]:
            raise SizeMismatch(
                f"{file.filename} is announced with {file.size} bytes, but has {sizes[file.digest]}",
                announced=file.size,
                received=sizes[file.digest],
            )
    named = [(file.filename, file.digest) for file in files]
    await BlobTable(session).hold(holder, *_parted(named, blobs))


async def hold_what_is_there(session: Session, holder: Holder, digests: Mapping[str, str]) -> None:
    """Keep what is named, by filename, from being removed while the holder names it; what is gone is left out."""
    blobs = await BlobTable(session).locate(holder.project, list(digests.values()))
    gone = await keep_pictures(session, holder.project, [each for each in digests.values() if each not in blobs])
    named = [(filename, digest) for filename, digest in digests.items() if digest not in gone]
    await BlobTable(session).hold(holder, *_parted(named, blobs))


def _parted(named: Sequence[Named], blobs: Container[str]) -> tuple[list[Named], list[Named]]:
    """Return which files are blobs, and which are pictures."""
    return [each for each in named if each[1] in blobs], [each for each in named if each[1] not in blobs]
