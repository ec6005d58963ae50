"""What stands in for a sandbox where none can be had: a plain process, for the images that ship with Loupe only."""

from __future__ import annotations

import os
from pathlib import Path

from services.trainer.sandbox.launch import Launch, environment, interpreter, make_folders, priority
from services.trainer.sandbox.process import SandboxedProcess, spawn


class PlainProcess:
    """Gives a program its own folders, environment and limits, but lets it look around."""

    isolated = False

    def __init__(self, code: Path) -> None:
        self._code = code

    def inside(self, folder: Path) -> tuple[str, str]:
        return str(folder / "data"), str(folder / "work")

    async def start(self, launch: Launch) -> SandboxedProcess:
        work, data = make_folders(launch)
        return await spawn(
            [*priority(launch), *launch.limits.prefix(count_processes=False), *interpreter(str(self._code), launch)],
            launch,
            (work, data),
            owner=os.geteuid(),
            environment=environment(launch.threads, str(work)),
            cwd=work,
        )
