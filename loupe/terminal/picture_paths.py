"""Which pictures are meant: files, folders, patterns and lists of paths, and those that arrive in a folder."""

from __future__ import annotations

import asyncio
import glob
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from loupe import picture
from loupe.errors import InvalidArgument, invalid
from loupe.picture_folders import SUFFIXES
from loupe.terminal.decoding import read_picture
from loupe.terminal.model_folder import BATCH

LIST = "-"
"""What stands for a list of paths on stdin."""
POLL_SECONDS = 0.25
"""How often a watched folder is looked at; seldom enough that this takes a fifth of the time at most."""
SETTLED_SECONDS = 0.5
"""How long a file must have stayed as it is."""
UNREADABLE_SECONDS = 10.0
"""How long a file that looks cut off is given to become whole before it is told as broken."""


@dataclass
class Expansion:
    """The pictures that were meant, and the words that meant none, each with why."""

    pictures: list[Path] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def expand(words: Sequence[Path]) -> Expansion:
    """Return the pictures of files, of folders (all below them, sorted) and of patterns such as "new/**/*.png".

    A file is taken whatever it is called, and if it does not exist too: whoever reads it tells that.
    """
    found = Expansion()
    for word in words:
        before = len(found.pictures)
        if word.is_dir():
            found.pictures += pictures_below(word)
            if len(found.pictures) == before:
                found.empty.append(f"the folder {word} has no pictures")
        elif not os.path.lexists(word) and glob.has_magic(str(word)):
            for match in sorted(map(Path, glob.glob(str(word), recursive=True))):  # noqa: PTH207  # of any root
                found.pictures += pictures_below(match) if match.is_dir() else [match]
            if len(found.pictures) == before:
                found.empty.append(f"the pattern {word} fits no pictures")
        else:
            found.pictures.append(word)
    return found


def pictures_below(folder: Path) -> list[Path]:
    """Return every picture below a folder by its name's ending, sorted, without what is hidden."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        yield from (Path(place, one) for one in files if _is_picture(one))


def _is_picture(filename: str) -> bool:
    return not filename.startswith(".") and os.path.splitext(filename)[1].lower() in SUFFIXES  # noqa: PTH122  # a name


async def listed(source: BinaryIO) -> AsyncGenerator[Sequence[Path]]:
    r"""Yield the paths of a list as they come, at most BATCH at once: one a line, or separated by NUL (`find -print0`).

    Paths are bytes of any encoding; a carriage return at the end of a line is dropped.
    """
    lines: queue.Queue[Path | OSError | None] = queue.Queue(16 * BATCH)
    # A thread of its own, which does not keep the program from ending while it waits for a line.
    threading.Thread(target=_read_lines, args=(source, lines), daemon=True).start()
    while True:
        batch: list[Path] = []
        while len(batch) < BATCH:
            try:
                line = lines.get_nowait()
            except queue.Empty:
                if batch:
                    break
                await asyncio.sleep(0.01)
                continue
            if isinstance(line, OSError):
                raise line
            if line is None:
                if batch:
                    yield batch
                return
            batch.append(line)
        yield batch


def _read_lines(source: BinaryIO, lines: queue.Queue[Path | OSError | None]) -> None:
    rest, separator = b"", b""
    try:
        for chunk in chunks(source):
            separator = separator or (b"\0" if b"\0" in chunk else b"\n")
            *whole, rest = (rest + chunk).split(separator)
            for line in whole:
                _put(lines, line)
        _put(lines, rest)
        lines.put(None)
    except OSError as error:
        lines.put(error)


def chunks(source: BinaryIO) -> Iterator[bytes]:
    """Yield what a source gives, as soon as it comes, to its end; a thread that waits here may be left behind."""
    try:
        handle = source.fileno()
    except OSError:  # it is no file of the operating system's
        yield source.read()
        return
    # Not through `source`: a thread that waits in it holds its lock, over which the interpreter dies when it ends.
    while chunk := os.read(handle, 1 << 16):
        yield chunk


def _put(lines: queue.Queue[Path | OSError | None], line: bytes) -> None:
    if name := line.removesuffix(b"\r"):
        lines.put(Path(os.fsdecode(name)))


class FileState(NamedTuple):
    """What changes when a file is written: its size in bytes, its time in nanoseconds, and which file it is."""

    size: int
    mtime: int
    inode: int


@dataclass
class _Arrival:
    """A file that is being written, perhaps: how it was seen last, since when, and when it was last tried."""

    state: FileState
    since: float
    tried: bool = False


class FolderWatch:
    """Finds the pictures that are written into a folder, below it too, after this was made.

    One counts as completely written when it has stayed as it is for `settled_seconds` and can be decoded; one that
    cannot be is given `unreadable_seconds` more. A picture that is written over counts again. The folder is polled, so
    that network folders work like any other. clock: seconds that only go up. sleep: what tests put in its place.
    Raises InvalidArgument for what is no folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settled_seconds: float = SETTLED_SECONDS,
        unreadable_seconds: float = UNREADABLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not folder.is_dir():
            raise invalid("watch", str(folder), "a folder that exists")
        self._folder = folder
        self._settled = settled_seconds
        self._unreadable = unreadable_seconds
        self._clock = clock
        self._sleep = sleep
        self._known = self._look()
        self._arriving: dict[Path, _Arrival] = {}

    async def arrivals(self) -> AsyncGenerator[Sequence[Path]]:
        """Yield the pictures that are complete, some at once, for ever. Raises InvalidArgument when the folder goes."""
        while True:
            began = self._clock()
            complete = await asyncio.to_thread(self._round)
            for start in range(0, len(complete), BATCH):
                yield complete[start : start + BATCH]
            await self._sleep(max(POLL_SECONDS, 4 * (self._clock() - began) if not complete else 0.0))

    def _round(self) -> list[Path]:
        """Look at the folder once and return what has become complete, the oldest first."""
        now, seen = self._clock(), self._look()
        if not seen and not self._folder.is_dir():
            raise InvalidArgument(
                f"the folder {self._folder} that was watched is gone", field="watch", value=str(self._folder)
            )
        for path, state in seen.items():
            if self._known.get(path) == state:
                continue
            arrival = self._arriving.get(path)
            if arrival is None or arrival.state != state:
                self._arriving[path] = _Arrival(state, now)
        for path in [path for path in self._arriving if path not in seen]:
            del self._arriving[path]  # it was taken away before it was complete
        ready = [path for path, arrival in self._arriving.items() if self._is_complete(path, arrival, now)]
        for path in ready:
            del self._arriving[path]
        ready.sort(key=lambda path: (seen[path].mtime, path))
        # What is known is what was seen: a file that is written while it is answered differs the next time.
        self._known = {path: state for path, state in seen.items() if path not in self._arriving}
        return ready

    def _is_complete(self, path: Path, arrival: _Arrival, now: float) -> bool:
        if now - arrival.since < self._settled:
            return False
        if now - arrival.since >= self._settled + self._unreadable:
            return True
        if arrival.tried:
            return False
        arrival.tried = True
        return _is_whole(path)

    def _look(self) -> dict[Path, FileState]:
        found = {}
        for path in _walk(self._folder):
            try:
                status = path.stat()
            except OSError:
                continue  # it went between two looks, or is a broken link
            found[path] = FileState(status.st_size, status.st_mtime_ns, status.st_ino)
        return found


def _is_whole(path: Path) -> bool:
    try:
        picture.decode(read_picture(path), 8, 8)
    except (OSError, picture.BadPicture):
        return False
    return True
