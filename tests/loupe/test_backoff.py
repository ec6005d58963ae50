"""Pauses between tries, however long nothing works."""

from __future__ import annotations

from loupe.backoff import LONGEST_PAUSE, Backoff


async def test_a_pause_stays_bounded_after_thousands_of_failures() -> None:
    """Whoever waits for ever waits through an outage of hours as well."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    backoff = Backoff(clock=lambda: 0.0, sleep=sleep, jitter=lambda: 1.0)
    for _ in range(2_000):
        await backoff.wait(OSError("away"))
    assert pauses[:3] == [0.1, 0.2, 0.4] and pauses[-1] == LONGEST_PAUSE
