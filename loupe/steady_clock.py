"""Whether the wall clock can be believed: one that was set forward would let everything expire at once."""

from __future__ import annotations

from collections.abc import Callable

ALLOWED_SECONDS = 60.0
"""By how much the wall clock may run away from the monotonic one between two looks."""


class SteadyClock:
    """Compares the wall clock with the monotonic one.

    now: wall-clock seconds. monotonic: seconds that nobody sets.
    """

    def __init__(self, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self._offset = now() - monotonic()

    def steady(self) -> bool:
        """Say whether the clock was not set since the last look.

        >>> wall = [0.0, 3600.0, 90_000.0, 93_600.0]
        >>> clock = SteadyClock(iter(wall).__next__, iter([0.0, 3600.0, 7200.0, 10_800.0]).__next__)
        >>> clock.steady(), clock.steady(), clock.steady()
        (True, False, True)
        """
        offset = self._now() - self._monotonic()
        before, self._offset = self._offset, offset
        return abs(offset - before) <= ALLOWED_SECONDS
