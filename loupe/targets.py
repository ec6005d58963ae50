"""What is asked of a model, as it comes from people and over the wire."""

from __future__ import annotations

import math

from loupe.errors import invalid
from loupe.metrics import ACCURACY, METRICS

_NAMES = f"{', '.join(METRICS[:-1])} or {METRICS[-1]}"


def check_metric(field: str, metric: str) -> str:
    """Return the metric that a field names; empty means accuracy. Raises InvalidArgument, which names the metrics."""
    if metric and metric not in METRICS:
        raise invalid(field, metric, f"{_NAMES}; empty means {ACCURACY}")
    return metric or ACCURACY


def check_target(field: str, target: float) -> None:
    """Raise InvalidArgument for a target that no share can be."""
    if not 0 < target <= 1:  # also catches NaN
        raise invalid(field, target, "a number above 0 and at most 1 (0.97 means 97 %)")


def parse_target(text: str) -> tuple[str, float]:
    """Read a target as people write it, and return metric and value. Raises InvalidArgument.

    >>> parse_target("0.97"), parse_target("lowest_recall=0.9")
    (('accuracy', 0.97), ('lowest_recall', 0.9))
    """
    metric, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if (equals and metric not in METRICS) or not 0 < value <= 1:
        raise invalid("target", text, f"a number above 0 and at most 1, or METRIC=NUMBER with the metric {_NAMES}")
    return metric or ACCURACY, value
