"""Attempts by a clock that the test moves: who may start, who has to end, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from loupe.algorithm.host import Outcome, Progress
from loupe.errors import AttemptUnknown, SandboxUnavailable, StaleAttempt, TrainerBusy, Unavailable
from services.trainer.attempts.attempt import KEPT_CHARACTERS, Attempt, State
from services.trainer.attempts.attempts import REMEMBERED_SECONDS, Attempts
from services.trainer.attempts.events import Finished, Logged, Progressed, Started
from services.trainer.attempts.spec import AttemptKey
from tests.trainer.fakes import FakeClock, spec


@dataclass
class FakeRun:
    """A run that hears a stop, and may obey it."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def stop(self) -> None:
        self.stopped.set()


@dataclass
class Work:
    """What attempts do here: start, and end when told to, or when the test lets them."""

    obedient: bool = True
    done: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[FakeRun] = field(default_factory=list)
    outcome: Outcome = Outcome.STOPPED
    overtime: float | None = None
    cleaned: int = 0

    async def __call__(self, attempt: Attempt) -> Finished:
        run = FakeRun()
        self.runs.append(run)
        try:
            attempt.emit(Started(warm=True, resumed=False))
            attempt.running(run.stop, self.overtime)
            waits = [asyncio.ensure_future(self.done.wait())]
            if self.obedient:
                waits.append(asyncio.ensure_future(run.stopped.wait()))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return Finished(self.outcome, ())
        finally:
            self.cleaned += 1


def make(work: Work, clock: FakeClock, **changes: Any) -> Attempts:
    settings: dict[str, Any] = {"slots": 1, "isolated": True, "grace": 5.0} | changes
    return Attempts(work, clock=clock, now=lambda: datetime.now(UTC), **settings)


async def last(attempts: Attempts, key: AttemptKey) -> Any:
    async with asyncio.timeout(5):
        return [event async for event in attempts.watch(key, 0)][-1].what


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    yield work
    work.done.set()
    await settle()


async def test_a_lease_that_runs_out_stops_the_run_and_then_kills_it(clock: FakeClock, work: Work) -> None:
    """A run that does not hear is gone before the lease ends, and says that another attempt may succeed."""
    work.obedient = False
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    clock.seconds += 6.6
    attempts.tick()
    await settle()
    assert work.runs[0].stopped.is_set() and attempts.live
    clock.seconds += 2.0
    attempts.tick()
    await settle()
    assert work.cleaned == 1 and not attempts.live
    failed = await last(attempts, spec().key)
    assert (failed.reason, failed.retryable) == ("UNAVAILABLE", True)


async def test_a_trainer_that_slept_past_the_lease_kills_at_once(clock: FakeClock, work: Work) -> None:
    """After a pause there is nothing to wait for: the work was given away."""
    work.obedient = False
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    clock.seconds += 3600
    attempts.tick()
    await settle()
    assert not attempts.live and work.cleaned == 1


async def test_a_renewed_lease_holds(clock: FakeClock, work: Work) -> None:
    """Renewal counts from when it comes; an unknown attempt is answered with None and disturbs nobody."""
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    unknown = AttemptKey("projects/line-7/jobs/other", 1)
    for _ in range(10):
        clock.seconds += 5
        assert attempts.renew([spec().key, unknown], 10) == [State.RUNNING, None]
        attempts.tick()
    await settle()
    assert attempts.live and not work.runs[0].stopped.is_set()


async def test_starting_twice_is_starting_once(clock: FakeClock, work: Work) -> None:
    attempts = make(work, clock)
    assert attempts.start(spec(), 10) is State.PREPARING
    await settle()
    assert attempts.start(spec(), 10) is State.RUNNING
    assert len(work.runs) == 1


async def test_a_newer_attempt_ends_the_older_and_an_older_is_refused(clock: FakeClock, work: Work) -> None:
    """One job is never worked on twice by one trainer, whatever order the calls come in."""
    work.obedient = False
    attempts = make(work, clock)
    attempts.start(spec(2), 10)
    await settle()
    attempts.start(spec(3), 10)
    await settle()
    assert (await last(attempts, spec(2).key)).reason == "STALE_ATTEMPT"
    assert [attempt.spec.key.attempt for attempt in attempts.live] == [3]
    with pytest.raises(StaleAttempt, match="attempt 3 was here"):
        attempts.start(spec(1), 10)


