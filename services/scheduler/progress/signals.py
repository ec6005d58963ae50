"""Signals inside one process: whoever waits for a commit is woken by it, nobody polls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from services.scheduler.jobs.job import Job


class Bell:
    """Wakes everybody who waits. Take next() first, look at the state then, and wait last: no ring is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all who hold the current next()."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return set by the next ring."""
        return self._event


async def heard(event: asyncio.Event, patience: float | None) -> bool:
    """Wait for an event and return True, or False after `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Signals:
    """Tell what was committed. any: some job got an event."""

    def __init__(self) -> None:
        self.any = Bell()
        self._jobs: WeakValueDictionary[str, Bell] = WeakValueDictionary()
        self._listeners: list[Callable[[Job], None]] = []

    def of(self, uid: str) -> Bell:
        """Return the bell of one job; it lives as long as somebody holds it."""
        bell = self._jobs.get(uid)
        if bell is None:
            bell = self._jobs[uid] = Bell()
        return bell

    def listen(self, moved: Callable[[Job], None]) -> None:
        """Have `moved` called with every job whose state changed."""
        self._listeners.append(moved)

    def committed(self, job: Job, moved: bool) -> None:
        """Pass on that a job's change is durable; moved is true when its state changed."""
        self.any.ring()
        if (bell := self._jobs.get(job.uid)) is not None:
            bell.ring()
        if moved:
            for listener in self._listeners:
                listener(job)
