"""The token bucket: a bound on how often something may happen."""

from __future__ import annotations


class TokenBucket:
    """Lets `burst` things through at once and `rate` a second in the long run.

    now: seconds that only go up, the same clock in every call.

    >>> bucket = TokenBucket(rate=0.5, burst=2)
    >>> [bucket.take(now=10.0) for _ in range(3)]
    [True, True, False]
    >>> bucket.wait(now=10.5)
    1.5
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def take(self, now: float) -> bool:
        """Take a token; False, and nothing is taken, when there is no whole one."""
        if self._fill(now) < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self, now: float) -> None:
        """Put a token back that was taken for nothing."""
        self._tokens = min(self._burst, self._fill(now) + 1)

    def wait(self, now: float) -> float:
        """Return the seconds until there is a whole token; 0 when there is one."""
        return max(0.0, 1 - self._fill(now)) / self._rate

    def _fill(self, now: float) -> float:
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens
