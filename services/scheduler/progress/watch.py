"""Following a job: its events after a cursor from the database, then those that come, to the last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from loupe.errors import invalid
from loupe.names import JobName
from loupe.notifier import wait_for
from services.scheduler.jobs.events import StoredEvent
from services.scheduler.jobs.signals import Signals
from services.scheduler.jobs.store import JobStore
from services.scheduler.progress.store import EventStore

_PAGE = 500


class Watch:
    """Follows jobs.

    timeout: seconds after which to look again unasked, for what other replicas wrote.
    """

    def __init__(self, jobs: JobStore, events: EventStore, signals: Signals, timeout: Callable[[], float]) -> None:
        self._jobs = jobs
        self._events = events
        self._signals = signals
        self._timeout = timeout

    async def follow(self, name: JobName, after: int) -> AsyncGenerator[StoredEvent, None]:
        """Yield a job's events with a sequence above `after`, and end after the last of a final job.

        Raises NotFound, InvalidArgument.
        """
        if after < 0:
            raise invalid("after_sequence", after, "0 for all events, or the last sequence that you have")
        job = await self._jobs.get(name)
        notifier = self._signals.of(job.uid)
        while True:
            news = notifier.next()
            for event in await self._events.after(job.uid, after, _PAGE):
                yield event
                after = event.sequence
            job = await self._jobs.load(job.uid)
            if job.last_sequence > after:
                continue
            if job.final:
                return
            await wait_for(news, self._timeout())
