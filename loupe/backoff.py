"""Back-off: pauses between tries that double, with jitter, until nothing has worked for too long."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class Backoff:
    """Pauses between tries, 0.1 s at first and at most 5 s; each is shortened at random by up to a half.

    seconds: how long to go on after the last thing that worked; without it, for ever.
    clock: seconds that only go up. sleep and jitter (0 to 1): what tests put in their place.
    """

    def __init__(
        self,
        seconds: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._pause = FIRST_PAUSE
        self._since = clock()

    def reset(self) -> None:
        """Note that something worked: the time starts again, and so do the pauses."""
        self._pause = FIRST_PAUSE
        self._since = self._clock()

    async def wait(self, error: Exception) -> None:
        """Pause before the next try. Raises `error` when the time is over."""
        pause = self._pause * (0.5 + self._jitter() / 2)
        if self._clock() + pause - self._since > self._seconds:
            raise error
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        await self._sleep(pause)
