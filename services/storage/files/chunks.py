"""Large files read chunk by chunk, each one checked before anybody gets it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from loupe.errors import DataLoss
from services.storage.files.files import Files

log = structlog.get_logger(__name__)

CHUNK = 1 << 20
"""Bytes that are read and checked at once."""

READ_AHEAD = 4
"""Chunks that are read together."""


@dataclass(frozen=True)
class Measured:
    """What a file's bytes are: sha256 in hex, size, and the 32-byte sha256 of each chunk of 1 MiB, joined."""

    digest: str
    size: int
    chunk_digests: bytes


@dataclass(frozen=True)
class ChunkedFile:
    """A finished file and what its bytes must be."""

    key: str
    measured: Measured


def measure(path: Path) -> Measured:
    """Read a local file and return what its bytes are."""
    whole, digests, size = hashlib.sha256(), [], 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            digests.append(hashlib.sha256(chunk).digest())
            size += len(chunk)
    return Measured(whole.hexdigest(), size, b"".join(digests))


async def read_chunks(files: Files, file: ChunkedFile, offset: int = 0) -> AsyncIterator[tuple[int, bytes]]:
    """Yield (offset, bytes) up to the end, at most 1 MiB each. Raises DataLoss before a damaged chunk."""
    size, position = file.measured.size, offset
    while position < size:
        first = position // CHUNK
        starts = range(first * CHUNK, min(size, (first + READ_AHEAD) * CHUNK), CHUNK)
        ranges = [(start, min(CHUNK, size - start)) for start in starts]
        try:
            found = await files.read(file.key, ranges)
        except FileNotFoundError as error:
            raise _loss(file) from error
        await asyncio.to_thread(_verify, file, first, ranges, found)
        for (start, _), data in zip(ranges, found, strict=True):
            yield max(start, position), data[max(0, position - start) :]
        position = starts[-1] + ranges[-1][1]


def _verify(file: ChunkedFile, first: int, ranges: list[tuple[int, int]], found: list[bytes]) -> None:
    for number, (_, length), data in zip(range(first, first + len(ranges)), ranges, found, strict=True):
        expected = file.measured.chunk_digests[number * 32 : number * 32 + 32]
        if len(data) != length or hashlib.sha256(data).digest() != expected:
            raise _loss(file)


def _loss(file: ChunkedFile) -> DataLoss:
    log.error("stored bytes have changed", key=file.key)
    return DataLoss("stored bytes are no longer what was stored", digest=file.measured.digest)
