"""How long an attempt may run without hearing from the scheduler: by the monotonic clock, and ending early."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from loupe.errors import invalid

STOP_AT, KILL_AT = 0.65, 0.85
SHORTEST, LONGEST = 1.0, 3600.0


class Verdict(enum.Enum):
    """What a lease says at some time."""

    HOLD = enum.auto()
    STOP = enum.auto()
    KILL = enum.auto()


@dataclass(frozen=True)
class Lease:
    """Good from `granted_at` for `seconds`, on a clock that only goes up and never rests.

    The run is asked to stop, and killed, while there is still some of the lease left: whoever takes over waits for
    its end, not for a sign of life.
    """

    granted_at: float
    seconds: float

    def __post_init__(self) -> None:
        if not SHORTEST <= self.seconds <= LONGEST:
            raise invalid("lease", self.seconds, f"{SHORTEST:g} to {LONGEST:g} seconds")

    @property
    def kill_at(self) -> float:
        """When nothing of the run may be left."""
        return self.granted_at + KILL_AT * self.seconds

    def verdict(self, now: float) -> Verdict:
        """Say what is to be done at `now`."""
        if now >= self.kill_at:
            return Verdict.KILL
        return Verdict.STOP if now >= self.granted_at + STOP_AT * self.seconds else Verdict.HOLD
