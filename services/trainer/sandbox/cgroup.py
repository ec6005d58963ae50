"""The kernel's own bound on a sandbox as a whole: a cgroup of version 2 for each, where the host gives that.

Where it does not (no version 2, nothing delegated, other processes in the same cgroup), `usage` counts, and the trainer
ends what is beyond its limits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from services.trainer.sandbox.limits import Limits

CONTROLLERS = ("memory", "pids")
# bubblewrap's own, and room for the moment in which one becomes another.
OWN_PROCESSES = 4
EMPTY_SECONDS, POLL_SECONDS = 10.0, 0.005
JOIN = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of one sandbox."""

    path: Path

    def command(self) -> list[str]:
        """Return the command that puts the one behind it, and with it all that it starts, into the cgroup."""
        shell = shutil.which("sh") or "/bin/sh"
        return [shell, "-c", JOIN, str(self.path / "cgroup.procs")]

    def exceeded(self) -> bool:
        """Return whether the kernel ended something in it for its memory."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and int(count):
                    return True
        return False

    def kill(self) -> None:
        """Kill all that is in it, at once and whatever it does meanwhile, and remove it. May take long."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1", encoding="ascii")
        deadline = time.monotonic() + EMPTY_SECONDS
        while self.path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Cgroups:
    """Makes cgroups below the one that was given to this trainer."""

    path: Path

    @classmethod
    def find(cls, proc: Path = Path("/proc/self")) -> Cgroups | None:
        """Return them where this process's cgroup is its own to divide, None elsewhere.

        The kernel lets a cgroup with processes in it have no bounded ones below: this process moves into one of its
        own, and back where that does not help, since somebody else is in there, too.
        """
        own = _own(proc)
        if own is None or not _delegated(own):
            return None
        leaf = own / f"trainer-{os.getpid()}"
        try:
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            enabled = " ".join(f"+{name}" for name in CONTROLLERS)
            (own / "cgroup.subtree_control").write_text(enabled, encoding="ascii")
        except OSError:
            with contextlib.suppress(OSError):
                (own / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            with contextlib.suppress(OSError):
                leaf.rmdir()
            return None
        # An earlier trainer's: nobody else is in this cgroup, or the line above would have failed.
        for stale in own.glob("sandbox-*"):
            Cgroup(stale).kill()
        for stale in own.glob("trainer-*"):
            with contextlib.suppress(OSError):
                stale.rmdir()
        return cls(own)

    def make(self, name: str, limits: Limits) -> Cgroup:
        """Make the cgroup of a sandbox. Raises OSError."""
        group = Cgroup(self.path / f"sandbox-{name}")
        group.path.mkdir()
        bounds = {
            "memory.max": str(limits.memory),
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "pids.max": str(limits.processes + OWN_PROCESSES),
        }
        for file, bound in bounds.items():
            # Without swap in the kernel, there is no file for it.
            if (group.path / file).exists() or file != "memory.swap.max":
                (group.path / file).write_text(bound, encoding="ascii")
        return group


def _own(proc: Path) -> Path | None:
    """Return the folder of the process's cgroup of version 2."""
    with contextlib.suppress(OSError):
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        path = next((line[3:] for line in lines if line.startswith("0::")), None)
        for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
            place, _, kind = line.partition(" - ")
            if path is not None and kind.startswith("cgroup2 "):
                root, point = place.split()[3:5]
                below = path.removeprefix(root) if root != "/" else path
                return Path(point) / below.lstrip("/")
    return None


def _delegated(own: Path) -> bool:
    """Return whether a cgroup was given away by who manages them: systemd (Delegate=), or a container's engine."""
    try:
        offered = (own / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return False
    # The root of all cgroups has no bounds of its own; what has them, and is the root here, is a container's.
    if not set(CONTROLLERS) <= set(offered) or not (own / "memory.max").exists():
        return False
    if not all(os.access(own / file, os.W_OK) for file in ("cgroup.procs", "cgroup.subtree_control")):
        return False
    return own.is_mount() or _marked(own)


def _marked(own: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(own, name) == b"1":
                return True
    return False
