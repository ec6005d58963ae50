"""Writing a data set version into a folder, in a format that pushes the very same version again as far as it can."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loupe import picture
from loupe.backoff import Backoff
from loupe.errors import AlreadyExists, DataLoss, Unavailable, invalid
from loupe.names import DatasetVersionName
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_pb2
from loupe.terminal.annotation_messages import annotations_of
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS
from loupe.terminal.datasets import Datasets
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.csv_table import LISTING
from loupe.terminal.formats.sources import FOLDERS
from loupe.terminal.formats.targets import WRITERS
from loupe.terminal.formats.writing import Writing
from loupe.terminal.hashing import sha256_of
from loupe.terminal.picture_source import LabelledPicture
from loupe.terminal.progress import ExportProgress

CHUNK = 500
MARKER = ".export.part"
"""The file that stands in the folder until the export is whole; it says the format."""


@dataclass
class Exported:
    """What an export came to. listing: what describes the pictures. warnings: what the format cannot say, counted."""

    pictures: int
    listing: Path
    warnings: list[str] = field(default_factory=list)


async def export_version(
    datasets: Datasets,
    name: DatasetVersionName,
    folder: Path,
    show: Callable[[ExportProgress], None],
    format: str = FOLDERS,
) -> Exported:
    """Write every picture and, last, what describes them; format: one of `formats.sources.FORMATS`.

    Only a chunk of pictures is in memory at a time. What stands there whole already is not fetched again, so an export
    that was cut can be repeated. Raises AlreadyExists when the folder holds something else.
    """
    if format not in WRITERS:
        raise invalid("format", format, f"one of {', '.join(WRITERS)}")
    marker = _prepare(folder, format)
    version = await datasets.version(str(name))
    writer = WRITERS[format](folder, [each.label for each in version.labels])
    written = 0
    async for chunk in _chunks(datasets.items(version.name)):
        placed = [(item, folder / writer.place(item)) for item in chunk]
        await _write_missing(datasets, f"projects/{name.project}", {item.digest: path for item, path in placed})
        await asyncio.to_thread(_describe, writer, placed)
        written += len(chunk)
        show(ExportProgress(written, version.picture_count))
    listing = await asyncio.to_thread(writer.finish)
    marker.unlink()
    return Exported(written, listing, [f"{count} {what}" for what, count in writer.lost.items()])


def _describe(writer: Writing, placed: Sequence[tuple[dataset_pb2.DatasetItem, Path]]) -> None:
    for item, path in placed:
        annotations = annotations_of(item)
        made = LabelledPicture(path, item.label, item.split, item.filename, annotations, item.nothing_there)
        writer.add(made, _canvas(item, path, needed=made.annotated))


def _canvas(item: dataset_pb2.DatasetItem, path: Path, *, needed: bool) -> Canvas:
    """Return a picture's size, by its own file where the version does not say it; 0 where nothing needs it."""
    if (item.width and item.height) or not needed:
        return Canvas(item.width, item.height)
    try:
        return Canvas(*picture.upright_size(path.read_bytes()))
    except picture.BadPicture as error:
        raise DataLoss(f"the picture {item.digest} cannot be read: {error}", digest=item.digest) from error


def _prepare(folder: Path, format: str) -> Path:
    """Make the folder with its marker, and return that. Raises AlreadyExists for a folder of something else."""
    marker = folder / MARKER
    if folder.exists() and any(folder.iterdir()):
        begun = marker.read_text(encoding="utf-8") if marker.exists() else ""
        if begun != format and not (format == FOLDERS and not begun and (folder / LISTING).exists()):
            note = f" (an export as {begun} was begun there)" if begun else ""
            raise AlreadyExists(f"{folder} is not empty{note}; name an empty folder", resource=folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(format, encoding="utf-8")
    return marker


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


async def _write_missing(datasets: Datasets, project: str, targets: Mapping[str, Path]) -> None:
    lacking = {digest: path for digest, path in targets.items() if not _is_whole(path, digest)}
    async with contextlib.aclosing(fetch(datasets, project, list(lacking))) as pictures:
        async for digest, data in pictures:
            await asyncio.to_thread(_write, lacking[digest], data)


async def fetch(datasets: Datasets, project: str, digests: Sequence[str]) -> AsyncGenerator[tuple[str, bytes]]:
    """Yield each picture's digest and file, on after a cut. Raises DataLoss for bytes that are not the picture's."""
    backoff = Backoff(TRANSFER_RETRY_SECONDS)
    lacking = dict.fromkeys(digests)
    while lacking:
        try:
            async with contextlib.aclosing(datasets.download(project, list(lacking))) as responses:
                async for digest, data in _whole_blobs(responses):
                    backoff.reset()
                    if hashlib.sha256(data).hexdigest() != digest:
                        raise DataLoss(f"the picture {digest} arrived with another sha256; try again", digest=digest)
                    del lacking[digest]
                    yield digest, data
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


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
