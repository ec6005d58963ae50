"""When an attempt's lease is renewed, and when its work may be given to another trainer."""

from __future__ import annotations


class LeaseClock:
    """Follows the lease of one attempt on a monotonic clock, all figures in seconds.

    The trainer stops by itself within `lease` of the last renewal that reached it. A renewal whose answer was lost
    may have reached it, so none is sent later than `lease` after the last answer: thus the trainer has stopped at twice
    the lease, which is when the work may be given away.
    """

    def __init__(self, lease: float, now: float) -> None:
        self.lease = lease
        self._renewed = now
        self._ticked = now

    def renewed(self, now: float) -> None:
        """Note that the trainer answered a renewal."""
        self._renewed = now
        self._ticked = now

    def tick(self, now: float) -> None:
        """Note the time, more often than once a lease: a longer gap means that this process was stopped meanwhile.

        Somebody else may have renewed the lease then, so the clock starts anew, as after a restart.
        """
        if now - self._ticked > self.lease:
            self._renewed = now
        self._ticked = now

    @property
    def interval(self) -> float:
        """The time between two renewals."""
        return self.lease / 4

    @property
    def retry_interval(self) -> float:
        """The time after which a renewal that failed is tried again."""
        return self.lease / 20

    def timeout(self, now: float) -> float:
        """Return how long a renewal that is sent now may take; 0 or less: none may be sent any more.

        A trainer winds up well before its lease ends, so a renewal that hangs has to leave time for another one.
        """
        return min(self.lease / 5, self._renewed + self.lease - now)

    def may_give_away(self, now: float) -> bool:
        """Say yes from twice the lease after the last answer on."""
        return now >= self._renewed + 2 * self.lease
