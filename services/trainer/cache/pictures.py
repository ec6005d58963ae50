"""Every picture decoded once: memory-mapped arrays that all jobs on the same pictures share."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.concurrency import gather
from loupe.errors import DataLoss, ResourceExhausted
from services.trainer.cache.decoders import BATCH, Decoders
from services.trainer.cache.packs import PackCache
from services.trainer.clients.storage import PictureSource

# Part of an array's name: arrays of another decoder are other arrays.
DECODER = "loupe.picture-1"
CHUNK = 1024


class PictureCache:
    """Makes and keeps `.npy` files, uint8 [N, height, width, 3], below max_bytes together.

    What was not used for longest goes first; a job that has linked an array into its folder keeps it.
    """

    def __init__(self, folder: Path, packs: PackCache, decoders: Decoders, max_bytes: int) -> None:
        self._folder = folder
        self._packs = packs
        self._decoders = decoders
        self._max_bytes = max_bytes
        self._making: dict[str, asyncio.Lock] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob("*.partial"):
            partial.unlink()

    async def link(self, digests: Sequence[str], height: int, width: int, source: PictureSource, target: Path) -> None:
        """Put the array of these pictures, in their order, at `target`; it is made when it is not there.

        Raises BadDataset for a picture that cannot be decoded, ResourceExhausted for an array that can never fit,
        and the LoupeErrors of the source.
        """
        name = _name(digests, height, width)
        array = self._folder / f"{name}.npy"
        # The second caller waits for the first, and links before anybody may evict.
        async with self._making.setdefault(name, asyncio.Lock()):
            if not array.exists():
                await self._make(array, digests, height, width, source)
            os.utime(array)
            await asyncio.to_thread(link_or_copy, array, target)

    async def _make(self, array: Path, digests: Sequence[str], height: int, width: int, source: PictureSource) -> None:
        size = len(digests) * height * width * 3
        if size > self._max_bytes:
            raise ResourceExhausted(
                f"{len(digests)} pictures of {height}x{width} need {size} bytes; the cache holds {self._max_bytes}",
                limit="picture_cache_bytes",
                value=self._max_bytes,
            )
        await asyncio.to_thread(self._evict, size)
        await self._packs.ensure(digests, source)
        partial = array.with_suffix(".partial")
        shape = (len(digests), height, width, 3)
        rows = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        try:
            for start in range(0, len(digests), CHUNK):
                await self._decode(rows, digests, start, source)
            await asyncio.to_thread(rows.flush)
            partial.chmod(0o444)
            partial.rename(array)
        finally:
            partial.unlink(missing_ok=True)

    async def _decode(self, rows: np.ndarray, digests: Sequence[str], start: int, source: PictureSource) -> None:
        """Fill the rows of one chunk; as many batches are under way as there are decoders."""
        chunk = digests[start : start + CHUNK]
        try:
            files = await asyncio.to_thread(self._packs.read, chunk)
        except DataLoss:
            await self._packs.ensure(chunk, source)
            files = await asyncio.to_thread(self._packs.read, chunk)
        height, width = rows.shape[1:3]

        async def batch(first: int) -> None:
            pixels = await self._decoders.decode(files[first : first + BATCH], height, width)
            rows[start + first : start + first + len(pixels)] = pixels

        await gather(*(batch(first) for first in range(0, len(files), BATCH)))

    def _evict(self, needed: int) -> None:
        arrays = sorted(self._folder.glob("*.npy"), key=lambda array: array.stat().st_mtime)
        total = needed + sum(array.stat().st_size for array in arrays)
        for array in arrays:
            if total <= self._max_bytes:
                return
            total -= array.stat().st_size
            array.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where they lie on different disks."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o444)


def _name(digests: Sequence[str], height: int, width: int) -> str:
    name = hashlib.sha256(f"{DECODER} {height} {width}".encode())
    for digest in digests:
        name.update(bytes.fromhex(digest))
    return name.hexdigest()
