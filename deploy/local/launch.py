"""Become one process of the mesh: read its spec, note pid and start time, point its output at the log, exec.

Run as a script, isolated and without site packages, so that it costs milliseconds:
`python -I -S launch.py SPEC DIGEST`. DIGEST is there for the supervisor alone: another one is another command,
and so a changed spec restarts the process. The log is a file and no pipe, so that a process outlives its supervisor.
"""

from __future__ import annotations

import json
import os
import sys


def main(spec_path: str) -> None:
    """Become the spec's command; this never returns."""
    with open(spec_path, encoding="utf-8") as file:  # noqa: PTH123 (pathlib alone would double the start-up time)
        spec = json.load(file)
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _record(spec["record"])
    os.chdir(spec["directory"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOUPE_")}
    os.execve(spec["command"][0], spec["command"], environment | spec["environment"])


def _record(path: str) -> None:
    """Name this process so that it cannot be taken for a later one with the same pid; exec keeps both."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            starts = json.load(file)["starts"]
    except FileNotFoundError:
        starts = 0
    with open("/proc/self/stat", encoding="utf-8") as file:  # noqa: PTH123
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        boot = file.read().strip()
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"pid": os.getpid(), "ticks": ticks, "boot": boot, "starts": starts + 1}, file)
    os.replace(temporary, path)  # noqa: PTH105


if __name__ == "__main__":
    main(sys.argv[1])
