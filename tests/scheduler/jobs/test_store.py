"""The job store's contract: durable compare-and-set, gapless events, idempotent submission, the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from loupe import database
from loupe.errors import AlreadyExists, DataLoss, NotFound, QuotaExceeded, RequestIdReused, Unavailable
from loupe.idempotency import Request, RequestLog
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.clients.trainers import AttemptEvent, Progress, unpack_finished
from services.scheduler.database.metadata import metadata
from services.scheduler.database.session import Database
from services.scheduler.dispatch.attempt_events import absorb
from services.scheduler.jobs.job import Job, JobResult
from services.scheduler.jobs.listing import list_jobs
from services.scheduler.jobs.rows import dump_spec, load_spec
from services.scheduler.jobs.states import State
from services.scheduler.jobs.store import Conflict, JobStore, jobs
from services.scheduler.jobs.transitions import Bounds, cancel, conclude, finish, note, start
from services.scheduler.progress.store import EventStore
from tests.scheduler.fakes import finished
from tests.scheduler.samples import NOW, make_job, placed

NOBODY = Request("accounts/anna", "SubmitTrainingJob", "", b"")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = database.create_engine(database.sqlite_url(tmp_path, "scheduler"))
    await Database(made).migrate()
    yield made
    await made.dispose()


@pytest.fixture
def opened(engine: AsyncEngine) -> Database:
    return Database(engine)


@pytest.fixture
def store(opened: Database) -> JobStore:
    return JobStore(opened, RequestLog())


@pytest.fixture
def outbox(opened: Database) -> EventStore:
    return EventStore(opened)


async def accept(store: JobStore, **fields: Any) -> Job:
    return await store.submit(make_job(**fields), NOBODY)


async def run(store: JobStore, job: Job) -> Job:
    job = await store.commit(placed(job))
    return await store.commit(start(job, NOW))


def steps(first: int, last: int) -> list[AttemptEvent]:
    return [AttemptEvent(each, NOW, Progress(step=each)) for each in range(first, last + 1)]


async def test_the_migration_makes_the_tables_that_the_store_uses(engine: AsyncEngine) -> None:
    """Schema and code agree, column by column and index by index."""

    def compare(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            columns = {each["name"]: each["nullable"] for each in inspector.get_columns(table.name)}
            assert columns == {each.name: each.nullable for each in table.columns}
            indexes = {each["name"] for each in inspector.get_indexes(table.name)}
            assert {each.name for each in table.indexes} <= indexes

    async with engine.connect() as connection:
        await connection.run_sync(compare)


async def test_a_job_comes_back_as_it_was_stored(store: JobStore) -> None:
    """Every field survives, other scripts included."""
    job = make_job(result=JobResult(verdict="v"), progress=Progress(step=3), start_time=NOW, state_message="零件")
    stored = await store.submit(job, NOBODY)
    assert stored == replace(job, last_sequence=1) == await store.get(job.name) == await store.load(job.uid)
    assert load_spec(dump_spec(job.spec)) == job.spec


async def test_unknown_and_taken_names(store: JobStore) -> None:
    """NotFound and AlreadyExists; a taken name leaves the job alone."""
    job = await accept(store)
    with pytest.raises(NotFound):
        await store.get(JobName("line-7", "nothing"))
    with pytest.raises(AlreadyExists):
        await store.submit(replace(make_job(), name=job.name), NOBODY)
    assert await store.get(job.name) == job


async def test_a_change_holds_only_for_the_state_and_attempt_it_was_made_for(
    store: JobStore, outbox: EventStore
) -> None:
    """The second of two changes of the same state is refused, and writes no event."""
    job = await accept(store)
    change = placed(job)
    moved = await store.commit(change)
    assert moved.state is State.DISPATCHING and moved.attempt == 1
    with pytest.raises(Conflict):
        await store.commit(placed(job))
    with pytest.raises(Conflict):
        await store.commit(start(replace(moved, attempt=2), NOW))
    assert len(await outbox.after(job.uid, 0, 100)) == moved.last_sequence == 3


async def test_two_followers_write_the_trainers_events_once(store: JobStore, outbox: EventStore) -> None:
    """Who comes second with the same events conflicts on the trainer's sequence."""
    job = await run(store, await accept(store))
    outcomes = await asyncio.gather(
        *(store.commit(absorb(job, steps(1, 5), NOW, Bounds(3, 5))) for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(each, Conflict) for each in outcomes) == 1
    stored = [JobEvent.FromString(each.body) for each in await outbox.after(job.uid, 0, 100)]
    written = [each for each in stored if each.HasField("progress")]
    assert [each.progress.step for each in written] == [1, 2, 3, 4, 5]


async def test_what_others_wrote_meanwhile_stays(store: JobStore) -> None:
    """A note made from an old copy does not undo progress."""
    job = await run(store, await accept(store))
    await store.commit(absorb(job, steps(1, 3), NOW, Bounds(3, 5)))
    noted = await store.commit(note(job, "still at it", NOW))
    assert noted.progress.step == 3 and noted.trainer_sequence == 3 and noted.state_message == "still at it"


async def test_cancel_racing_completion_has_one_winner(store: JobStore, outbox: EventStore) -> None:
    """100 times, in both orders: one change holds, the final state stays, the events have no gap."""

    async def race(number: int, job: Job) -> State:
        changes = [finish(job, unpack_finished(finished()), NOW), cancel(job, "anna", NOW)]
        if number % 2:
            changes.reverse()
        outcomes = await asyncio.gather(*map(store.commit, changes), return_exceptions=True)
        assert sum(isinstance(each, Job) for each in outcomes) == 1
        after = await store.load(job.uid)
        if after.state is State.PUBLISHING:
            after = await store.commit(conclude(after, JobResult(), True, NOW))
        with pytest.raises(Conflict):
            await store.commit(cancel(job, "anna", NOW))
        assert await store.load(job.uid) == after and after.final
        sequences = [each.sequence for each in await outbox.after(job.uid, 0, 100)]
        assert sequences == list(range(1, after.last_sequence + 1))
        return after.state

    accepted = [await accept(store) for _ in range(100)]
    running = await asyncio.gather(*(run(store, job) for job in accepted))
    winners = set(await asyncio.gather(*(race(number, job) for number, job in enumerate(running))))
    assert winners == {State.SUCCEEDED, State.CANCELLED}


async def test_many_writers_share_commits_and_lose_nothing(engine: AsyncEngine) -> None:
    """50 jobs written at once: every waiter gets its own job, in far fewer transactions."""
    store = JobStore(Database(engine), RequestLog())
    accepted = [await accept(store) for _ in range(50)]
    transactions = 0

    @sa.event.listens_for(engine.sync_engine, "commit")
    def _count(connection: sa.Connection) -> None:
        nonlocal transactions
        transactions += 1

    moved = await asyncio.gather(*(store.commit(placed(job)) for job in accepted))
    assert [job.uid for job in moved] == [job.uid for job in accepted]
    assert transactions <= 5


async def test_a_cancelled_waiter_does_not_undo_its_change(store: JobStore) -> None:
    """Who stops waiting finds the change made, or not made, never half of it."""
    job = await accept(store)
    task = asyncio.ensure_future(store.commit(placed(job)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = await store.load(job.uid)
    assert (after.state, after.last_sequence) in [(State.QUEUED, 1), (State.DISPATCHING, 3)]


async def test_a_request_id_has_one_effect(store: JobStore) -> None:
    """50 concurrent copies make one job; another body under the same id is refused."""
    request = Request("accounts/anna", "SubmitTrainingJob", "r-1", b"body")
    jobs = await asyncio.gather(*(store.submit(make_job(), request) for _ in range(50)))
    assert len({job.uid for job in jobs}) == 1 and len(await store.queued()) == 1
    assert (await store.answered(request)).uid == jobs[0].uid
    assert await store.answered(replace(request, caller="accounts/ben")) is None
    with pytest.raises(RequestIdReused):
        await store.answered(replace(request, body=b"other"))


async def test_the_store_tells_what_was_committed(engine: AsyncEngine) -> None:
    """After the commit, with the state's move or without."""
    told: list[tuple[State, bool]] = []
    store = JobStore(Database(engine), RequestLog(), lambda job, moved: told.append((job.state, moved)))
    job = await accept(store)
    await store.commit(note(job, "waits", NOW))
    await store.commit(placed(job))
    assert told == [(State.QUEUED, True), (State.QUEUED, False), (State.DISPATCHING, True)]


async def test_pages_are_newest_first_and_bound_to_their_filter(store: JobStore) -> None:
    """Each job once, other projects never."""
    made = [await accept(store) for _ in range(5)]
    await accept(store, project="other")
    await store.commit(cancel(made[2], "anna", NOW))
    found, token = [], ""
    while True:
        page, token = await list_jobs(store, ProjectName("line-7"), [int(State.QUEUED)], 2, token)
        found += [job.uid for job in page]
        if not token:
            break
    assert found == [job.uid for job in reversed(made) if job is not made[2]]


async def test_the_queue_and_the_work_are_found_after_a_restart(store: JobStore) -> None:
    """Waiting jobs as entries, driven ones whole."""
    waiting, working = await accept(store, priority=7), await run(store, await accept(store))
    assert await store.queued() == {waiting.uid}
    entries = await store.entries({waiting.uid, working.uid, "nobody"})
    assert [(each.uid, each.priority, each.project) for each in entries] == [(waiting.uid, 7, "line-7")]
    assert [job.uid for job in await store.active()] == [working.uid]
    assert await store.stands(working) and not await store.stands(replace(working, attempt=2))


async def test_the_outbox_is_what_was_not_marked(engine: AsyncEngine, store: JobStore, outbox: EventStore) -> None:
    """By position, through an index that holds unmarked events only."""
    job = await run(store, await accept(store))
    waiting = await outbox.unpublished(0, 100)
    assert [each.event.sequence for each in waiting] == list(range(1, job.last_sequence + 1))
    await outbox.mark_published([each.position for each in waiting[:2]])
    assert [each.event.sequence for each in await outbox.unpublished(0, 100)] == list(range(3, job.last_sequence + 1))
    query = "SELECT position FROM events WHERE published = 0 AND position > 0 ORDER BY position LIMIT 5"
    async with engine.connect() as connection:
        plan = str((await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")).all())
        named = query.replace("FROM events", "FROM events JOIN jobs ON jobs.uid = events.uid")
        plan_with_names = str((await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {named}")).all())
    assert "events_unpublished" in plan
    assert "events_unpublished" in plan_with_names and "SCAN" not in plan_with_names


async def test_a_broken_database_is_unavailable_to_everybody_who_waits(engine: AsyncEngine, store: JobStore) -> None:
    """A clear error instead of a hang; when it works again, so does the store."""
    job = await accept(store)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE events RENAME TO gone")
    outcomes = await asyncio.gather(
        store.commit(placed(job)), store.commit(note(job, "x", NOW)), return_exceptions=True
    )
    assert all(isinstance(each, Unavailable) for each in outcomes)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO events")
    assert (await store.commit(placed(job))).state is State.DISPATCHING


async def test_a_row_that_cannot_be_read_is_left_out_and_named(engine: AsyncEngine, store: JobStore) -> None:
    """What another version wrote stops its own job, not the dispatching of the others."""
    damaged, waiting, working = await accept(store), await accept(store), await run(store, await accept(store))
    broken = await run(store, await accept(store))
    async with engine.begin() as connection:
        await connection.execute(jobs.update().where(jobs.c.uid == damaged.uid).values(spec='{"newer": 1}'))
        await connection.execute(jobs.update().where(jobs.c.uid == broken.uid).values(progress=b"\xff\xff"))
    queued = await store.queued()
    assert [each.uid for each in await store.entries(queued)] == [waiting.uid]
    assert [each.uid for each in await store.active()] == [working.uid]
    with pytest.raises(DataLoss, match=str(damaged.name)):
        await store.get(damaged.name)


async def test_a_change_that_cannot_be_written_takes_no_other_with_it(store: JobStore) -> None:
    """They came at once and shared a commit: each gets its own outcome."""
    good, bad = [await accept(store) for _ in range(2)]
    change = placed(bad)
    broken = replace(change, after=replace(change.after, trainer_sequence=1 << 80))
    outcomes = await asyncio.gather(
        store.commit(broken), store.commit(placed(good)), store.commit(note(bad, "x", NOW)), return_exceptions=True
    )
    assert isinstance(outcomes[0], Exception) and not isinstance(outcomes[0], Conflict)
    assert outcomes[1].state is State.DISPATCHING and outcomes[2].state_message == "x"


async def test_one_more_job_than_may_wait_is_refused(opened: Database) -> None:
    """Those that run and those of other projects do not count; what was submitted before is answered as before."""
    store = JobStore(opened, RequestLog(), max_queued=2)
    request = Request("accounts/anna", "SubmitTrainingJob", "r1", b"")
    first = await store.submit(make_job(), request)
    second = await accept(store)
    with pytest.raises(QuotaExceeded) as caught:
        await accept(store)
    refusal = caught.value
    assert (refusal.quota, refusal.used, refusal.limit) == ("queued_jobs", 2, "2")
    assert refusal.project == "projects/line-7"
    assert (await store.submit(make_job(), request)).uid == first.uid
    await accept(store, project="other")
    await run(store, second)
    third = await accept(store)
    with pytest.raises(QuotaExceeded):
        await accept(store)
    await store.commit(cancel(third, "accounts/anna", NOW))
    await accept(store)


async def test_many_at_once_do_not_slip_under_the_queues_quota(engine: AsyncEngine) -> None:
    """The check is in the transaction that writes the job, in two replicas as in one."""
    stores = [JobStore(Database(engine), RequestLog(), max_queued=5) for _ in range(2)]
    outcomes = await asyncio.gather(*(accept(stores[each % 2]) for each in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Job) for each in outcomes) == 5
    assert sum(isinstance(each, QuotaExceeded) for each in outcomes) == 15
    assert len(await stores[0].queued()) == 5


async def test_without_a_quota_any_number_waits(store: JobStore) -> None:
    """0 is no limit."""
    for _ in range(5):
        await accept(store)
    assert len(await store.queued()) == 5
