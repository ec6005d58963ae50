"""The sha256 of many files: hashed in threads, and not again what is as it was when it was last hashed."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from loupe.errors import InvalidArgument, invalid
from loupe.terminal.digests import DigestCache, FileState
from loupe.terminal.progress import PushProgress

THREADS = 4
CHUNK_FILES = 32
SMALL_FILE = 1 << 20


class Hashed(NamedTuple):
    """A file by its sha256 (hex) and size in bytes. problem: why it cannot be read; then digest is empty."""

    path: Path
    digest: str
    size: int
    problem: str = ""


async def hash_files(
    paths: Sequence[Path], show: Callable[[PushProgress], None], cache: DigestCache | None = None
) -> list[Hashed]:
    """Return digest and size of each file, in their order; one that cannot be read has its problem told.

    Files that are as they were when they were last hashed are not read again.
    """
    cache = cache or DigestCache()
    problems: dict[Path, str] = {}
    states, known = await asyncio.to_thread(_look_up, paths, cache, problems)
    found: dict[FileState, str] = {}
    if fresh := [(path, state) for path, state in states.items() if not known[path]]:
        found = await _hash_fresh(fresh, len(paths) - len(fresh), show, problems)
        await asyncio.to_thread(cache.remember, found.items())
    hashed = [
        Hashed(path, "", 0, problems[path])
        if path in problems
        else Hashed(path, known[path] or found[states[path]], states[path].size)
        for path in paths
    ]
    show(PushProgress("hash", len(hashed), len(paths), sum(one.size for one in hashed)))
    return hashed


def _look_up(
    paths: Sequence[Path], cache: DigestCache, problems: dict[Path, str]
) -> tuple[dict[Path, FileState], dict[Path, str | None]]:
    """Return what each file is like now, and its digest where it is remembered; add what cannot be looked at."""
    states: dict[Path, FileState] = {}
    for path in paths:
        try:
            states[path] = FileState.of(path)
        except OSError as error:
            problems[path] = cannot_be_read(error)
    return states, dict(zip(states, cache.known(list(states.values())), strict=True))


async def _hash_fresh(
    files: Sequence[tuple[Path, FileState]],
    before: int,
    show: Callable[[PushProgress], None],
    problems: dict[Path, str],
) -> dict[FileState, str]:
    loop = asyncio.get_running_loop()
    digests: dict[FileState, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        begun = (
            loop.run_in_executor(pool, _hash_chunk, files[start : start + CHUNK_FILES], problems)
            for start in range(0, len(files), CHUNK_FILES)
        )
        running = deque(islice(begun, 2 * THREADS))
        while running:
            digests |= await running.popleft()
            running.extend(islice(begun, 1))
            size = sum(state.size for state in digests)
            show(PushProgress("hash", before + len(digests), before + len(files), size))
    return digests


def _hash_chunk(files: Sequence[tuple[Path, FileState]], problems: dict[Path, str]) -> dict[FileState, str]:
    digests: dict[FileState, str] = {}
    for path, state in files:
        try:
            digests[state] = _hash_file(path, state.size)
        except OSError as error:
            problems[path] = cannot_be_read(error)
    return digests


def _hash_file(path: Path, size: int) -> str:
    if size <= SMALL_FILE:  # reading it at once is quicker than hashing it block by block
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file of any size, hex. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_be_read(error: OSError) -> str:
    """Return why a file cannot be read, in a few words."""
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def unreadable(path: Path, error: OSError) -> InvalidArgument:
    """Make the error that tells which file cannot be read, and why."""
    return invalid("path", str(path), f"a file that can be read ({error.strerror})")
