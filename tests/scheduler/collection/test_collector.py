"""Collecting: what goes, what stays, and that a death at any step leaves nothing that the next pass does not take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loupe import database
from loupe.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from loupe.idempotency import Request, RequestLog
from loupe.names import JobName, ProjectName
from loupe.notifier import Notifier
from services.scheduler.clients.consul import Leadership
from services.scheduler.collection.collector import Collected, Collector
from services.scheduler.collection.store import CollectionStore
from services.scheduler.database.metadata import request_log
from services.scheduler.database.session import Database, Session
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import State
from services.scheduler.jobs.store import JobStore, events, job_labels, jobs
from services.scheduler.jobs.transitions import note
from tests.scheduler.samples import NOW, make_job

LATER = NOW + timedelta(days=100)
NOBODY = Request("accounts/anna", "DeleteTrainingJob", "", b"")


class Death(Exception):
    """Stands for SIGKILL: nothing of the pass goes on after it."""


class Steps:
    """Counts what a pass does, and lets it die at one of these steps; 0: at none."""

    def __init__(self, last: int = 0) -> None:
        self._last = last
        self.taken = 0

    def take(self) -> None:
        self.taken += 1
        if self.taken == self._last:
            raise Death


class MortalDatabase(Database):
    """A database whose process may die before, in and after each transaction that writes."""

    steps = Steps()

    @asynccontextmanager
    async def write(self, *, outlives_power_cut: bool = True) -> AsyncIterator[Session]:
        self.steps.take()
        async with super().write(outlives_power_cut=outlives_power_cut) as session:
            yield session
            self.steps.take()
        self.steps.take()


class Mesh:
    """The bus and storage, which keep what they were told although their caller dies."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.checkpoints: set[JobName] = set()
        self.subjects: set[JobName] = set()
        self.open = 0
        self.away = False

    async def connect(self) -> Mesh:
        if self.away:
            raise Unavailable("NATS cannot be reached", dependency="nats")
        self.open += 1
        return self

    async def purge(self, job: JobName) -> None:
        self.steps.take()
        self.subjects.discard(job)
        self.steps.take()

    async def remove_checkpoint(self, job: JobName) -> None:
        self.steps.take()
        self.checkpoints.discard(job)
        self.steps.take()

    async def close(self) -> None:
        self.open -= 1


class House:
    """A scheduler's database, and the mesh around it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._url = database.sqlite_url(folder, "scheduler")
        self.mesh = Mesh()
        self.open()

    def open(self) -> None:
        self.database = MortalDatabase(database.create_engine(self._url))
        self.jobs = JobStore(self.database, RequestLog())

    async def restart(self, steps: Steps) -> None:
        await self.database.close()
        self.open()
        self.database.steps = self.mesh.steps = steps

    def collector(self) -> Collector:
        return self.collector_of(Leadership(Notifier()), lambda: LATER)

    def collector_of(self, leadership: Leadership, now: Callable[[], datetime]) -> Collector:
        store, kept = CollectionStore(self.database), timedelta(days=7)
        return Collector(store, self.mesh, self.mesh.connect, leadership, kept=kept, now=now)

    async def add(self, state: State, days: float, **fields: Any) -> Job:
        """Add a job that ended so many days ago, with a checkpoint and events in NATS."""
        ended = LATER - timedelta(days=days) if state in (State.FAILED, State.TARGET_MISSED) else None
        request = replace(NOBODY, request_id=f"r{len(self.mesh.checkpoints)}")
        job = await self.jobs.submit(make_job(state=state, end_time=ended, labels={"line": "7"}, **fields), request)
        for number in range(3):
            job = await self.jobs.commit(note(job, f"waits {number}", NOW))
        self.mesh.checkpoints.add(job.name)
        self.mesh.subjects.add(job.name)
        return job

    async def delete(self, job: Job, days: float) -> None:
        deleted = LATER - timedelta(days=days)
        await self.jobs.delete(job.name, deleted, deleted + timedelta(days=30), NOBODY)

    async def count(self, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
        async with self.database.read() as session:
            return (await session.execute(sa.select(sa.func.count()).select_from(table).where(where))).scalar_one()

    async def rows_of(self, job: Job) -> tuple[int, int, int]:
        """Return how many events, labels and remembered answers there are of a job."""
        return (
            await self.count(events, events.c.uid == job.uid),
            await self.count(job_labels, job_labels.c.uid == job.uid),
            await self.count(request_log, request_log.c.answer == job.uid.encode()),
        )


@pytest.fixture
async def make_house(tmp_path: Path) -> AsyncIterator[Callable[[str], Any]]:
    made: list[House] = []

    async def make(name: str = "one") -> House:
        house = House(tmp_path / name)
        await house.database.migrate()
        made.append(house)
        return house

    yield make
    for house in made:
        await house.database.close()


def resuming(job: Job) -> Any:
    """Return the spec of a job that goes on from another one's checkpoint."""
    return replace(make_job().spec, resume_of=str(job.name))


