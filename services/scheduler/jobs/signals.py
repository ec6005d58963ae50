"""Signals inside one process: whoever waits for a commit is woken by it, nobody polls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from loupe.notifier import Notifier
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import State


class Signals:
    """Tell what was committed. any: some job got an event."""

    def __init__(self) -> None:
        self.any = Notifier()
        self._jobs: WeakValueDictionary[str, Notifier] = WeakValueDictionary()
        self._cancellations: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._listeners: list[Callable[[Job], None]] = []

    def of(self, uid: str) -> Notifier:
        """Return what tells of one job's events; it lives as long as somebody holds it."""
        return self._jobs.setdefault(uid, Notifier())

    def cancellation(self, uid: str) -> asyncio.Event:
        """Return the event that is set when the job is cancelled; it lives as long as somebody holds it."""
        return self._cancellations.setdefault(uid, asyncio.Event())

    def listen(self, moved: Callable[[Job], None]) -> None:
        """Have `moved` called with every job whose state changed."""
        self._listeners.append(moved)

    def committed(self, job: Job, moved: bool) -> None:
        """Pass on that a job's change is durable; moved is true when its state changed."""
        self.any.notify()
        if (notifier := self._jobs.get(job.uid)) is not None:
            notifier.notify()
        if job.state is State.CANCELLED and (cancellation := self._cancellations.get(job.uid)) is not None:
            cancellation.set()
        if moved:
            for listener in self._listeners:
                listener(job)
