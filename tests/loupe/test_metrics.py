"""What a model can be asked to reach: how it is measured, read and refused."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.errors import InvalidArgument
from loupe.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    LOWEST_RECALL,
    METRICS,
    rate_is_below,
    reaches,
    score,
    score_of_counts,
    wilson_interval,
)
from loupe.targets import check_metric, parse_target

TRUTH = np.array([0] * 90 + [1] * 8 + [3] * 2)
ANSWERS = np.array([0] * 90 + [1] * 4 + [0] * 4 + [3] * 2)
"""Four classes, the third of them without a picture."""


@pytest.mark.parametrize(
    ("metric", "expected"), [(ACCURACY, 0.96), (BALANCED_ACCURACY, (1 + 0.5 + 1) / 3), (LOWEST_RECALL, 0.5)]
)
def test_a_class_without_pictures_counts_in_no_metric(metric: str, expected: float) -> None:
    assert score(metric, TRUTH, ANSWERS, 4) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_better_when_it_is_greater(metric: str) -> None:
    better = ANSWERS.copy()
    better[94] = 1
    assert 0 <= score(metric, TRUTH, ANSWERS, 4) < score(metric, TRUTH, better, 4) < score(metric, TRUTH, TRUTH, 4) == 1


def test_nothing_and_unknown_metrics_have_no_score() -> None:
    with pytest.raises(ValueError, match="no picture"):
        score_of_counts(ACCURACY, [0, 0], [0, 0])
    with pytest.raises(ValueError, match="'f1' is none of accuracy, balanced_accuracy, lowest_recall"):
        score_of_counts("f1", [1], [1])


def test_a_mean_that_is_the_target_reaches_it() -> None:
    """Whatever the last bit of it is."""
    assert reaches((0.9 + 0.95 + 1.0) / 3, 0.95) and reaches(0.95 - 1e-16, 0.95)
    assert not reaches(0.95 - 1e-6, 0.95)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("0.97", (ACCURACY, 0.97)),
        ("1", (ACCURACY, 1.0)),
        ("accuracy=0.97", (ACCURACY, 0.97)),
        ("balanced_accuracy=0.95", (BALANCED_ACCURACY, 0.95)),
        ("lowest_recall=.9", (LOWEST_RECALL, 0.9)),
    ],
)
def test_a_target_is_read_as_people_write_it(text: str, target: tuple[str, float]) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "97", "0", "-1", "nan", "97%", "recall=0.9", "=0.9", "accuracy=", "accuracy=2"])
def test_what_is_no_target_is_refused_with_the_legal_metrics(text: str) -> None:
    with pytest.raises(InvalidArgument, match="accuracy, balanced_accuracy or lowest_recall") as caught:
        parse_target(text)
    assert caught.value.metadata["field"] == "target"


def test_an_unknown_metric_is_refused_with_the_legal_ones() -> None:
    assert [check_metric("m", name) for name in ("", *METRICS)] == [ACCURACY, *METRICS]
    with pytest.raises(InvalidArgument, match="m is 'f1'; expected accuracy, balanced_accuracy or lowest_recall"):
        check_metric("m", "f1")


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
