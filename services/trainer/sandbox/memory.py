"""How much memory a group of processes really takes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

OWN = ("Pss_Anon:", "Pss_Shmem:")


def memory_in_use(tree: Callable[[], Sequence[psutil.Process]], interesting: int) -> int:
    """Return the bytes that the processes have for themselves, mapped files left out.

    Pages that forked processes share are counted once, exactly, as soon as the quick count, which takes them many
    times, is above `interesting`.
    """
    processes = tree()
    quick = sum(map(_quick, processes))
    return quick if quick <= interesting else sum(map(_exact, processes))


def _quick(process: psutil.Process) -> int:
    try:
        info = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return info.rss - info.shared


def _exact(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        return _quick(process)
    return sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith(OWN))
