"""A run's work folder, read from outside: only regular files that really lie in it, and never through a link."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from services.trainer.clients.storage import LocalFile

COPY_BYTES = 1 << 20
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class BadFile(Exception):
    """Says what is wrong with a file that a run wants to hand over."""


class WorkFolder:
    """Copies files out of a folder in which a stranger does what he likes.

    folder: a descriptor of it, which stays its owner's. owner: the user id of the stranger; a file of anybody else's
    was not written by him.
    """

    def __init__(self, folder: int, owner: int) -> None:
        self._root = folder
        self._owner = owner

    def collect(self, source: PurePosixPath, name: str, target: Path, max_bytes: int) -> LocalFile:
        """Copy one file to target/name, out of the run's reach. Raises BadFile."""
        folder = self._folder(source.parent)
        try:
            return self._copy(folder, source.name, name, target, max_bytes)
        finally:
            os.close(folder)

    def collect_folder(
        self, source: PurePosixPath, target: Path, suffixes: Iterable[str], max_files: int, max_bytes: int
    ) -> list[LocalFile]:
        """Copy a flat folder of files with these suffixes. Raises BadFile."""
        allowed = tuple(suffixes)
        folder = self._folder(source)
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry, _ in zip(entries, range(max_files + 1), strict=False))
            if not names or len(names) > max_files:
                raise BadFile(f"{source} must hold 1 to {max_files} files")
            files: list[LocalFile] = []
            for name in names:
                if not name.endswith(allowed) or not name.isascii() or not name.isprintable():
                    raise BadFile(f"{source}/{name!r}: only {', '.join(allowed)} files are taken")
                left = max_bytes - sum(file.size for file in files)
                files.append(self._copy(folder, name, name, target, left))
            return files
        finally:
            os.close(folder)

    def _folder(self, path: PurePosixPath) -> int:
        """Open a folder step by step, so that no step follows a link."""
        current = os.dup(self._root)
        for part in path.parts:
            try:
                deeper = os.open(part, OPEN | os.O_DIRECTORY, dir_fd=current)
            except OSError as error:
                raise BadFile(f"{path} is not a folder inside the work folder") from error
            finally:
                os.close(current)
            current = deeper
        return current

    def _copy(self, folder: int, source: str, name: str, target: Path, max_bytes: int) -> LocalFile:
        try:
            # Without O_NONBLOCK a named pipe would hold the trainer for ever.
            descriptor = os.open(source, OPEN | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise BadFile(f"{source} is not there, or is a link") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != self._owner:
                raise BadFile(f"{source} is not a regular file of this run")
            digest, size = hashlib.sha256(), 0
            target.mkdir(parents=True, exist_ok=True)
            with (target / name).open("xb") as copy:
                while block := os.read(descriptor, COPY_BYTES):
                    size += len(block)
                    if size > max_bytes:
                        raise BadFile(f"{source} is too large; {max_bytes} bytes are left for it")
                    digest.update(block)
                    copy.write(block)
        finally:
            os.close(descriptor)
        return LocalFile(name, target / name, digest.hexdigest(), size)