async def test_checkpoints_go_a_week_after_the_end(make_house: Any) -> None:
    """Not of a job that is at work, nor of one from which another is to go on and has not begun to."""
    house = await make_house()
    old, young = await house.add(State.FAILED, 8), await house.add(State.TARGET_MISSED, 6)
    running, origin = await house.add(State.RUNNING, 0), await house.add(State.FAILED, 8)
    heir = await house.jobs.submit(replace(make_job(), spec=resuming(origin)), NOBODY)
    assert await house.collector().collect() == Collected(checkpoints=1)
    assert house.mesh.checkpoints == {young.name, running.name, origin.name}
    assert await house.collector().collect() == Collected()
    async with house.database.write() as session:
        await session.execute(jobs.update().where(jobs.c.uid == heir.uid).values(state=int(State.RUNNING)))
    assert await house.collector().collect() == Collected(checkpoints=1)
    assert origin.name not in house.mesh.checkpoints
    for gone in (old, origin):
        with pytest.raises(FailedPrecondition, match="has no checkpoint"):
            await house.jobs.submit(replace(make_job(), spec=resuming(gone)), NOBODY)


async def test_a_deleted_job_goes_when_it_can_no_longer_be_restored(make_house: Any) -> None:
    """Its name stays taken; what was not deleted, or not long ago, stays as it is."""
    house = await make_house()
    gone, deleted, there = [await house.add(State.TARGET_MISSED, 1) for _ in range(3)]
    await house.delete(gone, 31)
    await house.delete(deleted, 29)
    assert await house.collector().collect() == Collected(jobs=1)
    assert await house.rows_of(gone) == (0, 0, 0)
    assert await house.rows_of(there) == await house.rows_of(deleted) == (4, 1, 1)
    assert house.mesh.subjects == house.mesh.checkpoints == {deleted.name, there.name} and house.mesh.open == 0
    for call in (
        house.jobs.get(gone.name, show_deleted=True),
        house.jobs.load(gone.uid),
        house.jobs.restore(gone.name, NOBODY),
    ):
        with pytest.raises(NotFound):
            await call
    line = ProjectName("line-7")
    listed = await house.jobs.page(line, (), {}, 10, None, show_deleted=True)
    assert [job.name for job in listed] == [there.name, deleted.name]
    with pytest.raises(AlreadyExists):
        await house.jobs.submit(replace(make_job(), name=gone.name), NOBODY)
    assert (await house.jobs.restore(deleted.name, NOBODY)).note == deleted.note
    assert await house.collector().collect() == Collected()


async def test_the_newest_event_of_all_stays_until_there_is_a_newer_one(make_house: Any) -> None:
    """Or its position would be given again, and the next event be taken for one that is known."""
    house = await make_house()
    last = await house.add(State.TARGET_MISSED, 1)
    await house.delete(last, 31)
    revision = await house.jobs.revision()
    assert await house.collector().collect() == Collected()
    await house.add(State.QUEUED, 0)
    assert await house.jobs.revision() > revision
    assert await house.collector().collect() == Collected(jobs=1)


async def test_nats_that_is_away_delays_the_end_and_nothing_comes_back(make_house: Any) -> None:
    house = await make_house()
    gone, _ = [await house.add(State.FAILED, 1) for _ in range(2)]
    await house.delete(gone, 31)
    house.mesh.away = True
    with pytest.raises(Unavailable):
        await house.collector().collect()
    with pytest.raises(NotFound):
        await house.jobs.restore(gone.name, NOBODY)
    house.mesh.away = False
    assert await house.collector().collect() == Collected(jobs=1)
    assert gone.name not in house.mesh.subjects


async def test_a_death_at_any_step_is_made_good_by_the_next_pass(make_house: Any) -> None:
    """At each step of a pass, one after the other, until there are no more."""
    deaths = 0
    while True:
        house = await make_house(f"death-{deaths}")
        gone, old, there = [await house.add(State.FAILED, days) for days in (1, 8, 1)]
        await house.delete(gone, 31)
        before = await house.rows_of(there)
        steps = Steps(deaths + 1)
        await house.restart(steps)
        try:
            await house.collector().collect()
        except Death:
            deaths += 1
        else:
            break
        await house.restart(Steps())
        await check_between(house, gone, there)
        await house.collector().collect()
        assert await house.rows_of(gone) == (0, 0, 0) and await house.rows_of(there) == before
        assert house.mesh.subjects == {old.name, there.name} and house.mesh.checkpoints == {there.name}
        assert (await house.jobs.get(old.name)).uid == old.uid
        assert await house.collector().collect() == Collected()
    assert deaths == steps.taken > 15


async def check_between(house: House, gone: Job, there: Job) -> None:
    """What is left of the deleted job is either whole, or nothing that anybody sees."""
    try:
        left = await house.jobs.get(gone.name, show_deleted=True)
    except NotFound:
        with pytest.raises(NotFound):
            await house.jobs.restore(gone.name, NOBODY)
    else:
        assert (left.labels, left.last_sequence) == (gone.labels, 4)
        assert await house.rows_of(gone) == (4, 1, 1) and gone.name in house.mesh.subjects
    assert (await house.jobs.get(there.name)).uid == there.uid


async def test_only_the_leader_collects_and_not_after_the_clock_was_set(
    make_house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that fails is not the last one."""
    house, leadership = await make_house(), Leadership(Notifier())
    times, told = [LATER], []
    collector = house.collector_of(leadership, lambda: times[-1])

    async def collect() -> Collected:
        told.append("a pass")
        raise Unavailable("storage is away")

    async def sleep(seconds: float) -> None:
        told.append("asleep")
        turn = told.count("asleep")
        leadership.held = turn > 1
        if turn == 4:
            times.append(LATER + timedelta(days=40))
        if turn == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(collector, "collect", collect)
    monkeypatch.setattr("asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await collector.keep(5.0)
    follower, leader, clock_was_set = ["asleep"], ["asleep", "a pass"], ["asleep"]
    assert told == [*follower, *leader, *leader, *clock_was_set, *leader, "asleep"]
