"""Whether shares of pictures say enough: of validation pictures for a target, of test pictures against it.

The rules are those of docs/decisions/0012 and 0015.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import count

from loupe.escapes import escaped
from loupe.labels import MAX_LENGTH
from loupe.proportions import wilson_interval
from loupe.tasks.objective import shown_share, split_metric, spoken

MARGIN = 0.1
"""How far below the target the 95 % interval of a faultless validation may reach."""

PICTURES, REGIONS = "validation pictures", "boxes in validation pictures"
"""What a metric's cases are called."""

_SHOWN_CLASSES = 5
_ROUNDING = 1e-9


def needed_pictures(target: float) -> int:
    """Return how many pictures, all of them right, say that a share is not more than MARGIN below the target.

    >>> [needed_pictures(target) for target in (0.5, 0.9, 0.95, 0.97, 1.0)]
    [3, 16, 22, 26, 35]
    """
    return next(pictures for pictures in count(1) if wilson_interval(pictures, pictures)[0] >= target - MARGIN)


def shortfall_of_all(target: float, pictures: int) -> str:
    """Return what is missing for a release by a share of all validation pictures; empty when nothing is.

    One sentence for people without its full stop, as those below.
    """
    needed = needed_pictures(target)
    if pictures >= needed:
        return ""
    return (
        f"a target of {shown_share(target)} needs at least {needed} validation pictures, and there {_are(pictures)}: "
        f"{needed - pictures} more"
    )


def shortfall_of_class(metric: str, target: float, there: int, *, cases: str = PICTURES) -> str:
    """Return what is missing for a release by a metric of one class, of which so many cases are there."""
    needed, (name, label) = needed_pictures(target), split_metric(metric)
    if there >= needed:
        return ""
    return (
        f"{_a(spoken(name))} of {shown_share(target)} of {escaped(label, MAX_LENGTH)} needs at least {needed} {cases} "
        f"of that class, and there {_are(there)}: {needed - there} more"
    )


def shortfall_of_each(
    metric: str, target: float, counts: Mapping[str, int], *, averaged: bool, cases: str = PICTURES
) -> str:
    """Return what is missing for a release by a metric over the classes.

    counts: the cases of every class. averaged: the metric is the classes' mean, not the least of them.
    """
    needed = needed_pictures(target)
    if averaged:
        needed = _of_each_class(needed, list(counts.values()))
    missing = {label: needed - there for label, there in counts.items() if there < needed}
    if not missing:
        return ""
    listed = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{more} more of {escaped(label, MAX_LENGTH)}" for label, more in listed[:_SHOWN_CLASSES])
    rest = len(listed) - _SHOWN_CLASSES
    others = f", and some of {rest} more {'class' if rest == 1 else 'classes'}" if rest > 0 else ""
    return (
        f"{_a(spoken(metric))} of {shown_share(target)} needs at least {needed} {cases} of each class: {named}{others}"
    )


def nearest(label: str, there: Sequence[str]) -> str:
    """Return the names that a wrong one may have been meant for, or the first ones; for people.

    >>> nearest("dint", ["crack", "dent"]), nearest("x", ["crack", "dent"])
    ('dent', 'crack, dent')
    """
    near = difflib.get_close_matches(label, there, n=_SHOWN_CLASSES) or there[:_SHOWN_CLASSES]
    return ", ".join(escaped(each, MAX_LENGTH) for each in near)


def share_is_refuted(target: float, right: float, pictures: float) -> bool:
    """Say whether even the upper end of a share's 95 % interval lies more than MARGIN below the target."""
    return wilson_interval(right, pictures)[1] < target - MARGIN


def mean_is_refuted(target: float, counted: Sequence[tuple[float, int]]) -> bool:
    """Say so of the mean of the classes' recalls. counted: right and all pictures of each class, of none 0."""
    as_many = _as_sure_as([there for _, there in counted])
    mean = sum(good / there for good, there in counted) / len(counted)
    return share_is_refuted(target, mean * as_many, as_many)


def _as_sure_as(pictures: Sequence[int]) -> float:
    """Return of how many pictures a share is as sure as the mean recall of classes with so many each: C² / Σ 1/n."""
    return len(pictures) ** 2 / sum(1 / there for there in pictures)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiouA" else f"a {noun}"


def _are(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"


def _of_each_class(needed: int, pictures: list[int]) -> int:
    """Return the least number of pictures of each class that makes the mean recall as sure as a share of `needed`.

    The small classes decide. 0: it is as sure already.
    """
    for least in count():
        raised = [max(least, there) for there in pictures]
        if all(raised) and _as_sure_as(raised) >= needed - _ROUNDING:
            return least
    raise AssertionError("more pictures of each class are more evidence")
