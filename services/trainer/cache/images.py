"""Algorithm images on this machine's disk, unpacked once and found by digest."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from loupe.algorithm import image
from loupe.algorithm.manifest import BadManifest, Manifest, read_manifest
from loupe.errors import BadAlgorithm, DigestMismatch


class Images:
    """Keeps the unpacked images that were used last, at most `keep` of them."""

    def __init__(self, folder: Path, keep: int = 100) -> None:
        self._folder = folder
        self._keep = keep
        self._lock = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    async def get(self, digest: str, download: Callable[[], Awaitable[bytes]]) -> tuple[Path, Manifest]:
        """Return the unpacked image and its manifest. download: fetches it packed, when it is not here.

        Raises BadAlgorithm, DigestMismatch, and the download's errors.
        """
        folder = self._folder / digest
        async with self._lock:
            if not folder.exists():
                packed = await download()
                if (received := image.digest(packed)) != digest:
                    raise DigestMismatch("storage sent another algorithm image", announced=digest, received=received)
                await asyncio.to_thread(self._unpack, packed, folder)
            os.utime(folder)
            try:
                return folder, read_manifest(folder)
            except BadManifest as error:
                raise BadAlgorithm(str(error), digest=digest) from error

    def _unpack(self, packed: bytes, folder: Path) -> None:
        known = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in known[: max(0, len(known) - self._keep + 1)]:
            shutil.rmtree(old)
        try:
            image.unpack(packed, folder)
        except (image.BadImage, BadManifest) as error:
            raise BadAlgorithm(str(error), digest=folder.name) from error
