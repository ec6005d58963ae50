"""The local disk: each step that durability rests on, as one call."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.errors import ResourceExhausted

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Disk:
    """Does the steps; a test puts another one in its place that dies between them.

    reserve: bytes that are left free for the database.
    """

    def __init__(self, reserve: int = 0) -> None:
        self._reserve = reserve

    def require_space(self, folder: Path, size: int) -> None:
        """Raise ResourceExhausted when `size` bytes more would leave too little on the disk."""
        if shutil.disk_usage(folder).free - self._reserve < size:
            raise ResourceExhausted(f"the disk has no room for {size} bytes more; nothing was stored", limit="disk")

    def create(self, path: Path) -> int:
        """Open a file for reading and writing, making it and its entry in the folder durable."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.sync_folder(path.parent)
        return descriptor

    def write(self, descriptor: int, data: bytes, position: int) -> None:
        """Put all of the data at a position; not durable before sync."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, position)
            view, position = view[written:], position + written

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        os.fdatasync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the disk; not durable before the folder is synced."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens when it is not there. It may come back unless the folder is synced."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Make new, renamed and removed entries of a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def full_disk_is_exhaustion() -> Iterator[None]:
    """Turn the operating system's "no space" into ResourceExhausted."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceExhausted("the disk is full; nothing of this was stored", limit="disk") from error
        raise
