"""What a terminal remembers of the files that it hashed, so that pushing the same folder again reads none of them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

# A file that was changed this short a time before it was hashed might be changed again within its timestamp's grain.
SETTLED_NS = 2_000_000_000


class FileState(NamedTuple):
    """What tells a file apart from its earlier self: folder, name, size in bytes, times in ns, inode."""

    folder: str
    name: str
    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Look at a file. Raises OSError."""
        # pathlib takes three times as long, and there are many files.
        text = str(path)
        if not text.startswith(os.sep):
            text = os.path.join(os.getcwd(), text)  # noqa: PTH109, PTH118
        found = os.stat(text)  # noqa: PTH116
        folder, _, name = text.rpartition(os.sep)
        return cls._make((folder, name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))


def default_file() -> Path:
    """Return digests.db in the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("loupe")) / "digests.db"


class DigestCache:
    """Maps a file's state to its sha256 (hex). It only saves time: a damaged one counts as empty.

    A folder is one row, with all its files in it: pictures are pushed by the folder, and a row each would take as
    long to read as all the rest of pushing a folder again.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or default_file()

    def known(self, states: Sequence[FileState]) -> list[str | None]:
        """Return the digest of each file that is as it was when it was hashed, None for the others."""
        found: list[str | None] = []
        try:
            with closing(self._open()) as database:
                folders = {folder: _files(database, folder) for folder in {state.folder for state in states}}
            for folder, name, size, modified, changed, inode in states:
                *was, digest = folders[folder].get(name, (None,))
                found.append(str(digest) if was == [size, modified, changed, inode] else None)
        except (sqlite3.Error, OSError, ValueError):
            return [None] * len(states)
        return found

    def remember(self, hashed: Iterable[tuple[FileState, str]]) -> None:
        """Keep the digests of files that have not been touched for a moment."""
        settled = time.time_ns() - SETTLED_NS
        fresh: dict[str, dict[str, list[int | str]]] = defaultdict(dict)
        for state, digest in hashed:
            if max(state.modified, state.changed) < settled:
                fresh[state.folder][state.name] = [*state[2:], digest]
        try:
            with closing(self._open()) as database:
                database.execute("BEGIN IMMEDIATE")
                with database:
                    for folder, files in fresh.items():
                        row = (_key(folder), json.dumps(_files(database, folder) | files))
                        database.execute("INSERT OR REPLACE INTO folders VALUES (?, ?)", row)
        except (sqlite3.Error, OSError, ValueError):
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = sqlite3.connect(self._file, timeout=1)
        database.execute("CREATE TABLE IF NOT EXISTS folders (folder TEXT PRIMARY KEY, files TEXT)")
        return database


def _files(database: sqlite3.Connection, folder: str) -> dict[str, list[int | str]]:
    """Return a folder's files by name: size, times and inode as in FileState, and the digest."""
    row = database.execute("SELECT files FROM folders WHERE folder = ?", (_key(folder),)).fetchone()
    files: dict[str, list[int | str]] = json.loads(row[0]) if row else {}
    return files


def _key(folder: str) -> str:
    r"""Return a folder's path as text that SQLite takes; bytes that are no UTF-8 become \xNN."""
    return folder.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
