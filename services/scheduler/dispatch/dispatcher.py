"""Dispatching: the leader gives waiting jobs to trainers, and every job at work gets a driver."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from loupe.errors import LoupeError, NotFound
from loupe.notifier import Notifier, wait_for
from services.scheduler.clusters.placement import Placement, Requirements, rank_clusters
from services.scheduler.dispatch.dependencies import Dependencies
from services.scheduler.dispatch.driver import Driver
from services.scheduler.dispatch.queue import JobQueue
from services.scheduler.dispatch.work import Work
from services.scheduler.jobs.job import Job, QueueEntry
from services.scheduler.jobs.states import ACTIVE, State
from services.scheduler.jobs.store import Conflict
from services.scheduler.jobs.transitions import note, place

log = structlog.get_logger(__name__)

_HAS_TRAINER = frozenset({State.DISPATCHING, State.RUNNING})
_TOLD_AT_ONCE = 32
_NEVER = float("-inf")


class Dispatcher:
    """Places jobs while this process leads, and has those at work driven whether it leads or not.

    Losing the lock stops new placements only: attempts that run are followed on, their leases renewed. Two
    dispatchers that drive the same job do no harm, and only the one that holds the lock gives work away.

    news: told of whatever may let a waiting job go on; the fleet and the leader lock tell it too.
    """

    def __init__(
        self, dependencies: Dependencies, news: Notifier, *, load_threshold: float, sweep_seconds: float
    ) -> None:
        self._with = dependencies
        self._store = dependencies.store
        self._news = news
        self._threshold = load_threshold
        self._sweep_seconds = sweep_seconds
        self._queue = JobQueue()
        self._work = Work(dependencies.fleet)
        self._drivers: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._told: dict[str, str] = {}
        self._seen_revision = -1
        self._sweep_at = _NEVER
        dependencies.signals.listen(self._moved)

    async def run(self) -> None:
        """Dispatch until it is cancelled; then every driver is stopped, and the jobs stay as they are."""
        try:
            while True:
                news = self._news.next()
                if self._with.leadership.held:
                    await self._round()
                else:  # whoever leads meanwhile changes what there is to do
                    self._seen_revision, self._sweep_at = -1, _NEVER
                await wait_for(news, self._sweep_seconds)
        finally:
            drivers = list(self._drivers.values())
            for driver in drivers:
                driver.cancel()
            await asyncio.gather(*drivers, return_exceptions=True)

    async def _round(self) -> None:
        try:
            await self._sweep()
            await self._place_all()
        except LoupeError as error:
            log.warning("a round of placement was cut short", error=error.message)

    def _moved(self, job: Job) -> None:
        """Keep queue and work in step with what this process commits."""
        if job.state is State.QUEUED:
            self._queue.add(job.queue_entry)
        else:
            self._queue.discard(job.uid)
            self._told.pop(job.uid, None)
        if job.state in _HAS_TRAINER:
            self._work.begin(job)
        else:
            self._work.end(job.uid)
        self._news.notify()

    async def _sweep(self) -> None:
        """Take in what other replicas wrote, and what was there before this process."""
        now = self._with.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self._sweep_seconds
        if (revision := await self._store.revision()) == self._seen_revision:
            return
        # What this process commits while the answers are on their way is noticed by itself, and newer than they are.
        waited, worked = set(self._queue.uids()), self._work.uids()
        queued = await self._store.queued()
        active = {job.uid: job for job in await self._store.active()}
        for uid in waited - queued:
            self._queue.discard(uid)
        for entry in await self._store.entries(queued - waited):
            self._queue.add(entry)
        for uid in worked - active.keys():
            self._work.end(uid)
        for job in active.values():
            self._begin(job)
        self._seen_revision = revision

    async def _place_all(self) -> None:
        blocked: dict[Requirements, Placement] = {}
        while self._with.leadership.held and (entry := self._queue.next(self._work.running(), blocked)):
            placement = rank_clusters(entry.requirements, self._with.fleet.clusters(), self._threshold)
            if placement.trainer is None:
                blocked[entry.requirements] = placement
            else:
                await self._place(entry, placement)
        await self._tell_waiting(blocked)

    async def _place(self, entry: QueueEntry, placement: Placement) -> None:
        try:
            job = await self._store.load(entry.uid)
            job = await self._store.commit(place(job, placement, self._with.now()))
        except (Conflict, NotFound) as error:
            # Somebody was faster; what the job is now comes with the next sweep.
            log.info("a waiting job changed", uid=entry.uid, error=error.message)
            self._queue.discard(entry.uid)
            return
        self._queue.served(entry.project)
        self._begin(job)

    async def _tell_waiting(self, blocked: Mapping[Requirements, Placement]) -> None:
        """Say why jobs wait, to the first in each line, and again when the reason is another one."""
        for requirements, placement in blocked.items():
            heads = self._queue.heads(requirements)
            untold = [each for each in heads if self._told.get(each.uid) != placement.waits_for]
            for entry in untold[:_TOLD_AT_ONCE]:
                try:
                    job = await self._store.load(entry.uid)
                    if job.state is State.QUEUED:
                        await self._store.commit(note(job, placement.summary, self._with.now()))
                except (Conflict, NotFound) as error:
                    log.info("a waiting job changed", uid=entry.uid, error=error.message)
                self._told[entry.uid] = placement.waits_for

    def _begin(self, job: Job) -> None:
        """Give a job at work a driver, unless its attempt has one."""
        key = (job.uid, job.attempt)
        if key not in self._drivers and job.state in ACTIVE:
            if job.state in _HAS_TRAINER:
                self._work.begin(job)
            drive = self._drive(job, Driver(job, self._with))
            self._drivers[key] = asyncio.create_task(drive, name=f"drive {job.name}")

    async def _drive(self, job: Job, driver: Driver) -> None:
        try:
            await driver.run()
        except Exception:
            log.exception("a driver died; the next sweep starts another one", job=str(job.name))
            self._seen_revision = -1
        finally:
            del self._drivers[job.uid, job.attempt]
            self._work.end(job.uid, job.attempt)
            self._news.notify()
