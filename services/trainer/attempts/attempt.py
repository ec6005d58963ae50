"""One attempt: its events, its lease, and why it has to end."""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import datetime

import structlog

from loupe.algorithm.host import Outcome
from loupe.errors import Cancelled, Internal, LoupeError, ResourceExhausted, StaleAttempt, Unavailable
from loupe.notifier import Notifier
from services.trainer.attempts.events import Event, Failed, Finished, Happening, RunFailed, Started
from services.trainer.attempts.lease import Lease, Verdict
from services.trainer.attempts.spec import AttemptSpec

log = structlog.get_logger(__name__)

KEPT_EVENTS, KEPT_CHARACTERS = 20_000, 16 << 20

StopRun = Callable[[], Coroutine[None, None, None]]
"""Asks a run to end soon."""


class State(enum.Enum):
    """Where an attempt stands."""

    PREPARING = 1
    RUNNING = 2
    FINISHED = 3
    FAILED = 4


class StopReason(enum.Enum):
    """Why an attempt has to end before it is done."""

    CANCELLED = enum.auto()
    LEASE_LOST = enum.auto()
    DRAINING = enum.auto()
    SUPERSEDED = enum.auto()
    OVERTIME = enum.auto()


class Attempt:
    """One attempt as its trainer sees it; it changes only from the event loop.

    clock: monotonic seconds. now: the time of day, for people.
    """

    def __init__(
        self, spec: AttemptSpec, lease: Lease, clock: Callable[[], float], now: Callable[[], datetime]
    ) -> None:
        self.spec = spec
        self.lease = lease
        self.storage_token = spec.storage_token
        self.state = State.PREPARING
        self.ended_at: float | None = None
        self._clock = clock
        self._now = now
        self._events: deque[Event] = deque()
        self._sequence = 0
        self._characters = 0
        self._news = Notifier()
        self._task: asyncio.Task[None] | None = None
        self._stop_run: StopRun | None = None
        self._deadline: float | None = None
        self._kill_at: float | None = None
        self._stopping: StopReason | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def live(self) -> bool:
        """Whether it has not ended yet."""
        return self.ended_at is None

    def begin(self, work: Callable[[Attempt], Awaitable[Finished]]) -> None:
        """Start the work in the background; its result, or its failure, is the attempt's last event."""
        self._task = asyncio.create_task(self._live(work))

    def emit(self, what: Happening) -> None:
        """Add an event. After the last one nothing is added any more."""
        if not self.live:
            return
        self._sequence += 1
        self._keep(Event(self._sequence, self._now(), what))
        if isinstance(what, Started):
            self.state = State.RUNNING
        elif isinstance(what, Finished | Failed):
            self.state = State.FINISHED if isinstance(what, Finished) else State.FAILED
            self.ended_at = self._clock()
        self._news.notify()

    def _keep(self, event: Event) -> None:
        """Keep an event, and no more of the oldest than there is room for: what a run says is as long as it likes."""
        self._events.append(event)
        self._characters += event.characters
        while len(self._events) > KEPT_EVENTS or (self._characters > KEPT_CHARACTERS and len(self._events) > 1):
            self._characters -= self._events.popleft().characters

    def running(self, stop: StopRun, overtime: float | None) -> None:
        """Note that the algorithm runs now. stop: asks it to end soon. overtime: seconds after which that is done."""
        self._stop_run = stop
        self._deadline = None if overtime is None else self._clock() + overtime
        if self._stopping is not None:
            self._pass_stop_on()

    async def watch(self, after: int) -> AsyncIterator[Event]:
        """Yield the events after a sequence number, then those that come, to the last."""
        while True:
            news = self._news.next()
            held = self._sequence - len(self._events)  # how many of the oldest are dropped
            fresh = list(itertools.islice(self._events, max(0, after - held), None))
            for event in fresh:
                after = event.sequence
                yield event
            if not self.live and after >= self._sequence:
                return
            if not fresh:
                await news.wait()

    def stop(self, reason: StopReason, grace: float) -> None:
        """Ask the run to end, and end it after `grace` seconds; the first reason counts."""
        if self._stopping is None:
            self._stopping = reason
            self._pass_stop_on()
        kill_at = self._clock() + grace
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        if grace <= 0 or self._stop_run is None:
            self._kill()

    def tick(self, grace: float) -> None:
        """Do what is due by now: the lease, overtime, and the end of a grace.

        grace: seconds that a run which is over its time gets to save what it has.
        """
        if not self.live:
            return
        now = self._clock()
        verdict = self.lease.verdict(now)
        if verdict is not Verdict.HOLD and self._stopping is not StopReason.LEASE_LOST:
            self.stop(StopReason.LEASE_LOST, self.lease.kill_at - now)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self.stop(StopReason.OVERTIME, grace)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()

    async def ended(self) -> None:
        """Return when the attempt is over and its sandbox is gone."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _live(self, work: Callable[[Attempt], Awaitable[Finished]]) -> None:
        last: Happening
        try:
            last = await work(self)
        except asyncio.CancelledError:
            last = self._stopped()
        except RunFailed as error:
            last = error.failed
        except LoupeError as error:
            last = RunFailed(error).failed
        except Exception:
            log.exception("attempt_crashed", job=self.spec.key.job, attempt=self.spec.key.attempt)
            last = Failed.of(Internal("the trainer failed; its log says why"), retryable=True)
        if self._stopping is not None and not self._counts(last):
            last = self._stopped()
        self.emit(last)

    def _counts(self, last: Happening) -> bool:
        """Return whether a run that was asked to stop got done all the same, and may have its result."""
        done = isinstance(last, Finished) and last.outcome is not Outcome.STOPPED
        return done and self._stopping in (StopReason.DRAINING, StopReason.OVERTIME)

    def _pass_stop_on(self) -> None:
        if self._stop_run is not None:
            task = asyncio.create_task(self._stop_run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _kill(self) -> None:
        self._kill_at = None
        if self._task is not None:
            self._task.cancel()

    def _stopped(self) -> Failed:
        """Return why there is no result."""
        key = self.spec.key
        match self._stopping:
            case StopReason.CANCELLED:
                return Failed.of(Cancelled("the job was cancelled"), retryable=False)
            case StopReason.SUPERSEDED:
                error: LoupeError = StaleAttempt(
                    f"{key} was given up for a newer one", job=key.job, attempt=key.attempt
                )
                return Failed.of(error, retryable=False)
            case StopReason.OVERTIME:
                error = ResourceExhausted("the algorithm went on after its time was used up", limit="max_duration")
                return Failed.of(error, retryable=False)
            case StopReason.LEASE_LOST:
                return Failed.of(Unavailable("the scheduler did not renew the lease"), retryable=True)
            case _:
                return Failed.of(Unavailable("the trainer was shut down"), retryable=True)
