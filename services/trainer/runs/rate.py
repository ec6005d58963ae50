"""Bounds on how often something may happen."""

from __future__ import annotations


class TokenBucket:
    """Lets through `burst` things at once and `rate` a second in the long run. Times in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether one more thing may happen now."""
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def wait(self) -> float:
        """How many seconds it takes until the next thing may happen."""
        return max(0.0, (1 - self._tokens) / self._rate)
