"""The life of a service process: started, served, and stopped when it is told to or when a part of it fails."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Protocol

from loupe.concurrency import race


class Background:
    """The work that goes on for as long as a service does; none of it may end by itself."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Begin a piece of work."""
        self._tasks.append(asyncio.create_task(work, name=name))

    async def watch(self) -> None:
        """Raise the error of the first piece that ends, RuntimeError when it had none."""
        if not self._tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            raise RuntimeError(f"the background work {task.get_name()!r} has ended")

    async def cancel(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class App(Protocol):
    """A service that was put together from its settings."""

    background: Background

    async def start(self) -> None:
        """Serve."""

    async def stop(self) -> None:
        """Close everything, also after a start that failed."""


async def run(app: App) -> None:
    """Serve until SIGTERM or SIGINT, or until background work ends, which is raised."""
    told = asyncio.ensure_future(told_to_stop())
    try:
        await app.start()
        await race(told, app.background.watch())
    finally:
        told.cancel()
        await app.stop()


async def told_to_stop() -> None:
    """Return after SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
