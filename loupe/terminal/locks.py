"""Locks between processes of one machine, held on files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from loupe.errors import NotFound, Unavailable

POLL_SECONDS = 0.05


@contextlib.asynccontextmanager
async def file_lock(path: Path, seconds: float = 60.0) -> AsyncIterator[None]:
    """Hold `path` for this process alone; the operating system lets go of it when the process dies.

    Raises Unavailable when another process keeps it for longer than `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not _take(handle):
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"another process has held {path} for {seconds:.0f} s; end it or try again", dependency="lock"
                )
            await asyncio.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(handle)


class Use:
    """Keeps a file from being given up by `unused`, by any process of this machine, for as long as this object lives.

    It does not make the file: what cannot be locked, as on some network folders, is used all the same. Raises OSError
    for a file that is not there, NotFound for one that is being given up at this moment.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            gone = not path.exists() or not os.path.samestat(os.fstat(handle), path.stat())
        except BlockingIOError:
            gone = True
        except OSError:  # a file system without locks
            gone = False
        if gone:
            raise NotFound(f"{path.parent} is being removed; use a newer version", resource=path.parent)


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Tell whether nobody has a `Use` of this file, and let nobody get one until the block ends. Raises OSError."""
    with path.open("rb") as file:
        yield _take(file.fileno())


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
