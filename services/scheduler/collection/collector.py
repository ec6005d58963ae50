"""One pass after the other, by whoever leads: deleted jobs that expired are purged, and old checkpoints removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Protocol

from loupe.collecting import keep_collecting
from loupe.names import JobName
from services.scheduler.clients.consul import Leadership
from services.scheduler.collection.store import Collectable, CollectionStore

_JOBS_AT_ONCE = 20
_EVENTS_AT_ONCE = 5_000


class Checkpoints(Protocol):
    """Where the checkpoints of jobs lie."""

    async def remove_checkpoint(self, job: JobName) -> None:
        """Remove the checkpoint of a job that is over; without one, do nothing."""


class Subjects(Protocol):
    """Where NATS keeps the events of jobs."""

    async def purge(self, job: JobName) -> None:
        """Remove all events of a job; where there are none, do nothing. Raises Unavailable."""

    async def close(self) -> None:
        """End the connection."""


@dataclass
class Collected:
    """How many jobs were purged, and of how many that ended the checkpoint was removed."""

    jobs: int = 0
    checkpoints: int = 0


class Collector:
    """Collects in steps. A pass may die anywhere, and two may run side by side: each step may be done again.

    What is to go is marked first, so that nobody restores it or goes on from it, and is taken up again by the next pass
    until all of it is gone. connect: returns what is ready to purge; raises Unavailable. kept: how long checkpoints
    stay after a job's end. now: in UTC.
    """

    def __init__(
        self,
        store: CollectionStore,
        checkpoints: Checkpoints,
        connect: Callable[[], Awaitable[Subjects]],
        leadership: Leadership,
        *,
        kept: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._connect = connect
        self._leadership = leadership
        self._kept = kept
        self._now = now

    async def keep(self, seconds: float) -> None:
        """Collect every so many seconds while this process leads; never returns.

        A pass before which the clock was set is left out.
        """

        async def collect() -> dict[str, int]:
            return asdict(await self.collect())

        await keep_collecting(collect, seconds, lambda: self._now().timestamp(), lambda: self._leadership.held)

    async def collect(self) -> Collected:
        """Do one pass and say what it came to. Raises LoupeError; what was done before stays done."""
        collected = Collected()
        while done := await self._remove_checkpoints():
            collected.checkpoints += done
        while done := await self._purge():
            collected.jobs += done
        return collected

    async def _remove_checkpoints(self) -> int:
        found = await self._store.begin_removals(self._now() - self._kept, _JOBS_AT_ONCE)
        for job in found:
            await self._checkpoints.remove_checkpoint(job.name)
        if found:
            await self._store.end_removals(found)
        return len(found)

    async def _purge(self) -> int:
        found = await self._store.begin_purges(self._now(), _JOBS_AT_ONCE)
        if found:
            subjects = await self._connect()
            try:
                for job in found:
                    await self._purge_one(job, subjects)
            finally:
                await subjects.close()
        return len(found)

    async def _purge_one(self, job: Collectable, subjects: Subjects) -> None:
        # The events first: none of them goes to NATS after what is there was purged.
        while await self._store.remove_events(job, _EVENTS_AT_ONCE):
            pass
        await subjects.purge(job.name)
        await self._checkpoints.remove_checkpoint(job.name)
        await self._store.end_purge(job)
