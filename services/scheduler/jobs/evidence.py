"""Whether a data set has enough validation pictures for a target to mean anything (docs/decisions/0012)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from loupe.escapes import escaped
from loupe.labels import MAX_LENGTH
from loupe.metrics import ACCURACY, BALANCED_ACCURACY, LOWEST_RECALL, spoken, wilson_interval

MARGIN = 0.1
"""How far below the target the 95 % interval of a faultless validation may reach."""

_SHOWN_CLASSES = 5
_ROUNDING = 1e-9


def needed_pictures(target: float) -> int:
    """Return how many pictures, all of them right, say that a share is not more than MARGIN below the target.

    >>> [needed_pictures(target) for target in (0.5, 0.9, 0.95, 0.97, 1.0)]
    [3, 16, 22, 26, 35]
    """
    return next(pictures for pictures in count(1) if wilson_interval(pictures, pictures)[0] >= target - MARGIN)


def shortfall(metric: str, target: float, pictures: Mapping[str, int]) -> str:
    """Return what is missing for a release, one sentence for people without its full stop; empty when nothing is.

    pictures: the validation pictures of every class.
    """
    needed = needed_pictures(target)
    shown = f"{target:.2%}".replace("%", " %")
    if metric == ACCURACY:
        there = sum(pictures.values())
        if there >= needed:
            return ""
        return (
            f"a target of {shown} needs at least {needed} validation pictures, and there {_are(there)}: "
            f"{needed - there} more"
        )
    if metric == BALANCED_ACCURACY:
        needed = _of_each_class(needed, list(pictures.values()))
    missing = {label: needed - there for label, there in pictures.items() if there < needed}
    if not missing:
        return ""
    listed = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{more} more of {escaped(label, MAX_LENGTH)}" for label, more in listed[:_SHOWN_CLASSES])
    rest = len(listed) - _SHOWN_CLASSES
    others = f", and some of {rest} more {'class' if rest == 1 else 'classes'}" if rest > 0 else ""
    return f"a {spoken(metric)} of {shown} needs at least {needed} validation pictures of each class: {named}{others}"


def refuted(metric: str, target: float, right: Sequence[int], pictures: Sequence[int]) -> bool:
    """Say whether test pictures speak against a model that is said to have reached a target.

    right, pictures: of each class. They do where even the upper end of the 95 % interval of what they show lies more
    than MARGIN below the target; a class without pictures does not count, and no pictures speak against nothing.
    """
    known = [(good, there) for good, there in zip(right, pictures, strict=True) if there]
    if not known:
        return False
    if metric == LOWEST_RECALL:
        shown = min(wilson_interval(good, there)[1] for good, there in known)
    elif metric == BALANCED_ACCURACY:
        as_many = _as_sure_as([there for _, there in known])
        shown = wilson_interval(sum(good / there for good, there in known) / len(known) * as_many, as_many)[1]
    else:
        shown = wilson_interval(sum(right), sum(pictures))[1]
    return shown < target - MARGIN


def _as_sure_as(pictures: Sequence[int]) -> float:
    """Return of how many pictures a share is as sure as the mean recall of classes with so many each: C² / Σ 1/n."""
    return len(pictures) ** 2 / sum(1 / there for there in pictures)


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
