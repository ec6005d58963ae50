"""Where foreign code runs: what every sandbox promises."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from services.trainer.sandbox.launch import Launch
from services.trainer.sandbox.process import SandboxedProcess


class NoSandbox(RuntimeError):
    """Says what is missing for a sandbox on this machine."""


class Sandbox(Protocol):
    """Starts programs apart from everything else."""

    isolated: bool
    """Whether code that nobody trusts may run here."""

    def inside(self, folder: Path) -> tuple[str, str]:
        """Return where a program launched in `folder` finds its data and its work folder."""

    async def start(self, launch: Launch) -> SandboxedProcess:
        """Start the program. Raises SandboxFailed."""
