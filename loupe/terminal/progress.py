"""How far a push, a pull or an export is, and the bars that show it on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PHASES = {"hash": "reading", "inspect": "inspecting", "send": "sending", "version": "checking"}


@dataclass(frozen=True)
class PushProgress:
    """How far a push is. phase: "hash", "inspect" (strict only), "send" or "version"; the counts are that phase's."""

    phase: str
    pictures: int = 0
    total_pictures: int = 0
    bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class PullProgress:
    """How many of the version's bytes are here."""

    bytes: int
    total_bytes: int


@dataclass(frozen=True)
class SendProgress:
    """How many bytes of the files that were missing are sent."""

    bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ExportProgress:
    """How many of the version's pictures are written."""

    pictures: int
    total_pictures: int


@contextmanager
def push_bar(console: Console, shown: bool) -> Iterator[Callable[[PushProgress], None]]:
    """Show a push: a line per phase, with pictures and MB/s."""
    with _bars(console, shown) as progress:
        tasks: dict[str, TaskID] = {}

        def show(now: PushProgress) -> None:
            if now.phase not in tasks:
                tasks[now.phase] = progress.add_task(PHASES[now.phase], total=now.total_pictures, amount="")
            speed = _speed(progress, tasks[now.phase], now.bytes)
            progress.update(tasks[now.phase], completed=now.pictures, amount=speed)

        yield show


@contextmanager
def pull_bar(console: Console, shown: bool) -> Iterator[Callable[[PullProgress], None]]:
    """Show a pull by its bytes."""
    with _byte_bar(console, shown, "pulling") as show:
        yield lambda now: show(now.bytes, now.total_bytes)


@contextmanager
def send_bar(console: Console, shown: bool) -> Iterator[Callable[[SendProgress], None]]:
    """Show the sending of files by their bytes."""
    with _byte_bar(console, shown, "sending") as show:
        yield lambda now: show(now.bytes, now.total_bytes)


@contextmanager
def export_bar(console: Console, shown: bool) -> Iterator[Callable[[ExportProgress], None]]:
    """Show an export by its pictures."""
    with _bars(console, shown) as progress:
        task = progress.add_task("writing", total=None, amount="")
        yield lambda now: progress.update(task, completed=now.pictures, total=now.total_pictures)


@contextmanager
def _byte_bar(console: Console, shown: bool, title: str) -> Iterator[Callable[[int, int], None]]:
    with _bars(console, shown) as progress:
        task = progress.add_task(title, total=None, amount="")

        def show(count: int, total: int) -> None:
            progress.update(task, completed=count, total=total, amount=_speed(progress, task, count))

        yield show


def _bars(console: Console, shown: bool) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


def _speed(progress: Progress, task: TaskID, count: int) -> str:
    elapsed = progress.tasks[task].elapsed
    return f"{count / 1e6:.1f} MB, {count / 1e6 / elapsed:.0f} MB/s" if count and elapsed else ""
