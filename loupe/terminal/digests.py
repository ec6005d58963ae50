"""What a terminal remembers of the files that it hashed, so that pushing the same folder again reads none of them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

# A file that was changed this short a time before it was hashed might be changed again within its timestamp's grain.
SETTLED_NS = 2_000_000_000
_CHUNK = 500


class FileState(NamedTuple):
    """FileState is what tells a file apart from its earlier self: path, size in bytes, times in ns, inode."""

    path: str
    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """of looks at a file; raises OSError."""
        # pathlib takes three times as long, and there are many files.
        found, absolute = os.stat(path), os.path.abspath(path)  # noqa: PTH100, PTH116
        return cls(absolute, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def default_file() -> Path:
    """default_file is digests.db in the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("loupe")) / "digests.db"


class DigestCache:
    """DigestCache maps a file's state to its sha256 (hex). It only saves time: a damaged one counts as empty."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or default_file()

    def known(self, states: Sequence[FileState]) -> dict[FileState, str]:
        """known returns the digests of those files that are as they were when they were hashed."""
        found: dict[tuple, str] = {}
        try:
            with closing(self._open()) as database:
                for start in range(0, len(states), _CHUNK):
                    paths = [state.path for state in states[start : start + _CHUNK]]
                    marks = ",".join("?" * len(paths))
                    for *state, digest in database.execute(f"SELECT * FROM digests WHERE path IN ({marks})", paths):
                        found[tuple(state)] = digest
        except (sqlite3.Error, OSError):
            return {}
        return {state: found[state] for state in states if state in found}

    def remember(self, hashed: Iterable[tuple[FileState, str]]) -> None:
        """remember keeps the digests of files that have not been touched for a moment."""
        settled = time.time_ns() - SETTLED_NS
        rows = [(*state, digest) for state, digest in hashed if max(state.modified, state.changed) < settled]
        try:
            with closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError):
            self._file.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = sqlite3.connect(self._file, timeout=1)
        database.execute(
            "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INTEGER, modified INTEGER,"
            " changed INTEGER, inode INTEGER, digest TEXT) WITHOUT ROWID"
        )
        return database
