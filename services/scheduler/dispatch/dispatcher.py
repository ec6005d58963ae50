"""Dispatching: the leader gives waiting jobs to trainers and has every job at work driven to its end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from loupe.errors import LoupeError, NotFound
from loupe.names import TrainerName
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.placement import Placement, Requirements, rank_clusters
from services.scheduler.dispatch.driver import Driver, Neighbourhood
from services.scheduler.dispatch.queue import Entry, JobQueue
from services.scheduler.jobs.job import ACTIVE, Job, State, note, place
from services.scheduler.jobs.messages import attempt_key, pack_placement
from services.scheduler.jobs.store import Conflict
from services.scheduler.progress.signals import Bell, Signals, heard

log = structlog.get_logger(__name__)

_HAS_TRAINER = frozenset({State.DISPATCHING, State.RUNNING})
_TOLD_AT_ONCE = 32
_CANCEL_TIMEOUT = 2.0
_CANCEL_PAUSE = 0.5


def entry_of(job: Job) -> Entry:
    """Return a job's place in the queue."""
    return Entry(job.uid, job.name.project, job.spec.priority, job.create_time, job.spec.requirements)


class Dispatcher:
    """Places jobs while it leads, and drives those at work whether it leads or not.

    Losing the lock stops new placements only: attempts that run are followed on, their leases renewed. Two
    dispatchers that drive the same job do no harm, and only the one that holds the lock gives work away.
    """

    def __init__(
        self,
        fleet: Fleet,
        signals: Signals,
        neighbourhood: Callable[[Callable[[], bool]], Neighbourhood],
        *,
        load_threshold: float,
        sweep_seconds: float,
    ) -> None:
        self._with = neighbourhood(lambda: self._leading)
        self._fleet = fleet
        self._threshold = load_threshold
        self._sweep_seconds = sweep_seconds
        self._queue = JobQueue()
        self._at_work: dict[str, Job] = {}
        self._drivers: dict[tuple[str, int], tuple[Driver, asyncio.Task[None]]] = {}
        self._dismissals: set[asyncio.Task[None]] = set()
        self._told: dict[str, str] = {}
        self._leading = False
        self._seen_revision = -1
        self._sweep_at = float("-inf")
        self._bell = Bell()
        signals.listen(self._noticed)
        fleet.listen(self._bell.ring)

    @property
    def leading(self) -> bool:
        """True while this process holds the leader lock."""
        return self._leading

    def lead(self, leading: bool) -> None:
        """Say whether this process holds the leader lock."""
        log.info("leader" if leading else "not the leader")
        self._leading = leading
        self._seen_revision = -1
        self._sweep_at = float("-inf")
        self._bell.ring()

    async def run(self) -> None:
        """Dispatch until it is cancelled; then every driver is stopped, and the jobs stay as they are."""
        try:
            while True:
                wake = self._bell.next()
                if self._leading:
                    try:
                        await self._sweep()
                        await self._place_all()
                    except LoupeError as error:
                        log.warning("a round of placement was cut short", error=error.message)
                await heard(wake, self._sweep_seconds)
        finally:
            tasks = [task for _, task in self._drivers.values()] + list(self._dismissals)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _noticed(self, job: Job) -> None:
        """Keep queue and work in step with what this process commits."""
        if job.state is State.QUEUED:
            self._queue.add(entry_of(job))
        else:
            self._queue.discard(job.uid)
            self._told.pop(job.uid, None)
        if job.state in _HAS_TRAINER:
            self._begins_work(job)
        else:
            self._ends_work(job.uid)
        if job.state is State.CANCELLED and (driven := self._drivers.get((job.uid, job.attempt))):
            driven[0].disturb()
        self._bell.ring()

    async def _sweep(self) -> None:
        """Take in what other replicas wrote, and what was there before this process."""
        store, now = self._with.store, self._with.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self._sweep_seconds
        if (revision := await store.revision()) == self._seen_revision:
            return
        # What this process commits while the answers are on their way is noticed by itself, and newer than they are.
        waited, worked = set(self._queue.uids()), set(self._at_work)
        queued = await store.queued()
        active = {job.uid: job for job in await store.active()}
        for uid in waited - queued:
            self._queue.discard(uid)
        for entry in await store.entries(queued - waited):
            self._queue.add(entry)
        for uid in worked - active.keys():
            self._ends_work(uid)
        for job in active.values():
            self._drive(job)
        self._seen_revision = revision

    async def _place_all(self) -> None:
        blocked: dict[Requirements, Placement] = {}
        while self._leading and (entry := self._queue.next(self._running(), blocked)):
            placement = rank_clusters(entry.requirements, self._fleet.clusters(), self._threshold)
            if placement.trainer is None:
                blocked[entry.requirements] = placement
            else:
                await self._place(entry, placement.trainer, placement)
        await self._tell_waiting(blocked)

    async def _place(self, entry: Entry, trainer: TrainerName, placement: Placement) -> None:
        store = self._with.store
        try:
            job = await store.load(entry.uid)
            job = await store.commit(place(job, trainer, pack_placement(placement), self._with.now()))
        except (Conflict, NotFound) as error:
            # Somebody was faster; what the job is now comes with the next sweep.
            log.info("a waiting job changed", uid=entry.uid, error=error.message)
            self._queue.discard(entry.uid)
            return
        self._queue.served(entry.project)
        self._drive(job)

    def _running(self) -> Mapping[str, int]:
        return Counter(job.name.project for job in self._at_work.values())

    def _begins_work(self, job: Job) -> None:
        """Count a job's slot as taken, before its trainer reports it."""
        self._ends_work(job.uid)
        self._at_work[job.uid] = job
        if job.trainer is not None:
            self._fleet.give(job.trainer, (str(job.name), job.attempt))

    def _ends_work(self, uid: str) -> None:
        job = self._at_work.pop(uid, None)
        if job is not None and job.trainer is not None:
            self._fleet.take_back(job.trainer, (str(job.name), job.attempt))

    async def _tell_waiting(self, blocked: Mapping[Requirements, Placement]) -> None:
        """Say why jobs wait, to the first in each line, and again when the reason is another one."""
        store = self._with.store
        for requirements, placement in blocked.items():
            heads = self._queue.heads(requirements)
            untold = [each for each in heads if self._told.get(each.uid) != placement.waits_for]
            for entry in untold[:_TOLD_AT_ONCE]:
                try:
                    job = await store.load(entry.uid)
                    if job.state is State.QUEUED:
                        await store.commit(note(job, placement.summary, self._with.now()))
                except (Conflict, NotFound) as error:
                    log.info("a waiting job changed", uid=entry.uid, error=error.message)
                self._told[entry.uid] = placement.waits_for

    def _drive(self, job: Job) -> None:
        key = (job.uid, job.attempt)
        if key not in self._drivers and job.state in ACTIVE:
            if job.state in _HAS_TRAINER:
                self._begins_work(job)
            driver = Driver(job, self._with)
            task = asyncio.create_task(self._drive_to_end(driver, job), name=f"drive {job.name}")
            self._drivers[key] = (driver, task)

    async def _drive_to_end(self, driver: Driver, job: Job) -> None:
        try:
            last = await driver.run()
        except Exception:
            log.exception("a driver died; the next sweep starts another one", job=str(job.name))
            self._seen_revision = -1
            return
        finally:
            self._drivers.pop((job.uid, job.attempt), None)
            if (known := self._at_work.get(job.uid)) is not None and known.attempt == job.attempt:
                self._ends_work(job.uid)
            self._bell.ring()
        if last.attempt == job.attempt and last.state in (State.SUCCEEDED, State.TARGET_MISSED):
            return
        task = asyncio.create_task(self._dismiss(job), name=f"dismiss {job.name}")
        self._dismissals.add(task)
        task.add_done_callback(self._dismissals.discard)

    async def _dismiss(self, job: Job) -> None:
        """Tell the trainer that the attempt is not wanted any more, while its lease could still live."""
        assert job.trainer is not None
        deadline = self._with.monotonic() + 2 * self._with.lease
        while self._with.monotonic() < deadline:
            try:
                return await self._with.trainers.cancel(job.trainer, attempt_key(job), _CANCEL_TIMEOUT)
            except LoupeError as error:
                log.info("a trainer was not told that a job is over", trainer=str(job.trainer), error=error.message)
            await asyncio.sleep(_CANCEL_PAUSE)
