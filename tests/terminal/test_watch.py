"""Following a job: gaps, repeats, silence and cuts of either source, healed from the cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from loupe.backoff import Backoff
from loupe.errors import NotFound, Unavailable
from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from loupe.terminal.watch import Follower, Source
from tests.terminal.fake_mesh import FakeMesh

LAST = 8
NAME = "projects/line-7/jobs/j1"


def event(sequence: int) -> jobs.JobEvent:
    if sequence == LAST:
        change = jobs.StateChange(state=jobs.JOB_STATE_SUCCEEDED)
        return jobs.JobEvent(job=NAME, sequence=sequence, state_change=change)
    return jobs.JobEvent(job=NAME, sequence=sequence, progress=jobs.JobProgress(phase="head", epoch=sequence))


class Script:
    """A source with a script per opening: numbers are events, errors are raised, None waits for ever."""

    def __init__(self, *openings: Sequence[int | Exception | None]) -> None:
        self.openings = list(openings)
        self.cursors: list[int] = []

    async def __call__(self, cursor: int) -> AsyncGenerator[jobs.JobEvent]:
        self.cursors.append(cursor)
        script = self.openings.pop(0) if self.openings else [None]
        for step in script:
            if isinstance(step, Exception):
                raise step
            if step is None:
                await asyncio.Event().wait()
            else:
                yield event(step)


async def complete(cursor: int) -> AsyncGenerator[jobs.JobEvent]:
    """A record that has everything."""
    for sequence in range(cursor + 1, LAST + 1):
        yield event(sequence)


def refused(cursor: int) -> AsyncGenerator[jobs.JobEvent]:
    raise AssertionError("the record was not needed")


async def follow(live: Source, record: Source, **options: object) -> list[int]:
    follower = Follower(live, record, **{"quiet_seconds": 0.05, **options})  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        return [one.sequence async for one in follower.events()]


EVERYTHING = list(range(1, LAST + 1))
GONE = Unavailable("NATS cannot be reached")


async def test_live_alone_is_enough_when_it_is_whole() -> None:
    assert await follow(Script(EVERYTHING), refused, quiet_seconds=5) == EVERYTHING


async def test_repeats_are_shown_once() -> None:
    assert await follow(Script([1, 1, 2, 1, 2, 3, 4, 4, 5, 6, 7, 8]), refused, quiet_seconds=5) == EVERYTHING


async def test_a_gap_is_filled_from_the_record() -> None:
    record = Script(EVERYTHING[2:])
    assert await follow(Script([1, 2, 5, 6, 7, 8, None]), record) == EVERYTHING
    assert record.cursors == [2]


async def test_a_final_event_that_live_lost_is_found_in_the_silence() -> None:
    assert await follow(Script([*EVERYTHING[:-1], None]), complete) == EVERYTHING


async def test_nats_away_the_whole_time() -> None:
    live = Script(*[[GONE]] * 50)
    assert await follow(live, complete, quiet_seconds=60) == EVERYTHING


async def test_nats_dies_in_the_middle_and_the_record_goes_on_from_the_cursor() -> None:
    record = Script(EVERYTHING[3:])
    assert await follow(Script([1, 2, 3, GONE]), record, quiet_seconds=60) == EVERYTHING
    assert record.cursors == [3]


async def test_an_unforeseen_fault_of_live_falls_back_to_the_record() -> None:
    assert await follow(Script([1, RuntimeError("a bug")]), complete, quiet_seconds=60) == EVERYTHING


async def test_the_record_is_cut_and_goes_on_from_the_cursor() -> None:
    record = Script([1, 2, Unavailable("cut")], [3, 4, Unavailable("cut")], [5, 6, 7], [8])
    assert await follow(Script([GONE], [None]), record) == EVERYTHING
    assert record.cursors == [0, 2, 4, 7]


async def test_live_takes_over_again_after_the_record_filled_the_gap() -> None:
    closed = asyncio.Event()

    async def record(cursor: int) -> AsyncGenerator[jobs.JobEvent]:
        try:
            yield event(2)
            yield event(3)
            await asyncio.Event().wait()
        finally:
            closed.set()

    filled = asyncio.Event()

    async def live(cursor: int) -> AsyncGenerator[jobs.JobEvent]:
        yield event(1)
        yield event(3)
        await filled.wait()
        for sequence in range(4, LAST + 1):
            yield event(sequence)
            await asyncio.sleep(0)

    seen = []
    async with asyncio.timeout(10):
        async for one in Follower(live, record, quiet_seconds=60).events():
            seen.append(one.sequence)
            if one.sequence == 3:
                filled.set()
            if one.sequence == 5:
                assert closed.is_set()
    assert seen == EVERYTHING


async def test_a_refusal_by_the_record_ends_the_watch() -> None:
    with pytest.raises(NotFound):
        await follow(Script([GONE], [GONE]), Script([NotFound("no such job")]))


async def test_both_away_for_too_long_ends_the_watch() -> None:
    clock = iter(range(0, 100_000, 10))

    async def no_sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    backoff = Backoff(100, clock=lambda: float(next(clock)), sleep=no_sleep)
    away = Script(*[[Unavailable("the scheduler is away")]] * 100)
    with pytest.raises(Unavailable, match="the scheduler is away"):
        await follow(Script(*[[GONE]] * 100), away, backoff=backoff)
    assert 2 <= len(away.cursors) < 20


async def test_leaving_early_stops_both_sources() -> None:
    before = asyncio.all_tasks()
    events = Follower(Script([1, 3, None]), complete, quiet_seconds=60).events()
    async for one in events:
        if one.sequence == 2:
            break
    await events.aclose()
    assert asyncio.all_tasks() == before


async def test_watch_over_rpc_is_healed_from_the_cursor(mesh: FakeMesh, store: ProfileStore) -> None:
    """NATS is not there at all, and the scheduler cuts the stream after each of the first events."""
    mesh.events = [event(sequence) for sequence in EVERYTHING]
    mesh.watch_cuts = 3
    async with Terminal.connect(store) as loupe, asyncio.timeout(20):
        assert [one.sequence async for one in loupe.jobs.watch(NAME)] == EVERYTHING


async def test_watch_goes_on_when_the_token_expires_in_the_middle(mesh: FakeMesh, store: ProfileStore) -> None:
    mesh.events = [event(sequence) for sequence in EVERYTHING]
    seen = []
    async with Terminal.connect(store) as loupe, asyncio.timeout(20):
        async for one in loupe.jobs.watch(NAME):
            if one.sequence == 1:
                mesh.watch_cuts = 1
                mesh.access_tokens.clear()
            seen.append(one.sequence)
    assert seen == EVERYTHING
    assert mesh.refreshes <= 2


def test_pauses_grow_and_end() -> None:
    now = 0.0
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    async def exhaust() -> None:
        one = Backoff(10, clock=lambda: now, sleep=sleep, jitter=lambda: 1.0)
        while True:
            await one.wait(GONE)

    with pytest.raises(Unavailable):
        asyncio.run(exhaust())
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