async def test_an_older_attempt_is_refused_after_the_newer_is_forgotten(clock: FakeClock, work: Work) -> None:
    attempts = make(work, clock)
    work.done.set()
    attempts.start(spec(2), 10)
    await settle()
    clock.seconds += REMEMBERED_SECONDS + 1
    attempts.tick()
    with pytest.raises(AttemptUnknown):
        attempts.watch(spec(2).key, 0)
    with pytest.raises(StaleAttempt):
        attempts.start(spec(1), 10)


async def test_no_more_attempts_than_slots(clock: FakeClock, work: Work) -> None:
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    with pytest.raises(TrainerBusy, match="all 1 slots"):
        attempts.start(spec(job="j2"), 10)


async def test_without_a_sandbox_only_built_in_images_start(clock: FakeClock, work: Work) -> None:
    attempts = make(work, clock, isolated=False)
    with pytest.raises(SandboxUnavailable):
        attempts.start(spec(), 10)
    attempts.start(spec(built_in=True), 10)


async def test_draining_saves_and_refuses(clock: FakeClock, work: Work) -> None:
    """A drained run is asked to stop and its attempt may be tried elsewhere; nothing new is taken on."""
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    async with asyncio.timeout(5):
        await attempts.drain()
    failed = await last(attempts, spec().key)
    assert (failed.reason, failed.retryable) == ("UNAVAILABLE", True)
    with pytest.raises(Unavailable, match="shutting down"):
        attempts.start(spec(job="j2"), 10)


async def test_a_drained_run_that_got_done_keeps_its_result(clock: FakeClock, work: Work) -> None:
    work.outcome = Outcome.TARGET_REACHED
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    async with asyncio.timeout(5):
        await attempts.drain()
    assert isinstance(await last(attempts, spec().key), Finished)


async def test_a_cancelled_run_has_no_result(clock: FakeClock, work: Work) -> None:
    """Cancelled is cancelled, even when the run got done in that moment; cancelling again changes nothing."""
    work.outcome = Outcome.TARGET_REACHED
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    attempts.cancel(spec().key)
    await settle()
    attempts.cancel(spec().key)
    attempts.cancel(AttemptKey("projects/line-7/jobs/unknown", 1))
    failed = await last(attempts, spec().key)
    assert (failed.reason, failed.retryable) == ("CANCELLED", False)


async def test_a_run_that_ignores_its_budget_is_ended(clock: FakeClock, work: Work) -> None:
    work.obedient, work.overtime = False, 60.0
    attempts = make(work, clock)
    attempts.start(spec(), 3600)
    await settle()
    for seconds in (61, 6):
        clock.seconds += seconds
        attempts.tick()
        await settle()
    assert (await last(attempts, spec().key)).reason == "RESOURCE_EXHAUSTED"


async def test_a_watcher_goes_on_where_it_stopped(clock: FakeClock, work: Work) -> None:
    """Events are numbered without gaps; a second watcher gets what is after its cursor, live, to the last."""
    attempts = make(work, clock)
    attempts.start(spec(), 10)
    await settle()
    (attempt,) = attempts.live
    for step in range(3):
        attempt.emit(Progressed(Progress("train", step=step)))
    seen: list[int] = []

    async def watch() -> None:
        async for event in attempts.watch(spec().key, 2):
            seen.append(event.sequence)

    watching = asyncio.create_task(watch())
    await settle()
    assert seen == [3, 4]
    attempt.emit(Progressed(Progress("train", step=9)))
    work.done.set()
    async with asyncio.timeout(5):
        await watching
    assert seen == [3, 4, 5, 6]
    attempt.emit(Progressed(Progress("late")))
    assert [event.sequence async for event in attempts.watch(spec().key, 0)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "what",
    [
        Logged("x" * 4000),
        Progressed(
            Progress("train", metrics={f"m{number:02}" + "x" * 60: 1.0 for number in range(64)}, message="x" * 4000)
        ),
    ],
)
async def test_what_a_run_says_is_kept_within_bounds(what: Logged | Progressed) -> None:
    """Long lines and reports drop the oldest events by their size; who watches goes on with what is left, in order."""
    clock = FakeClock()
    attempts = make(Work(), clock)
    one = spec()
    attempts.start(one, 60)
    await settle()
    attempt = attempts._attempts[one.key]
    for _ in range(15_000):
        attempt.emit(what)
    assert sum(event.characters for event in attempt._events) <= KEPT_CHARACTERS
    attempts.cancel(one.key)
    numbers = [event.sequence async for event in attempts.watch(one.key, 0)]
    assert numbers == list(range(numbers[0], 15_003)) and 1000 < len(numbers) < 15_000
