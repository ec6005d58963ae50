"""All attempts of this trainer: who may start, which is the newest of a job, and what is due as time goes by."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime

from loupe.errors import AttemptUnknown, SandboxUnavailable, StaleAttempt, TrainerBusy, Unavailable
from services.trainer.attempts.attempt import Attempt, State, StopReason
from services.trainer.attempts.events import Event, Finished
from services.trainer.attempts.lease import Lease
from services.trainer.attempts.spec import AttemptKey, AttemptSpec

TICK_SECONDS = 0.1
REMEMBERED_SECONDS = 3600.0
REMEMBERED_ATTEMPTS = 500
REMEMBERED_JOBS = 10_000


class Attempts:
    """The trainer's list of attempts.

    work: does one attempt. slots: how many run at once. isolated: whether foreign images may run here.
    grace: seconds in which a run that was asked to stop may save what it has.
    """

    def __init__(
        self,
        work: Callable[[Attempt], Awaitable[Finished]],
        *,
        slots: int,
        isolated: bool,
        grace: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._work = work
        self._slots = slots
        self._isolated = isolated
        self._grace = grace
        self._clock = clock
        self._now = now
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._draining = False

    @property
    def live(self) -> list[Attempt]:
        """The attempts that have not ended."""
        return [attempt for attempt in self._attempts.values() if attempt.live]

    def start(self, spec: AttemptSpec, lease_seconds: float) -> State:
        """Take an attempt on, or renew its lease when it is known; return where it stands.

        Raises StaleAttempt when a newer attempt of the job was here, SandboxUnavailable, TrainerBusy, Unavailable.
        """
        lease = Lease(self._clock(), lease_seconds)
        if (known := self._attempts.get(spec.key)) is not None:
            known.lease, known.storage_token = lease, spec.storage_token
            return known.state
        self._admit(spec)
        for older in self.live:
            if older.spec.key.job == spec.key.job:
                older.stop(StopReason.SUPERSEDED, 0)
        attempt = Attempt(spec, lease, self._clock, self._now)
        self._attempts[spec.key] = attempt
        self._remember(spec.key)
        attempt.begin(self._work)
        return attempt.state

    def watch(self, key: AttemptKey, after: int) -> AsyncIterator[Event]:
        """Yield an attempt's events after a sequence number, to the last. Raises AttemptUnknown."""
        return self._known(key).watch(after)

    def renew(self, keys: Iterable[AttemptKey], lease_seconds: float) -> list[State | None]:
        """Give attempts more time from now on; return their states, None for those that are not known."""
        lease = Lease(self._clock(), lease_seconds)
        states: list[State | None] = []
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is not None:
                attempt.lease = lease
            states.append(attempt.state if attempt else None)
        return states

    def replace_token(self, key: AttemptKey, storage_token: str) -> None:
        """Give an attempt the token that it shows storage from now on. Raises AttemptUnknown."""
        self._known(key).storage_token = storage_token

    def cancel(self, key: AttemptKey) -> None:
        """Stop an attempt; one that is not known, or has ended, is no error."""
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.live:
            attempt.stop(StopReason.CANCELLED, self._grace)

    def tick(self) -> None:
        """Do what is due by now."""
        for attempt in self.live:
            attempt.tick(self._grace)
        self._forget()

    async def keep_time(self) -> None:
        """Tick for ever."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def drain(self) -> None:
        """Take nothing more on, ask every run to save and stop, and return when none is left."""
        self._draining = True
        for attempt in self.live:
            attempt.stop(StopReason.DRAINING, self._grace)
        for attempt in list(self._attempts.values()):
            await attempt.ended()

    def _known(self, key: AttemptKey) -> Attempt:
        attempt = self._attempts.get(key)
        if attempt is None:
            raise AttemptUnknown(f"this trainer does not know {key}", job=key.job, attempt=key.attempt)
        return attempt

    def _admit(self, spec: AttemptSpec) -> None:
        key = spec.key
        newest = self._newest.get(key.job, 0)
        if key.attempt <= newest:
            raise StaleAttempt(
                f"{key} is too old; attempt {newest} was here", job=key.job, attempt=key.attempt, current=newest
            )
        if self._draining:
            raise Unavailable("this trainer is shutting down", dependency="trainer")
        if not (self._isolated or spec.built_in):
            raise SandboxUnavailable(
                f"{spec.algorithm_version} does not ship with Loupe, and this trainer has no sandbox to run it in",
                algorithm=spec.algorithm_version,
            )
        if sum(attempt.spec.key.job != key.job for attempt in self.live) >= self._slots:
            raise TrainerBusy(f"all {self._slots} slots of this trainer are taken", slots=self._slots)

    def _remember(self, key: AttemptKey) -> None:
        self._newest[key.job] = key.attempt
        self._newest.move_to_end(key.job)
        while len(self._newest) > REMEMBERED_JOBS:
            self._newest.popitem(last=False)

    def _forget(self) -> None:
        """Drop attempts that ended long ago; until then the scheduler can still read their last event."""
        over = [(attempt.ended_at, key) for key, attempt in self._attempts.items() if attempt.ended_at is not None]
        over.sort()
        too_many = len(over) - REMEMBERED_ATTEMPTS
        for index, (ended_at, key) in enumerate(over):
            if index < too_many or self._clock() - ended_at > REMEMBERED_SECONDS:
                del self._attempts[key]
