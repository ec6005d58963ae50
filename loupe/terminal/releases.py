"""Receiving a project's released models as they come: on a poor network, after restarts, after days without one.

What a terminal has stands on its disk, and what there is the library says: each round compares the two, so that nothing
has to be remembered and nothing that was released in the meantime is missed (but versions between the last and the
newest, which nobody needs any more). A round follows a job's end at once, and the one before it after POLL_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

from loupe.backoff import Backoff
from loupe.errors import (
    GateFailed,
    InvalidArgument,
    LoupeError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.storage.v1 import model_pb2
from loupe.terminal.jobs import Jobs
from loupe.terminal.pull import Pulled

POLL_SECONDS = 15.0
"""How long a release takes to be seen at most, while the mesh can be reached."""
WATCHED_JOBS = 8
"""The active jobs whose end is waited for."""
FIRST_RETRY_SECONDS = 15.0
LONGEST_RETRY_SECONDS = 900.0
ACTIVE = (
    jobs.JOB_STATE_QUEUED,
    jobs.JOB_STATE_DISPATCHING,
    jobs.JOB_STATE_RUNNING,
    jobs.JOB_STATE_PUBLISHING,
)


@dataclass(frozen=True)
class Problem:
    """A release that did not arrive, and why. Its version is tried again, unless again=False: it is no good here."""

    version: str
    error: LoupeError | OSError
    again: bool


@dataclass
class _Trouble:
    """What is known of a version that did not arrive: when to try next (seconds that only go up), after how many."""

    next_try: float = 0.0
    pause: float = FIRST_RETRY_SECONDS
    told: str = ""


class Releases:
    """Installs the newest released version of models as it appears.

    models: lists the project's models. pull: brings a version to this machine, checked, or finds it whole there.
    wait: returns when a release may have appeared, or after as many seconds as it is given. wanted: the ids of the
    models, all of the project when empty. on_problem: is told of each release that does not arrive, once per reason,
    and of a mesh that is away. clock: seconds that only go up. backoff: for a mesh that cannot be reached.
    """

    def __init__(
        self,
        models: Callable[[], AsyncIterator[model_pb2.Model]],
        pull: Callable[[str], Awaitable[Pulled]],
        wait: Callable[[float], Awaitable[None]],
        *,
        wanted: Collection[str] = (),
        on_problem: Callable[[Problem], None] = lambda problem: None,
        poll_seconds: float = POLL_SECONDS,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._pull = pull
        self._wait = wait
        self._wanted = frozenset(wanted)
        self._tell = on_problem
        self._poll = poll_seconds
        self._backoff = backoff or Backoff(math.inf)
        self._clock = clock
        self._arrived: dict[str, str] = {}
        self._troubles: dict[str, _Trouble] = {}
        self._away = ""

    async def arrivals(self, *, once: bool = False) -> AsyncGenerator[Pulled]:
        """Yield each model's newest released version when it stands here whole: first what there is, then what comes.

        The first ones may have stood here already (`fresh` tells). once: end when all of the present ones were seen
        to. Raises NotFound, PermissionDenied and Unauthenticated as the mesh does; its absence is waited out.
        """
        while True:
            try:
                async for arrived in self._round():
                    yield arrived
            except Unavailable as error:
                if once:
                    raise
                self._tell_away(error)
                await self._backoff.wait(error)
                continue
            if once:
                return
            # Terminals that were started together do not ask together.
            await self._wait(self._poll * random.uniform(0.8, 1.0))

    async def _round(self) -> AsyncGenerator[Pulled]:
        """Ask once what there is and bring what is not here. Raises Unavailable when the mesh cannot be asked."""
        found = [one async for one in self._models() if not self._wanted or one.name.split("/")[-1] in self._wanted]
        self._backoff.reset()
        self._away = ""
        for model in found:
            version = model.latest_released_version
            if not version or self._arrived.get(model.name) == version or not self._is_due(version):
                continue
            try:
                pulled = await self._pull(version)
            except (Unauthenticated, PermissionDenied):
                raise
            except (LoupeError, OSError) as error:
                self._put_off(version, error)
                continue
            self._arrived[model.name] = version
            self._troubles.pop(version, None)
            yield pulled

    def _is_due(self, version: str) -> bool:
        trouble = self._troubles.get(version)
        return trouble is None or self._clock() >= trouble.next_try

    def _put_off(self, version: str, error: LoupeError | OSError) -> None:
        """Try a version later, later each time; one that this machine cannot use is not fetched again and again."""
        trouble = self._troubles.setdefault(version, _Trouble())
        again = not isinstance(error, (GateFailed, InvalidArgument))
        trouble.next_try = self._clock() + trouble.pause if again else math.inf
        trouble.pause = min(LONGEST_RETRY_SECONDS, 2 * trouble.pause)
        if trouble.told != str(error):
            trouble.told = str(error)
            self._tell(Problem(version, error, again))

    def _tell_away(self, error: Unavailable) -> None:
        if self._away != error.message:
            self._away = error.message
            self._tell(Problem("", error, again=True))


class JobEnds:
    """Waits until one of a project's jobs ends, which is when models are released."""

    def __init__(self, source: Jobs, project: str) -> None:
        self._jobs = source
        self._project = project
        self._cursors: dict[str, int] = {}

    async def wait(self, seconds: float) -> None:
        """Return when a job that is active now has ended, after `seconds` at the latest, and never for an error."""
        began = time.monotonic()
        active = await self._active()
        self._cursors = {name: self._cursors.get(name, 0) for name in active}
        watches = [asyncio.create_task(self._ended(name)) for name in active]
        left = max(0.0, seconds - (time.monotonic() - began))
        try:
            if watches:
                await asyncio.wait(watches, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(left)
        finally:
            for one in watches:
                one.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _active(self) -> list[str]:
        found: list[str] = []
        # Whoever may not see jobs, or cannot reach the scheduler, learns of a release at the next look.
        with contextlib.suppress(LoupeError):
            async for job in self._jobs.list(self._project, ACTIVE):
                found.append(job.name)
                if len(found) == WATCHED_JOBS:
                    break
        return found

    async def _ended(self, name: str) -> None:
        with contextlib.suppress(LoupeError):
            async with contextlib.aclosing(self._jobs.record(name, self._cursors[name])) as events:
                async for event in events:
                    self._cursors[name] = event.sequence
                    if event.WhichOneof("event") == "state_change" and event.state_change.state not in ACTIVE:
                        return
        await asyncio.Event().wait()  # it cannot be watched; the time ends this
