"""What the demo's scenes need, and what they find out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from deploy.local.endpoints import MeshEndpoints
from loupe.names import AccountName
from loupe.tasks.task import Task
from loupe.terminal.client import Terminal
from loupe.terminal.profile import Profile, ProfileStore


@dataclass
class Story:
    """What the scenes need and what they found out.

    pictures: a folder in any format that a push takes. target: of the task's first metric. drawings: where pictures are
    drawn into. figures: the task's metrics on the held-out pictures, of which score is the first. seconds: of each
    part.
    """

    console: Console
    endpoints: MeshEndpoints
    folder: Path
    pictures: Path
    task: Task
    target: float
    drawings: Path
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    model: str = ""
    trainer: str = ""
    test_images: int = 0

    def say(self, text: str) -> None:
        """Print what happens."""
        self.console.print(f"\n[bold]{text}[/bold]", highlight=False)

    def conclude(self, text: str, seconds: float) -> None:
        """Print what came out, and how long a picture took."""
        style = "green" if self.score >= self.target else "yellow"
        self.console.print(f"  {text} ({1e3 * seconds:.1f} ms a picture)", style=style)

    @asynccontextmanager
    async def terminal(self, account: str, password: str) -> AsyncIterator[Terminal]:
        """Log somebody in, with a profile of their own."""
        store = ProfileStore(self.folder / f"{account}.json")
        store.save(Profile(server=self.endpoints.auth, ca=self.endpoints.ca.read_text(encoding="utf-8")))
        async with Terminal.connect(store) as terminal:
            await terminal.sessions.login(AccountName(account), password)
            yield terminal
