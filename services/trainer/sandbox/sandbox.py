"""Where foreign code runs: what every sandbox promises, and the process that lives in one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from loupe.algorithm.process import training_environment
from services.trainer.sandbox.limits import Limits

# Runs main() of a module of the code folder: the folder and the module's name are the first two arguments.
BOOTSTRAP = (
    "import importlib, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "sys.exit(importlib.import_module(sys.argv.pop(1)).main(sys.argv[1:]))"
)


DEATH_SECONDS = 10
DEATH_POLL_SECONDS = 0.005


class SandboxFailed(RuntimeError):
    """Says why a process could not be started in its sandbox."""


@dataclass(frozen=True)
class Launch:
    """One program to be started in a sandbox of its own.

    module: a module of the code folder that has `main(arguments)`. folder: a private folder, not there yet.
    slot: number of the slot, from 0; no two live processes have the same.
    nice: 0, or up to 19 to leave the cores to others.
    """

    module: str
    folder: Path
    slot: int
    limits: Limits
    arguments: Sequence[str] = ()
    threads: int = 1
    nice: int = 0
    gpu: bool = False


class Sandbox(Protocol):
    """Starts programs apart from everything else."""

    isolated: bool
    """isolated says whether code that nobody trusts may run here."""

    def inside(self, folder: Path) -> tuple[str, str]:
        """Return where a program launched in `folder` finds its data and its work folder."""

    async def start(self, launch: Launch) -> SandboxedProcess:
        """Start the program. Raises SandboxFailed."""


@dataclass
class SandboxedProcess:
    """A live program, the socket to it, and its folders as the trainer sees them.

    channel: the trainer's end; who reads it with asyncio takes a duplicate. work: it writes here. data: it reads
    here, and the trainer alone writes. owner: user id of what it writes. nice: its priority, 0 when it is the usual.
    process.stdout carries both its outputs.
    """

    process: asyncio.subprocess.Process
    channel: socket.socket
    folder: Path
    work: Path
    data: Path
    owner: int
    nice: int = 0
    _killed: bool = field(default=False, repr=False)

    @property
    def ended(self) -> bool:
        """Whether the program is over."""
        return self.process.returncode is not None

    async def wait(self) -> int:
        """Return the exit status: negative for a signal."""
        return await self.process.wait()

    def tree(self) -> list[psutil.Process]:
        """Return every live process of the sandbox, the outermost first."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _frozen_tree(self) -> list[psutil.Process]:
        """Stop process after process until none is left that could start another one behind our back."""
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
        """End every process of the sandbox and remove its folder; it returns when both are gone."""
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
        survivors = await asyncio.to_thread(_survivors, tree[1:])
        self.channel.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        if survivors:
            raise SandboxFailed(f"processes {survivors} outlived SIGKILL for {DEATH_SECONDS} s")


def _alive(process: psutil.Process) -> bool:
    """Say that a process can still do something; a dead one that nobody has waited for cannot."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _survivors(processes: list[psutil.Process]) -> list[int]:
    """Wait until all of them are dead; it returns the ids of those that are not in time."""
    deadline = time.monotonic() + DEATH_SECONDS
    while (alive := [process.pid for process in processes if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(DEATH_POLL_SECONDS)
    return alive


def make_folders(launch: Launch, owner: int | None = None) -> tuple[Path, Path]:
    """Create the work and data folders of a launch; work belongs to `owner`."""
    work, data = launch.folder / "work", launch.folder / "data"
    launch.folder.mkdir(parents=True, mode=0o700)
    # Passable for bubblewrap, which has dropped its rights when it goes there; the folder around it is private.
    work.mkdir(mode=0o711)
    data.mkdir(mode=0o755)
    if owner is not None:
        os.chown(work, owner, owner)
    return work, data


def environment(threads: int, home: str) -> dict[str, str]:
    """Return all that a program finds in its environment."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "USER": "job",
        "LOGNAME": "job",
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        **training_environment(threads),
    }


def interpreter(code: str, launch: Launch) -> list[str]:
    """Return the command that runs the launch's module out of the code folder."""
    return [sys.executable, "-I", "-B", "-u", "-c", BOOTSTRAP, code, launch.module, *launch.arguments]


def priority(launch: Launch) -> list[str]:
    """Return the command that gives the one behind it the launch's priority; it may be empty."""
    nice = shutil.which("nice")
    return [nice, "-n", str(launch.nice)] if launch.nice and nice else []


async def spawn(
    command: Sequence[str],
    launch: Launch,
    folders: tuple[Path, Path],
    *,
    owner: int,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    fds: Sequence[int] = (),
) -> SandboxedProcess:
    """Start the command; `{channel}` in it stands for the descriptor of its end of the socket."""
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
    return SandboxedProcess(process, ours, launch.folder, work, data, owner, launch.nice)
