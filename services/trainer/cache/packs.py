"""Picture files on this machine's disk: append-only packs of what was fetched together, found by digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loupe.errors import DataLoss
from services.trainer.clients.storage import PictureSource

ENTRY = np.dtype([("digest", "V32"), ("offset", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class Location:
    """Where a file lies: in which pack, from which byte on, how many bytes."""

    pack: str
    offset: int
    size: int


class PackCache:
    """Keeps picture files below max_bytes; the packs that were not used for longest go first.

    A pack counts only with its index beside it, which appears when the pack is whole.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._places: dict[str, Location] = {}
        self._fetching = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for pack in folder.glob("*.pack"):
            if not pack.with_suffix(".index").exists():
                pack.unlink()
        for index in folder.glob("*.index"):
            self._load(index)

    async def ensure(self, digests: Iterable[str], source: PictureSource) -> int:
        """Fetch what is not here; return how many files that were.

        Raises DataLoss when the source sends something else than was asked for, or not all of it.
        """
        # One at a time, so that two jobs on the same data do not fetch it twice.
        async with self._fetching:
            wanted = dict.fromkeys(digests)
            missing = [digest for digest in wanted if digest not in self._places]
            if missing:
                await asyncio.to_thread(self._evict, {self._places[d].pack for d in wanted if d in self._places})
                await self._fetch(missing, source)
            return len(missing)

    def read(self, digests: Sequence[str]) -> list[tuple[str, bytes]]:
        """Return (digest, file) in the order asked for.

        Raises DataLoss for a file that is damaged or gone, and forgets it.
        """
        found: list[tuple[str, bytes]] = []
        streams: dict[str, BinaryIO] = {}
        try:
            for digest in digests:
                place = self._places.get(digest)
                if place is None:
                    raise DataLoss(f"picture {digest} is no longer in the cache", digest=digest)
                if place.pack not in streams:
                    streams[place.pack] = (self._folder / f"{place.pack}.pack").open("rb")
                    os.utime(self._folder / f"{place.pack}.index")
                streams[place.pack].seek(place.offset)
                data = streams[place.pack].read(place.size)
                if hashlib.sha256(data).hexdigest() != digest:
                    del self._places[digest]
                    raise DataLoss(f"picture {digest} was damaged on this trainer's disk", digest=digest)
                found.append((digest, data))
        except FileNotFoundError as error:
            self._places = {key: place for key, place in self._places.items() if place.pack in streams}
            raise DataLoss("a pack of pictures vanished from this trainer's disk") from error
        finally:
            for stream in streams.values():
                stream.close()
        return found

    async def _fetch(self, missing: Sequence[str], source: PictureSource) -> None:
        name = uuid.uuid4().hex
        pack = self._folder / f"{name}.pack"
        try:
            with pack.open("xb", buffering=1 << 20) as stream:
                entries = await _write(stream, missing, source)
        except BaseException:
            pack.unlink(missing_ok=True)
            raise
        partial = pack.with_suffix(".partial")
        partial.write_bytes(np.array(entries, dtype=ENTRY).tobytes())
        self._load(partial.rename(pack.with_suffix(".index")))

    def _load(self, index: Path) -> None:
        for entry in np.frombuffer(index.read_bytes(), dtype=ENTRY):
            place = Location(index.stem, int(entry["offset"]), int(entry["size"]))
            self._places[entry["digest"].tobytes().hex()] = place

    def _evict(self, keep: set[str]) -> None:
        for pack in _oldest_beyond(self._folder, self._max_bytes):
            if pack.stem not in keep:
                pack.with_suffix(".index").unlink(missing_ok=True)
                pack.unlink(missing_ok=True)
                self._places = {key: place for key, place in self._places.items() if place.pack != pack.stem}


async def _write(stream: BinaryIO, missing: Sequence[str], source: PictureSource) -> list[tuple[bytes, int, int]]:
    """Append the files to the stream, checked; return the entries of its index."""
    expected = set(missing)
    entries: list[tuple[bytes, int, int]] = []
    offset = 0
    async for digest, data in source.fetch(missing):
        if digest not in expected or hashlib.sha256(data).hexdigest() != digest:
            raise DataLoss(f"storage sent other bytes than picture {digest}", digest=digest)
        expected.remove(digest)
        stream.write(data)
        entries.append((bytes.fromhex(digest), offset, len(data)))
        offset += len(data)
    if expected:
        raise DataLoss(f"storage left out {len(expected)} pictures, for example {min(expected)}")
    return entries


def _oldest_beyond(folder: Path, max_bytes: int) -> Iterator[Path]:
    """Yield the packs that are too many, the longest unused first."""
    packs = sorted(folder.glob("*.pack"), key=lambda pack: pack.with_suffix(".index").stat().st_mtime)
    total = sum(pack.stat().st_size for pack in packs)
    for pack in packs:
        if total <= max_bytes:
            return
        total -= pack.stat().st_size
        yield pack
