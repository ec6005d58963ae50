"""How sure a share is: compared with scipy, which is no part of a terminal."""

from __future__ import annotations

import pytest

from loupe.proportions import rate_is_below, wilson_interval


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (9, 10), (97, 100), (1, 1), (499, 1000)])
def test_the_interval_is_scipys(right: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "wrong", "total"),
    [(0.01, 0, 230), (0.01, 3, 900), (0.05, 10, 300), (0.5, 4, 10), (0.02, 150, 9000), (1e-4, 2, 10**6)],
)
def test_the_test_of_a_rate_is_the_binomial_distribution(rate: float, wrong: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    probability = float(stats.binom.cdf(wrong, total, rate))
    assert rate_is_below(rate, wrong, total, probability * 1.001)
    assert not rate_is_below(rate, wrong, total, probability * 0.999)
    assert not rate_is_below(rate, total, total, 0.1) and not rate_is_below(rate, 0, 0, 0.1)
