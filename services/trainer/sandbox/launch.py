"""One program for a sandbox: what it is, its folders, its environment, its command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.algorithm.process import training_environment
from services.trainer.sandbox.limits import Limits

# Runs main() of a module of the code folder: the folder and the module's name are the first two arguments.
BOOTSTRAP = (
    "import importlib, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "sys.exit(importlib.import_module(sys.argv.pop(1)).main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Launch:
    """One program that is started in a sandbox of its own.

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
    """Return the command that gives the one behind it the launch's priority; it may be empty.

    When the machine runs out of memory, the kernel ends it before any service; where the trainer has CAP_SYS_RESOURCE,
    a job cannot take that back.
    """
    nice, choom = shutil.which("nice"), shutil.which("choom")
    command = [nice, "-n", str(launch.nice)] if launch.nice and nice else []
    return [*command, choom, "-n", "1000", "--"] if choom else command
