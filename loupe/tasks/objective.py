"""What a model is asked to reach: a bound of one of its task's metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OF_LABEL = re.compile(r"(\w+)\[(.+)\]", re.DOTALL)
_ROUNDING = 1e-9
_ABBREVIATED = {"map50": "mAP50", "map": "mAP", "ap50": "AP50", "auroc": "AUROC"}


@dataclass(frozen=True)
class Objective:
    """A bound of a metric on validation pictures.

    metric: its name, for a metric of one class with the class, as in "recall[crack]". at_most: the bound is reached by
    smaller values; else by greater ones.
    """

    metric: str
    bound: float
    at_most: bool = False

    def reached_by(self, value: float) -> bool:
        """Say whether a value of the metric is within the bound, as far as floats can tell.

        >>> Objective("balanced_accuracy", 0.95).reached_by((0.9 + 0.95 + 1.0) / 3)
        True
        >>> Objective("accuracy", 0.95).reached_by(0.9499)
        False
        """
        if self.at_most:
            return value <= self.bound + _ROUNDING
        return value >= self.bound - _ROUNDING


def split_metric(metric: str) -> tuple[str, str]:
    """Return a metric's name, and the class that it is of; empty for one of all classes.

    >>> split_metric("recall[crack]"), split_metric("accuracy")
    (('recall', 'crack'), ('accuracy', ''))
    """
    found = _OF_LABEL.fullmatch(metric)
    return (found[1], found[2]) if found else (metric, "")


def shown_share(share: float) -> str:
    """Return a share for people.

    >>> shown_share(0.97)
    '97.00 %'
    """
    return f"{share:.2%}".replace("%", " %")


def spoken(metric: str) -> str:
    """Return a metric for people; the class's name is not escaped.

    >>> spoken("lowest_recall"), spoken("recall[deep crack]"), spoken("map50")
    ('lowest recall', 'recall of deep crack', 'mAP50')
    """
    name, label = split_metric(metric)
    said = _ABBREVIATED.get(name, name.replace("_", " "))
    return f"{said} of {label}" if label else said
