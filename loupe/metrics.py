"""What a model can be asked to reach: the metrics of a target, and how sure a figure from so many pictures is.

Every metric is a share, 0 to 1, and better when it is greater. A class without pictures counts in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ACCURACY = "accuracy"
"""The share of the pictures that are right."""

BALANCED_ACCURACY = "balanced_accuracy"
"""The mean over the classes of their recall, the share of a class's pictures that are found."""

LOWEST_RECALL = "lowest_recall"
"""The recall of the class where it is lowest."""

METRICS = (ACCURACY, BALANCED_ACCURACY, LOWEST_RECALL)
Z_95 = 1.959963984540054
"""The number of standard deviations that hold 95 % of a normal distribution."""

_ROUNDING = 1e-9


def score(metric: str, truth: np.ndarray, answers: np.ndarray, classes: int) -> float:
    """Return a metric of answers. Raises ValueError where there is no picture.

    truth, answers: int [M], the true class of each picture and the one that was said, each below `classes`.

    >>> import numpy as np
    >>> truth, answers = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 0, 1])
    >>> [round(score(metric, truth, answers, 3), 4) for metric in METRICS]
    [0.8333, 0.75, 0.5]
    """
    import numpy as np

    right = np.bincount(truth[truth == answers], minlength=classes)
    return score_of_counts(metric, right.tolist(), np.bincount(truth, minlength=classes).tolist())


def score_of_counts(metric: str, right: Sequence[int], pictures: Sequence[int]) -> float:
    """Return a metric, from the right and from all pictures of each class. Raises ValueError where there is none."""
    recalls = [good / of for good, of in zip(right, pictures, strict=True) if of]
    if not recalls:
        raise ValueError(f"there is no picture to compute {metric} of")
    match metric:
        case "accuracy":
            return sum(right) / sum(pictures)
        case "balanced_accuracy":
            return math.fsum(recalls) / len(recalls)
        case "lowest_recall":
            return min(recalls)
        case _:
            raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")


def reaches(score: float, target: float) -> bool:
    """Say whether a score is at least the target, as far as floats can tell.

    >>> reaches((0.9 + 0.95 + 1.0) / 3, 0.95), reaches(0.9499, 0.95)
    (True, False)
    """
    return score >= target - _ROUNDING


def spoken(metric: str) -> str:
    """Return a metric for people; empty means accuracy.

    >>> spoken("lowest_recall"), spoken("")
    ('lowest recall', 'accuracy')
    """
    return (metric or ACCURACY).replace("_", " ")


def wilson_interval(right: float, total: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; 0 to 1 where nothing was counted.

    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    """
    if not total:
        return 0.0, 1.0
    share, square = right / total, Z_95**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return (0.0 if right == 0 else middle - half), (1.0 if right == total else middle + half)


def rate_is_below(rate: float, wrong: int, total: int, doubt: float) -> bool:
    """Say whether so few wrong of a total speak for a rate below `rate`: the exact one-sided test of a binomial.

    That is: were the rate as high, at most `wrong` would come with a probability of at most `doubt` (Clopper and
    Pearson, 1934). rate, doubt: 0..1, each exclusive.

    >>> [rate_is_below(0.01, 0, total, 0.1) for total in (229, 230)]
    [False, True]
    """
    if wrong >= total * rate:
        return False
    term = math.exp(
        math.lgamma(total + 1)
        - math.lgamma(wrong + 1)
        - math.lgamma(total - wrong + 1)
        + wrong * math.log(rate)
        + (total - wrong) * math.log1p(-rate)
    )
    probability = 0.0
    for count in range(wrong, -1, -1):
        probability += term
        if probability > doubt or term <= probability * _ROUNDING:
            break
        term *= count * (1 - rate) / ((total - count + 1) * rate)
    return probability <= doubt
