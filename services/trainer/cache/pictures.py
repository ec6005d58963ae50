"""Every picture decoded once: memory-mapped arrays that all jobs on the same pictures share."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loupe.concurrency import gather
from loupe.errors import DataLoss, ResourceExhausted
from loupe.letterbox import Fit
from loupe.picture import DECODER
from services.trainer.cache.decoders import BATCH, DecodedPictures, Decoders
from services.trainer.cache.packs import PackCache
from services.trainer.clients.storage import PictureSource

CHUNK = 1024
BLOCK, HEADER = 4096, 128


class Shape(NamedTuple):
    """What pictures are decoded to: height and width in pixels, and how a picture fills them."""

    height: int
    width: int
    fit: Fit


SMALLEST = Shape(1, 1, "stretch")


class PictureCache:
    """Makes and keeps `.npy` files, uint8 [N, height, width, 3], below max_bytes together.

    What was not used for longest goes first, but never what a job has linked into its folder: its bytes would stay.
    share: bytes of arrays that one job may hold, so that all jobs that run at once find room.
    """

    def __init__(self, folder: Path, packs: PackCache, decoders: Decoders, max_bytes: int, jobs: int = 1) -> None:
        self._folder = folder
        self._packs = packs
        self._decoders = decoders
        self._max_bytes = max_bytes
        self._jobs = jobs
        self._making: dict[str, _Making] = {}
        self._reserved = 0
        # Held while arrays are linked or evicted, so that none is evicted that somebody is about to link.
        self._room = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob("*.partial"):
            partial.unlink()

    @property
    def share(self) -> int:
        """Bytes of arrays that one job may hold."""
        return self._max_bytes // self._jobs

    async def link(
        self,
        digests: Sequence[str],
        height: int,
        width: int,
        source: PictureSource,
        target: Path,
        *,
        fit: Fit = "stretch",
    ) -> None:
        """Put the array of these pictures, in their order, at `target`; it is made when it is not there.

        fit: how each picture fills its height and width. Raises BadDataset for a picture that cannot be decoded,
        ResourceExhausted for an array that does not fit beside those that jobs hold, and the LoupeErrors of the source.
        """
        shape = Shape(height, width, fit)
        name = _name(digests, shape)
        array = self._folder / f"{name}.npy"
        # The second caller waits for the first.
        making = self._making.setdefault(name, _Making())
        making.users += 1
        try:
            async with making.lock:
                while not await self._link(array, target):
                    await self._make(array, digests, shape, source)
        finally:
            making.users -= 1
            if not making.users:
                del self._making[name]

    async def _link(self, array: Path, target: Path) -> bool:
        """Put an array at `target` if it is there; return whether it was."""
        async with self._room:
            return await asyncio.to_thread(_use, array, target)

    async def sizes(self, digests: Sequence[str], source: PictureSource) -> np.ndarray:
        """Return int64 [N, 2], width and height of each upright picture, in pixels.

        Raises BadDataset for a picture that cannot be decoded, and the LoupeErrors of the source.
        """
        await self._packs.ensure(digests, source)
        sizes = np.zeros((len(digests), 2), np.int64)

        def keep(first: int, decoded: DecodedPictures) -> None:
            sizes[first : first + len(decoded.sizes)] = decoded.sizes

        for start in range(0, len(digests), CHUNK):
            await self._decode(digests, start, SMALLEST, source, keep)
        return sizes

    async def _make(self, array: Path, digests: Sequence[str], shape: Shape, source: PictureSource) -> None:
        size = array_bytes(len(digests), shape.height, shape.width)
        async with self._room:
            if not await asyncio.to_thread(self._evict, size):
                raise ResourceExhausted(
                    f"{len(digests)} pictures of {shape.height}x{shape.width} need {size} bytes; "
                    f"the cache holds {self._max_bytes}, less what jobs are using",
                    limit="picture_cache_bytes",
                    value=self._max_bytes,
                )
            # What is being made counts for others as if it were there already.
            self._reserved += size
        try:
            await self._fill(array, digests, shape, source)
        finally:
            self._reserved -= size

    async def _fill(self, array: Path, digests: Sequence[str], shape: Shape, source: PictureSource) -> None:
        await self._packs.ensure(digests, source)
        partial = array.with_suffix(".partial")
        whole = (len(digests), shape.height, shape.width, 3)
        rows = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=whole)

        def keep(first: int, decoded: DecodedPictures) -> None:
            rows[first : first + len(decoded.pixels)] = decoded.pixels

        try:
            for start in range(0, len(digests), CHUNK):
                await self._decode(digests, start, shape, source, keep)
            await asyncio.to_thread(rows.flush)
            partial.chmod(0o444)
            partial.rename(array)
        finally:
            partial.unlink(missing_ok=True)

    async def _decode(
        self,
        digests: Sequence[str],
        start: int,
        shape: Shape,
        source: PictureSource,
        keep: Callable[[int, DecodedPictures], None],
    ) -> None:
        """Decode one chunk, and keep each batch at its place; as many are under way as there are decoders."""
        chunk = digests[start : start + CHUNK]
        try:
            files = await asyncio.to_thread(self._packs.read, chunk)
        except DataLoss:
            await self._packs.ensure(chunk, source)
            files = await asyncio.to_thread(self._packs.read, chunk)

        async def batch(first: int) -> None:
            part = files[first : first + BATCH]
            decoded = await self._decoders.decode(part, shape.height, shape.width, source, fit=shape.fit)
            keep(start + first, decoded)

        await gather(*(batch(first) for first in range(0, len(files), BATCH)))

    def _evict(self, needed: int) -> bool:
        """Make room, and return whether there is enough."""
        arrays = sorted(((path, path.stat()) for path in self._folder.glob("*.npy")), key=lambda each: each[1].st_mtime)
        excess = needed + self._reserved + sum(_on_disk(found.st_size) for _, found in arrays) - self._max_bytes
        # Nothing is unlinked for an array that finds no room all the same.
        idle = [(path, _on_disk(found.st_size)) for path, found in arrays if found.st_nlink == 1]
        if excess > sum(size for _, size in idle):
            return False
        for path, size in idle:
            if excess <= 0:
                break
            path.unlink()
            excess -= size
        return True


@dataclass
class _Making:
    """An array that somebody wants now. users: those who hold or wait for the lock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


def array_bytes(pictures: int, height: int, width: int) -> int:
    """Return what an array takes on the disk."""
    return _on_disk(HEADER + pictures * height * width * 3)


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where they lie on different disks."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o444)


def _use(array: Path, target: Path) -> bool:
    try:
        os.utime(array)
    except FileNotFoundError:
        return False
    link_or_copy(array, target)
    return True


def _name(digests: Sequence[str], shape: Shape) -> str:
    # Arrays of another decoder are other arrays.
    name = hashlib.sha256(f"{DECODER} {shape.fit} {shape.height} {shape.width}".encode())
    for digest in digests:
        name.update(bytes.fromhex(digest))
    return name.hexdigest()
