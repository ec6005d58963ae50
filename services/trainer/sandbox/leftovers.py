"""What foreign code leaves behind on the disk, and what earlier runs of the trainer did: removed, whatever it is."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import uuid
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

REMOVAL_SECONDS = 600


def remove(folder: Path) -> bool:
    """Remove a folder with all that is below it; return whether nothing is left. Never raises; it may take long.

    The programs that do it go down folder by folder, so that neither the depth of a tree, nor the length of a path,
    nor a name that is no text ends them; they follow no link and enter no other file system. Where the first try leaves
    something, mounts, closed folders and immutable files are opened up, as far as the trainer may.
    """
    _run("rm", "-rf", "--one-file-system", "--", str(folder))
    if not folder.is_symlink() and folder.exists():
        for mount in _mounts_below(folder):
            _run("umount", "--lazy", "--", mount)
        _run("chattr", "-R", "-f", "-i", "-a", "--", str(folder))
        _run("chmod", "-R", "u+rwx", "--", str(folder))
        _run("rm", "-rf", "--one-file-system", "--", str(folder))
    if gone := not folder.exists():
        return gone
    log.warning("left_behind", folder=str(folder), consequence="it takes disk until somebody removes it")
    return False


class FreshFolders:
    """Names folders below `parent` that nothing before can have left behind, whatever could not be removed."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._run = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        parent.mkdir(parents=True, exist_ok=True)

    def name(self, stem: str) -> Path:
        """Return a path that is not there yet."""
        return self._parent / f"{stem}-{self._run}-{next(self._numbers)}"

    async def clear(self) -> None:
        """Remove what earlier runs left, apart from the event loop, and hold nobody up."""
        for path in await asyncio.to_thread(lambda: list(self._parent.iterdir())):
            if self._run not in path.name.split("-"):
                await asyncio.to_thread(remove, path)


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program)
    if path is None:
        return
    try:
        subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REMOVAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("removal_failed", program=program, error=str(error))


def _mounts_below(folder: Path) -> list[str]:
    """List what is mounted below a folder, the innermost first."""
    table = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "surrogateescape")
    points = [_unescaped(line.split()[4]) for line in table.splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{folder.resolve()}/")]


def _unescaped(point: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        point = point.replace(code, character)
    return point
