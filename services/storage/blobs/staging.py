"""Where blobs are gathered: one temporary file for each, which a cut does not lose."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from loupe.errors import UploadIncomplete
from services.storage.files.disk import Disk, full_disk_is_exhaustion

log = structlog.get_logger(__name__)

_KEPT_SECONDS = 7 * 24 * 3600


class Staging:
    """The temporary files below a folder. What it does blocks: it is for threads.

    now: wall-clock seconds.
    """

    def __init__(self, folder: Path, disk: Disk, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._disk = disk
        self._now = now

    def path(self, project: str, digest: str) -> Path:
        """Return where a blob is gathered."""
        return self._folder / project / digest

    def committed(self, path: Path) -> int:
        """Make what came durable and return how many bytes that is."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            self._disk.sync(descriptor)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def open(self, path: Path, offset: int, size: int) -> None:
        """Cut the file off at an offset, from where it is to grow to `size` bytes.

        Raises UploadIncomplete when less came until now, ResourceExhausted when the disk has no room for the rest.
        """
        committed = path.stat().st_size if path.exists() else 0
        if offset > committed:
            raise UploadIncomplete(
                f"header.offset is {offset}, but {committed} bytes are stored; go on there", committed=committed
            )
        self._disk.require_space(self._folder, size - offset)
        with full_disk_is_exhaustion():
            descriptor = self._disk.create(path)
            try:
                os.ftruncate(descriptor, offset)
            finally:
                os.close(descriptor)

    def write(self, path: Path, data: bytes, position: int) -> None:
        """Put bytes at a position; durable when the file is finished, or after committed()."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with full_disk_is_exhaustion():
                self._disk.write(descriptor, data, position)
        finally:
            os.close(descriptor)

    def remove_old(self) -> None:
        """Remove the files that nobody has written to for a week."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.rglob("*"):
            if path.is_file() and path.stat().st_mtime < self._now() - _KEPT_SECONDS:
                log.info("removed an upload that nobody resumed", part=path.name)
                path.unlink()
