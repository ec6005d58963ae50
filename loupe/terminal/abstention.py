"""From which confidence on a model may answer so that an error rate is kept, as its validation pictures vouch for it.

A rate is vouched for when, were it exceeded, so few wrong answers would come by chance in at most one of ten sets of
validation pictures (DOUBT). Points of less and less confidence are tested in turn until one fails; a point is taken
when it was reached: Angelopoulos et al., "Learn then Test", 2021, section 3.2, fixed sequences with several starts.
Trying each point and taking the best would promise more than it keeps.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from loupe.errors import Fact, FailedPrecondition, GateFailed
from loupe.proportions import rate_is_below

DOUBT = 0.1
"""In which share of the sets of validation pictures a point may be taken that exceeds the rate."""
STARTS = ((0, DOUBT / 2), (1, DOUBT / 4), (5, DOUBT / 4))
"""Where a sequence of tests begins: with the surest pictures that pass with so many wrong, at a part of the doubt. One
picture with a wrong label among the surest stops the first sequence, not the others."""
MOST_PICTURES = 1 << 31
_MOST_TIMES = 100


class OperatingPoint(NamedTuple):
    """What comes of answering from min_confidence on: so many validation pictures are answered, so many wrongly."""

    min_confidence: float
    answered: int
    wrong: int


class NotVouchedFor(GateFailed):
    """The model's validation pictures cannot vouch for the error rate.

    lowest: the rate that they can vouch for; none where there is none. more_pictures: about how many more validation
    pictures it takes; none where more would not do.
    """

    lowest = Fact(float)
    more_pictures = Fact(int)


def point_for(points: Sequence[OperatingPoint], rate: float) -> OperatingPoint | None:
    """Return the point that answers most while the rate is vouched for; None where there is none.

    points: by falling confidence; the first and the last for each number of wrong answers suffice. rate: 0..1, each
    exclusive, of the wrong among the answered.

    >>> points = [OperatingPoint(0.99, 1, 0), OperatingPoint(0.8, 40, 0), OperatingPoint(0.79, 41, 1)]
    >>> point_for(points, 0.1)
    OperatingPoint(min_confidence=0.8, answered=40, wrong=0)
    >>> point_for(points, 0.05) is None
    True
    """
    reached = [point for wrong, doubt in STARTS for point in _reached(points, rate, wrong, doubt)]
    return max(reached, key=lambda point: point.answered, default=None)


def fewest_pictures(wrong: int, rate: float, doubt: float) -> int:
    """Return of how many pictures so many may be wrong and the rate is vouched for; MOST_PICTURES stands for more.

    >>> fewest_pictures(0, 0.01, 0.05), fewest_pictures(1, 0.01, 0.05)
    (299, 473)
    """
    return bisect.bisect_left(
        range(MOST_PICTURES), True, key=lambda pictures: rate_is_below(rate, wrong, pictures, doubt)
    )


def lowest_rate(points: Sequence[OperatingPoint], above: float) -> float | None:
    """Return the lowest rate of two digits, greater than `above`, that is vouched for; None where there is none."""
    rates = (digits / 10**places for places in range(7, 1, -1) for digits in range(10, 100))
    return next((rate for rate in rates if rate > above and point_for(points, rate)), None)


def more_pictures(points: Sequence[OperatingPoint], rate: float) -> int | None:
    """Return about how many more validation pictures would vouch for the rate, if they are answered like those here.

    Rounded up to two digits. None where a hundred times as many would not do: the surest answers are too often wrong.
    """
    for times in itertools.takewhile(lambda times: times <= _MOST_TIMES, (1.05**power for power in itertools.count())):
        scaled = [OperatingPoint(at, int(answered * times), round(wrong * times)) for at, answered, wrong in points]
        if point_for(scaled, rate):
            more = max(1, scaled[-1].answered - points[-1].answered)
            step: int = 10 ** max(0, len(str(more)) - 2)
            return math.ceil(more / step) * step
    return None


def require_point(points: Sequence[OperatingPoint], rate: float, model: Path) -> OperatingPoint:
    """Return the point that answers most while the rate is vouched for.

    Raises NotVouchedFor, and FailedPrecondition for a model without points.
    """
    if not points:
        raise FailedPrecondition(
            f"the model in {model} does not say how often it is wrong from which confidence on (models of an earlier "
            "Loupe do not); train it anew, or use --min-confidence instead of --max-error",
            resource=model,
        )
    if point := point_for(points, rate):
        return point
    lowest, more = lowest_rate(points, rate), more_pictures(points, rate)
    can = "for none" if lowest is None else f"for {_percent(lowest)} and more (--max-error {lowest:g})"
    what = "more would not do, the surest answers are wrong too often" if more is None else f"about {more} more would"
    raise NotVouchedFor(
        f"the {points[-1].answered} validation pictures of the model in {model} cannot vouch for an error rate of "
        f"{_percent(rate)}: they can {can}; {what}",
        model=model,
        lowest=lowest,
        more_pictures=more,
    )


def _reached(points: Sequence[OperatingPoint], rate: float, wrong: int, doubt: float) -> Iterator[OperatingPoint]:
    """Yield the points that a sequence of tests reaches, beginning where so many wrong answers pass."""
    start = fewest_pictures(wrong, rate, doubt)
    wrong_before = 0
    for point in points:
        if point.answered >= start:
            # With as many wrong answers as the point before, the start lies between the two.
            tested = start if point.wrong == wrong_before else point.answered
            if not rate_is_below(rate, point.wrong, tested, doubt):
                return
            yield point
            start = point.answered
        wrong_before = point.wrong


def _percent(rate: float) -> str:
    return f"{100 * rate:.4g} %"
