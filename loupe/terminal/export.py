"""Writing a data set version into a folder per class, with a splits.csv that pushes the very same version again."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from loupe.backoff import Backoff
from loupe.errors import AlreadyExists, DataLoss, Unavailable
from loupe.names import DatasetVersionName
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_pb2
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS
from loupe.terminal.datasets import Datasets
from loupe.terminal.hashing import sha256_of
from loupe.terminal.picture_source import SPLIT_WORDS
from loupe.terminal.progress import ExportProgress

CHUNK = 500
LISTING = "splits.csv"
LONGEST_PART = 120
RISKY = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]')


def safe_part(text: str) -> str:
    """Make one file-system name of a text that somebody else chose; letters of every script stay."""
    cleaned = RISKY.sub(lambda match: quote(match[0], safe=""), text).strip(". ")[:LONGEST_PART]
    return cleaned or "_"


class Places:
    """Gives each item its place: its class's folder and its own name, with its digest where that is taken."""

    def __init__(self) -> None:
        self._taken: set[str] = {LISTING}

    def place(self, item: dataset_pb2.DatasetItem) -> PurePosixPath:
        """Return the item's path; the same items in the same order have the same places."""
        name = PurePosixPath(item.filename or "picture")
        folder, stem, suffix = safe_part(item.label), safe_part(name.stem), safe_suffix(name.suffix)
        # Some file systems take upper and lower case for the same.
        if folder.casefold() == LISTING:
            folder += "_"
        if f"{folder}/{stem}{suffix}".casefold() in self._taken:
            stem += f"-{item.digest[:16]}"
        self._taken.add(f"{folder}/{stem}{suffix}".casefold())
        return PurePosixPath(folder) / f"{stem}{suffix}"


def safe_suffix(suffix: str) -> str:
    """Keep an ordinary extension, drop any other."""
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", suffix) else ""


async def export_version(
    datasets: Datasets, name: DatasetVersionName, folder: Path, show: Callable[[ExportProgress], None]
) -> int:
    """Write every picture and, last, splits.csv; return the number of pictures.

    Only a chunk of pictures is in memory at a time. What stands there whole already is not fetched again, so an export
    that was cut can be repeated. Raises AlreadyExists when the folder holds something else.
    """
    unfinished = _prepare(folder)
    version = await datasets.version(str(name))
    written = 0
    places = Places()
    with unfinished.open("w", encoding="utf-8", newline="") as listing:
        rows = csv.writer(listing)
        rows.writerow(["path", "label", "split"])
        async for chunk in _chunks(datasets.items(version.name)):
            placed = {item.digest: places.place(item) for item in chunk}
            targets = {digest: folder / path for digest, path in placed.items()}
            await _fetch(datasets, f"projects/{name.project}", targets)
            rows.writerows([placed[item.digest], item.label, SPLIT_WORDS.get(item.split, "")] for item in chunk)
            written += len(chunk)
            show(ExportProgress(written, version.picture_count))
        listing.flush()
        os.fsync(listing.fileno())
    unfinished.replace(folder / LISTING)
    return written


def _prepare(folder: Path) -> Path:
    """Make the folder and return where the listing is written until it is whole."""
    unfinished = folder / f".{LISTING}.part"
    if folder.exists() and any(folder.iterdir()) and not unfinished.exists() and not (folder / LISTING).exists():
        raise AlreadyExists(f"{folder} is not empty; name an empty folder", resource=folder)
    folder.mkdir(parents=True, exist_ok=True)
    return unfinished


async def _chunks(items: AsyncGenerator[dataset_pb2.DatasetItem]) -> AsyncIterator[list[dataset_pb2.DatasetItem]]:
    chunk: list[dataset_pb2.DatasetItem] = []
    async with contextlib.aclosing(items):
        async for item in items:
            chunk.append(item)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


async def _fetch(datasets: Datasets, project: str, targets: Mapping[str, Path]) -> None:
    backoff = Backoff(TRANSFER_RETRY_SECONDS)
    lacking = {digest: path for digest, path in targets.items() if not _is_whole(path, digest)}
    while lacking:
        try:
            async with contextlib.aclosing(datasets.download(project, list(lacking))) as responses:
                async for digest, data in _whole_blobs(responses):
                    backoff.reset()
                    await asyncio.to_thread(_write, lacking.pop(digest), data, digest)
        except Unavailable as error:
            await backoff.wait(error)
        else:
            if lacking:
                await backoff.wait(Unavailable("the download ended early", dependency="storage"))


async def _whole_blobs(responses: AsyncIterator[blobs.DownloadBlobsResponse]) -> AsyncIterator[tuple[str, bytes]]:
    pending = bytearray()
    async for response in responses:
        for piece in response.pieces:
            if piece.offset != len(pending):
                raise DataLoss(f"a piece of {piece.digest} is missing; export again", digest=piece.digest)
            pending += piece.data
            if len(pending) >= piece.size:
                yield piece.digest, bytes(pending)
                pending = bytearray()


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _write(path: Path, data: bytes, digest: str) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataLoss(f"the picture {digest} arrived with another sha256; export again", digest=digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
