"""A running process, known again by pid, start time and boot, so that a signal never meets a foreign one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import DeployError

_KILL_SECONDS = 20
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Identity:
    """What launch.py recorded about a process when it started."""

    pid: int
    ticks: int
    """Start time in clock ticks since boot, field 22 of /proc/<pid>/stat."""
    boot: str
    starts: int
    """How many times the process was started since the mesh came up."""

    @classmethod
    def read(cls, record: Path) -> Identity | None:
        """Return the recorded identity; None where there is no whole record."""
        try:
            return cls(**json.loads(record.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        fields = _stat(self.pid)
        return (
            fields is not None
            and fields[0] not in {"Z", "X"}
            and int(fields[19]) == self.ticks
            and _BOOT.read_text(encoding="ascii").strip() == self.boot
        )

    def uptime_seconds(self) -> float:
        """Return how long it has been running, if it is."""
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, since_boot - self.ticks / os.sysconf("SC_CLK_TCK"))

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to this very process, or to its process group; to nobody when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # With the handle held the pid cannot be given away between this look and the signal.
            if not self.is_alive():
                return
            if group and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat after the command's name, the first of them the state."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def end(identities: Iterable[Identity], timeout: float) -> None:
    """Ask processes to stop, and kill the process groups of those that are still there after `timeout` seconds.

    DeployError when one does not end even then.
    """
    waiting = [identity for identity in identities if identity.is_alive()]
    for identity in waiting:
        identity.signal(signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        time.sleep(0.02)
        waiting = [identity for identity in waiting if identity.is_alive()]
    for identity in waiting:
        identity.signal(signal.SIGKILL, group=True)
    deadline = time.monotonic() + _KILL_SECONDS
    while waiting := [identity for identity in waiting if identity.is_alive()]:
        if time.monotonic() > deadline:
            raise DeployError(f"Process {waiting[0].pid} does not end, not even by SIGKILL; the kernel holds it.")
        time.sleep(0.01)
