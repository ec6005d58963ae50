"""A lock between processes of one machine, held on a file."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from loupe.errors import Unavailable

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


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
