"""How sure a share of a number of pictures is."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""The number of standard deviations that hold 95 % of a normal distribution."""

_ROUNDING = 1e-9


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
