"""The process that lives in a sandbox: how it is started, and how nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from services.trainer.sandbox.cgroup import Cgroup
from services.trainer.sandbox.launch import Launch
from services.trainer.sandbox.leftovers import remove

DEATH_SECONDS = 10
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEATH_POLL_SECONDS = 0.005


class SandboxFailed(RuntimeError):
    """Says why a process could not be started in its sandbox."""


@dataclass
class SandboxedProcess:
    """A live program, the socket to it, and its folders as the trainer sees them.

    channel: the trainer's end; who reads it with asyncio takes a duplicate. work: it writes here. data: it reads
    here, and the trainer alone writes. owner: user id of what it writes. nice: its priority, 0 when it is the usual.
    mounts: the file systems that the sandbox has for itself, as the program names them, the work folder first; where
    there are none, `work` is a folder on the host's disk. descriptors: of these folders, once they are opened.
    cgroup: what holds all its processes, where the host gives one. gpu: whether it may share memory without a file.
    """

    process: asyncio.subprocess.Process
    channel: socket.socket
    folder: Path
    work: Path
    data: Path
    owner: int
    nice: int = 0
    mounts: tuple[str, ...] = ()
    cgroup: Cgroup | None = None
    gpu: bool = False
    descriptors: list[int] = field(default_factory=list, repr=False)
    _killed: bool = field(default=False, repr=False)

    @property
    def output(self) -> asyncio.StreamReader:
        """What the program writes to stdout and stderr."""
        assert self.process.stdout is not None, "spawn opens a pipe for it"
        return self.process.stdout

    @property
    def ended(self) -> bool:
        """Whether the program is over."""
        return self.process.returncode is not None

    async def wait(self) -> int:
        """Return the exit status: negative for a signal."""
        return await self.process.wait()

    def open_folders(self) -> None:
        """Open the work folder and the other file systems, which then stay in sight whatever becomes of the program.

        To be done while everything inside still is our own code. Raises SandboxFailed.
        """
        try:
            if not self.mounts:
                self.descriptors.append(os.open(self.work, FOLDER))
            for mount in self.mounts:
                # The outermost process is outside; the next one is the first of the sandbox's own.
                root = f"/proc/{self.tree()[1].pid}/root"
                self.descriptors.append(os.open(root + mount, FOLDER))
                if os.fstat(self.descriptors[-1]).st_dev == self.folder.stat().st_dev:
                    raise SandboxFailed(f"{mount} is not a file system of the sandbox's own")
        except (OSError, IndexError) as error:
            raise SandboxFailed(f"the folders of a sandbox cannot be opened: {error}") from error

    def tree(self) -> list[psutil.Process]:
        """Return every live process of the sandbox, the outermost first."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _frozen_tree(self) -> list[psutil.Process]:
        """Stop process after process until none is left that could start another one behind our back; return all."""
        stopped: set[psutil.Process] = set()
        while fresh := [process for process in self.tree() if process not in stopped]:
            for process in fresh:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            stopped |= set(fresh)
        return self.tree()

    def raise_priority(self) -> None:
        """Give a process that was started with low priority the usual one; only root may."""
        if not self.nice:
            return
        self.nice = 0
        for process in self.tree():
            for thread in Path(f"/proc/{process.pid}/task").glob("*"):
                try:
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)
                except ProcessLookupError:
                    continue

    async def kill(self) -> None:
        """End every process of the sandbox and remove its folder; return when both are gone.

        Raises SandboxFailed when a process outlives it.
        """
        if self._killed:
            return
        self._killed = True
        tree = await asyncio.to_thread(self._frozen_tree)
        if self.process.returncode is None:
            self.process.kill()
        for member in tree[1:]:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        await self.process.wait()
        if self.cgroup is not None:
            await asyncio.to_thread(self.cgroup.kill)
        survivors = await asyncio.to_thread(_survivors, tree[1:])
        self.channel.close()
        # The file systems of the sandbox's own end with the last process and the last descriptor.
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        await asyncio.to_thread(remove, self.folder)
        if survivors:
            raise SandboxFailed(f"processes {survivors} outlived SIGKILL for {DEATH_SECONDS} s")


def _alive(process: psutil.Process) -> bool:
    """Return whether a process can still do something; a dead one that nobody has waited for cannot."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _survivors(processes: list[psutil.Process]) -> list[int]:
    """Wait until all of them are dead; return the ids of those that are not in time."""
    deadline = time.monotonic() + DEATH_SECONDS
    while (alive := [process.pid for process in processes if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(DEATH_POLL_SECONDS)
    return alive


async def spawn(
    command: Sequence[str],
    launch: Launch,
    folders: tuple[Path, Path],
    *,
    owner: int,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    fds: Sequence[int] = (),
    mounts: tuple[str, ...] = (),
    cgroup: Cgroup | None = None,
) -> SandboxedProcess:
    """Start the command; `{channel}` in it stands for the descriptor of its end of the socket. Raises SandboxFailed."""
    ours, theirs = socket.socketpair()
    try:
        argv = [word.replace("{channel}", str(theirs.fileno())) for word in command]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment or {},
            cwd=cwd,
            pass_fds=(theirs.fileno(), *fds),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise SandboxFailed(f"{command[0]} could not be started: {error}") from error
    finally:
        theirs.close()
    work, data = folders
    return SandboxedProcess(process, ours, launch.folder, work, data, owner, launch.nice, mounts, cgroup, launch.gpu)
