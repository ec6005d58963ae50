"""What a job takes as a whole: the memory of all its processes, its file systems, and what the kernel keeps for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.trainer.sandbox.process import SandboxedProcess

# What a process has for itself, in kB: swapped out, in huge pages, and the tables that say where its pages are, too.
OWN = ("RssAnon:", "VmSwap:", "VmPTE:", "HugetlbPages:")
EXACT = ("Pss_Anon:", "SwapPss:")
# Where a job may share memory without a file: what shows of it, files of its own file systems a second time included.
SHARED, EXACT_SHARED = ("RssShmem:",), ("Pss_Shmem:",)
PER_FILE = 1024
"""What an inode of a memory file system takes; the kernel's own figure (shmem.c, BOGO_INODE_SIZE)."""
PER_DESCRIPTOR = 8192
"""What a pipe holds, at most, once a user has many of them (pipe(7), pipe-user-pages-soft)."""
PER_SOCKET = 256 << 10
"""What waits in a socket, at most: socket(7), wmem_default, and one message more. Nobody inside may change it."""
TOO_DEEP = 1 << 40


@dataclass(frozen=True)
class Usage:
    """memory: bytes of the job as a whole. disk, files: of its work folder, and part of its memory where that is."""

    memory: int
    disk: int
    files: int


def measure(process: SandboxedProcess, memory: int) -> Usage:
    """Return what everything in a sandbox takes now.

    Pages that forked processes share are counted once, exactly, as soon as the quick count, which takes them many
    times, is above `memory`.
    """
    if process.mounts:
        sizes = [_file_system(descriptor) for descriptor in process.descriptors]
        disk, files = sizes[0]
        held = sum(size + PER_FILE * count for size, count in sizes)
    else:
        disk, files = walk(process.work)
        held = 0
    members = family(process.process.pid)
    disk += 0 if process.mounts else sum(_unlinked(members, process.work))
    kernel = PER_DESCRIPTOR * sum(map(_descriptors, members))
    if process.mounts and len(members) > 1:
        kernel += PER_SOCKET * _sockets(members[1])
    own = sum(_quick(member, process.gpu) for member in members)
    if own + held + kernel > memory:
        own = sum(_exact(member, process.gpu) for member in members)
    return Usage(own + held + kernel, disk, files)


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it; what comes or goes meanwhile may be missing or too much."""
    if not Path("/proc/thread-self/children").exists():  # a kernel without CONFIG_PROC_CHILDREN
        try:
            return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []
    found: dict[int, None] = {}
    waiting = [pid]
    while waiting:
        member = waiting.pop()
        if member not in found:
            found[member] = None
            waiting += _children(member)
    return list(found)


def walk(folder: Path) -> tuple[int, int]:
    """Return (bytes on disk, number of files and folders) of a folder on the host's own file system.

    The stand-in for a file system of its own, for images that ship with Loupe: a file with many names counts once, and
    what lies deeper than a path may be long makes TOO_DEEP files of it.
    """
    size = count = 0
    seen: set[int] = set()
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif found.st_nlink == 1 or found.st_ino not in seen:
                        seen.add(found.st_ino)
                        size += found.st_blocks * 512
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:
            return size, TOO_DEEP
    return size, count


def _children(pid: int) -> Iterator[int]:
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - ten times a second
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def _file_system(descriptor: int) -> tuple[int, int]:
    """Return (bytes, inodes) that are taken in the file system of an open folder, however they are hidden in it."""
    found = os.fstatvfs(descriptor)
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree


def _unlinked(members: list[int], folder: Path) -> Iterator[int]:
    """Yield the sizes on disk of files of the folder that have no name any more and are open."""
    seen: set[int] = set()
    device = folder.stat().st_dev
    for member in members:
        try:
            for name in os.listdir(f"/proc/{member}/fd"):  # noqa: PTH208
                found = Path(f"/proc/{member}/fd/{name}").stat()
                if found.st_nlink == 0 and found.st_dev == device and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    yield found.st_blocks * 512
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def _descriptors(pid: int) -> int:
    try:
        folder = Path(f"/proc/{pid}/fd")
        # Since Linux 6.2 the size says how many there are.
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def _sockets(pid: int) -> int:
    """Return how many sockets the network namespace of a process has, also those that no process has open."""
    try:
        first = Path(f"/proc/{pid}/net/sockstat").read_text(encoding="ascii").split("\n", 1)[0]
    except (OSError, ProcessLookupError):
        return 0
    return int(first.rpartition(" ")[2])


def _quick(pid: int, shared: bool) -> int:
    return _kilobytes(f"/proc/{pid}/status", OWN + SHARED if shared else OWN)


def _exact(pid: int, shared: bool) -> int:
    try:
        tables = _kilobytes(f"/proc/{pid}/status", ("VmPTE:", "HugetlbPages:"))
        return _kilobytes(f"/proc/{pid}/smaps_rollup", EXACT + EXACT_SHARED if shared else EXACT) + tables
    except PermissionError:
        return _quick(pid, shared)


def _kilobytes(file: str, names: tuple[str, ...]) -> int:
    """Sum lines of a file of /proc up, in bytes. Nothing of a process that is gone."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))
