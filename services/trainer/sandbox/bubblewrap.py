"""The real sandbox: bubblewrap, a user id per slot, no network, no capabilities, a system call filter."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from pathlib import Path

from services.trainer.sandbox.cgroup import Cgroup, Cgroups
from services.trainer.sandbox.launch import Launch, environment, interpreter, make_folders, priority
from services.trainer.sandbox.leftovers import FreshFolders
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxedProcess, SandboxFailed, spawn
from services.trainer.sandbox.sandbox import NoSandbox
from services.trainer.sandbox.seccomp import write_filter

CODE, WORK, DATA = "/job/code", "/job/work", "/job/data"
SCRATCH = ("/dev/shm", "/tmp")
MEMORY_FILE_SYSTEMS = (WORK, *SCRATCH)
WORK_MARGIN = 1 << 20
PROBE_SECONDS = 30
GPU_NODES = ("nvidia*", "nvidia-caps")


class Bubblewrap:
    """Runs each program as a process tree that sees its own folders and the interpreter, and nothing else.

    code: the folder made by `make_code_folder`. first_uid: slot n runs as user first_uid + n, where the trainer is
    root; otherwise in a user namespace that allows no further one. cgroups: where they are, the kernel bounds each
    sandbox as a whole. Raises NoSandbox where something is missing.
    """

    isolated = True

    def __init__(self, code: Path, filter_file: Path, first_uid: int, cgroups: Cgroups | None = None) -> None:
        self._bwrap = _tool("bwrap")
        self._setpriv = _tool("setpriv")
        self._root = os.geteuid() == 0
        self._code = code
        self._filter = filter_file
        self._first_uid = first_uid
        self._cgroups = cgroups
        _tool("prlimit")
        self._gpu_filter = filter_file.with_suffix(".gpu.bpf")
        write_filter(filter_file)
        write_filter(self._gpu_filter, gpu=True)

    def inside(self, folder: Path) -> tuple[str, str]:
        return DATA, WORK

    async def start(self, launch: Launch) -> SandboxedProcess:
        owner = self._first_uid + launch.slot if self._root else os.geteuid()
        work, data = make_folders(launch, owner if self._root else None)
        cgroup = self._cgroup(launch)
        try:
            with (self._gpu_filter if launch.gpu else self._filter).open("rb") as rules:
                return await spawn(
                    [
                        *(cgroup.command() if cgroup else ()),
                        *priority(launch),
                        *self.arguments(launch, work, data, owner, rules.fileno()),
                        *interpreter(CODE, launch),
                    ],
                    launch,
                    (work, data),
                    owner=owner,
                    fds=(rules.fileno(),),
                    mounts=MEMORY_FILE_SYSTEMS,
                    cgroup=cgroup,
                )
        except BaseException:
            if cgroup is not None:
                await asyncio.to_thread(cgroup.kill)
            raise

    def _cgroup(self, launch: Launch) -> Cgroup | None:
        if self._cgroups is None:
            return None
        try:
            return self._cgroups.make(launch.folder.name, launch.limits)
        except OSError as error:
            raise SandboxFailed(f"no cgroup could be made: {error}") from error

    async def probe(self, folder: Path) -> None:
        """Start the decoder and let it end. Raises NoSandbox where bubblewrap may not do its work."""
        probes = FreshFolders(folder / "probes")
        await probes.clear()
        launch = Launch("decoder", probes.name("probe"), 0, Limits(), ("--channel", "{channel}"))
        try:
            process = await self.start(launch)
        except SandboxFailed as error:
            raise NoSandbox(str(error)) from error
        try:
            process.channel.shutdown(socket.SHUT_WR)
            output = await asyncio.wait_for(process.output.read(4000), PROBE_SECONDS)
            status = await asyncio.wait_for(process.wait(), PROBE_SECONDS)
        except TimeoutError as error:
            raise NoSandbox(f"bubblewrap did not start in {PROBE_SECONDS} s") from error
        finally:
            await process.kill()
        if status != 0:
            raise NoSandbox(f"bubblewrap: {output.decode(errors='replace').strip()}")

    def arguments(self, launch: Launch, work: Path, data: Path, owner: int, rules: int) -> list[str]:
        """Return the command line up to the interpreter."""
        limits = launch.limits
        command = [self._bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--hostname", "job"]
        command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
        if self._root:
            # A user namespace of bubblewrap's would leave no other user id to change to.
            command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
        else:
            command += ["--unshare-user", "--disable-userns"]
        command += ["--proc", "/proc", "--dev", "/dev"]
        for target, size in zip(SCRATCH, (limits.shm, limits.tmp), strict=True):
            command += ["--perms", "1777", "--size", str(max(size, 1)), "--tmpfs", target]
        command += _devices(launch.gpu)
        for path in _readable():
            command += [*_parents(path), "--ro-bind", str(path), str(path)]
        for path in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
            if path.is_symlink():
                command += ["--symlink", str(path.readlink()), str(path)]
            elif path.exists():
                command += ["--ro-bind", str(path), str(path)]
        command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--perms", "0755", "--dir", "/job"]
        command += ["--ro-bind", str(self._code), CODE, "--ro-bind", str(data), DATA]
        # A file system of its own is bounded however its files are hidden. The watcher's limit comes a little before.
        command += ["--perms", "0777", "--size", str(limits.work + WORK_MARGIN), "--tmpfs", WORK]
        # Without root, what bubblewrap made is the job's own, and it could write there.
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK, "--seccomp", str(rules)]
        for name, value in environment(launch.threads, WORK).items():
            command += ["--setenv", name, value]
        command.append("--")
        if self._root:
            command += [self._setpriv, f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--inh-caps=-all"]
            command += ["--bounding-set=-all", "--no-new-privs", "--"]
        return command + limits.prefix(count_processes=True)


def _devices(gpu: bool) -> list[str]:
    """Return the words that give a GPU's devices, or else take away what could be memory that nobody counts."""
    if not gpu:
        return ["--dev-bind", "/dev/null", "/dev/zero"]  # mapped and shared, it is memory without a file system
    nodes = [str(node) for pattern in GPU_NODES for node in sorted(Path("/dev").glob(pattern))]
    return [word for node in nodes for word in ("--dev-bind", node, node)]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NoSandbox(f"{name} is not installed")
    return path


def _readable() -> list[Path]:
    """List what the interpreter needs: /usr, where it lives, and the virtual environment."""
    paths = [Path("/usr")]
    for prefix in (sys.base_prefix, sys.prefix):
        for path in (Path(prefix), Path(prefix).resolve()):
            if not any(path.is_relative_to(known) for known in paths):
                paths.append(path)
    return paths


def _parents(path: Path) -> list[str]:
    """Return the words that make the folders above a bind so that everybody may pass through them."""
    return [word for parent in reversed(path.parents[:-1]) for word in ("--perms", "0755", "--dir", str(parent))]
