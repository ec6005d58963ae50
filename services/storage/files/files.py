"""Finished files: written once, read in ranges; in a local folder, or in an object store by obstore."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import obstore
from obstore.store import ObjectStore

from services.storage.files.disk import Disk, full_disk_is_exhaustion

Range = tuple[int, int]
"""Offset and length in bytes."""


class Files(Protocol):
    """Keeps finished files under keys like "blobs/line-7/ab12…"."""

    async def publish(self, source: Path, key: str) -> None:
        """Move a local file to a key; durable when it returns, and all or nothing under the key."""

    async def read(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return the ranges, shorter where the file ends. Raises FileNotFoundError."""

    async def delete(self, key: str) -> None:
        """Remove a file; nothing happens when it is not there."""

    async def exists(self, key: str) -> bool:
        """Say whether there is a file under the key."""

    async def keys(self, folder: str) -> list[str]:
        """List all keys below a folder."""


class LocalFiles:
    """Keeps files in a folder, in the same file system as the files that are published."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root = root
        self._disk = disk

    async def publish(self, source: Path, key: str) -> None:
        """Sync the file, rename it, and sync the folders that the rename touched."""
        await asyncio.to_thread(self._publish, source, self._root / key)

    def _publish(self, source: Path, target: Path) -> None:
        with full_disk_is_exhaustion():
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._disk.sync(descriptor)
            finally:
                os.close(descriptor)
            self._make_folder(target.parent)
            self._disk.rename(source, target)
            self._disk.sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self._disk.sync_folder(folder.parent)

    async def read(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return the ranges."""
        return await asyncio.to_thread(read_ranges, self._root / key, ranges)

    async def delete(self, key: str) -> None:
        """Remove a file."""
        await asyncio.to_thread(self._disk.remove, self._root / key)

    async def exists(self, key: str) -> bool:
        """Say whether there is a file under the key."""
        return await asyncio.to_thread((self._root / key).is_file)

    async def keys(self, folder: str) -> list[str]:
        """List all keys below a folder."""
        return await asyncio.to_thread(self._keys, folder)

    def _keys(self, folder: str) -> list[str]:
        below = (self._root / folder).rglob("*")
        return [path.relative_to(self._root).as_posix() for path in below if path.is_file()]


class ObjectFiles:
    """Keeps files in an object store, for example S3."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def publish(self, source: Path, key: str) -> None:
        """Upload the file in parts and remove the local one; the key appears with the last part."""
        await obstore.put_async(self._store, key, source)
        await asyncio.to_thread(source.unlink)

    async def read(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return the ranges; neighbours are fetched together."""
        size = (await obstore.head_async(self._store, key))["size"]
        inside = [(offset, max(0, min(length, size - offset))) for offset, length in ranges]
        wanted = [each for each in inside if each[1]]
        if not wanted:
            return [b""] * len(inside)
        starts, lengths = [each[0] for each in wanted], [each[1] for each in wanted]
        found = iter(await obstore.get_ranges_async(self._store, key, starts=starts, lengths=lengths))
        return [bytes(next(found)) if length else b"" for _, length in inside]

    async def delete(self, key: str) -> None:
        """Remove a file."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return

    async def exists(self, key: str) -> bool:
        """Say whether there is a file under the key."""
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        return True

    async def keys(self, folder: str) -> list[str]:
        """List all keys below a folder."""
        return [meta["path"] async for page in obstore.list(self._store, folder) for meta in page]


def read_ranges(path: Path, ranges: Sequence[Range]) -> list[bytes]:
    """Read ranges of a local file. Raises FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [os.pread(descriptor, length, offset) for offset, length in ranges]
    finally:
        os.close(descriptor)
