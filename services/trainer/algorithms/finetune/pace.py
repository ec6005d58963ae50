"""How long the next step takes, by what the last one took."""

from __future__ import annotations

from dataclasses import dataclass

TUNING = {"blocks": 4.0, "full": 9.0}
"""Seconds of a picture in an epoch of fine-tuning, as multiples of those of its features; rough."""


@dataclass(frozen=True)
class Pace:
    """What features cost at a size: seconds to open the pictures, for each of them, and in all."""

    opening: float
    picture: float
    whole: float


@dataclass(frozen=True)
class Step:
    """The next stage: "head", "blocks" or "full", the side in pixels, and its seconds; None where they are unknown."""

    depth: str
    size: int
    seconds: float | None


def seconds_of_head(pace: Pace, pictures: int, pixels: float, fitting: float) -> float:
    """Return about how long a head takes at another size. pixels: how many times as many. fitting: that of the last."""
    return pace.opening + pictures * pace.picture * pixels + fitting


def seconds_of_tuning(pace: Pace, depth: str, pictures: int, pixels: float, epochs: int) -> float:
    """Return roughly how long fine-tuning takes at most. pictures: those to learn from."""
    return TUNING[depth] * pace.picture * pixels * pictures * epochs


def spoken_seconds(seconds: float) -> str:
    """Return a duration for people, as roughly as it is known.

    >>> spoken_seconds(0.2), spoken_seconds(12.3), spoken_seconds(400), spoken_seconds(9000)
    ('1 s', '12 s', '7 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
