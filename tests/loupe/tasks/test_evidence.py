"""How many validation pictures a target needs before a model is released, and what is said of too few."""

from __future__ import annotations

import pytest

from loupe.proportions import wilson_interval
from loupe.tasks import TASKS
from loupe.tasks.classification import ACCURACY, BALANCED_ACCURACY, LOWEST_RECALL, OVERALL
from loupe.tasks.evidence import MARGIN, needed_pictures
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount

CLASSIFICATION = TASKS["classification"]


def shortfall(metric: str, target: float, pictures: dict[str, int]) -> str:
    counts = [LabelCount(label, 30, there) for label, there in pictures.items()]
    return CLASSIFICATION.shortfall(Objective(metric, target), counts)


@pytest.mark.parametrize("target", [0.001, 0.1, 0.5, 0.9, 0.97, 1.0])
def test_so_many_pictures_and_not_one_less(target: int) -> None:
    """All right, their interval ends at most MARGIN below the target; with one less it reaches further down."""
    needed = needed_pictures(target)
    assert wilson_interval(needed, needed)[0] >= target - MARGIN
    assert needed == 1 or wilson_interval(needed - 1, needed - 1)[0] < target - MARGIN


def test_two_pictures_are_no_proof() -> None:
    assert shortfall(ACCURACY, 0.97, {"good": 1, "scratch": 1}) == (
        "a target of 97.00 % needs at least 26 validation pictures, and there are 2: 24 more"
    )
    assert not shortfall(ACCURACY, 0.97, {"good": 25, "scratch": 1})


def test_the_lowest_recall_needs_them_of_each_class() -> None:
    """A class without any is one that nothing is known of."""
    assert not shortfall(LOWEST_RECALL, 0.9, {"good": 16, "scratch": 16})
    assert shortfall(LOWEST_RECALL, 0.9, {"good": 500, "scratch": 13, "dent": 0}) == (
        "a lowest recall of 90.00 % needs at least 16 validation pictures of each class: 16 more of dent, 3 more of "
        "scratch"
    )


def test_the_recall_of_one_class_needs_them_of_that_class() -> None:
    assert not shortfall("recall[dent]", 0.9, {"good": 0, "dent": 16})
    assert shortfall("recall[dent]", 0.9, {"good": 500, "dent": 1}) == (
        "a recall of 90.00 % of dent needs at least 16 validation pictures of that class, and there is 1: 15 more"
    )


@pytest.mark.parametrize(
    ("pictures", "missing"),
    [
        ({"good": 8, "scratch": 8}, ""),
        ({"good": 500, "scratch": 5}, ""),
        ({"good": 500, "scratch": 4}, "at least 5 validation pictures of each class: 1 more of scratch"),
        ({"good": 4, "scratch": 4}, "at least 8 validation pictures of each class: 4 more of good, 4 more of scratch"),
        ({"good": 100, "scratch": 0}, "at least 5 validation pictures of each class: 5 more of scratch"),
        ({"a": 6, "b": 6, "c": 6}, ""),
    ],
)
def test_the_small_classes_decide_for_balanced_accuracy(pictures: dict[str, int], missing: str) -> None:
    """What is asked for is enough, and 16 pictures of equal classes are as good as 16 of one."""
    found = shortfall(BALANCED_ACCURACY, 0.9, pictures)
    assert found.endswith(missing) and bool(found) == bool(missing)


@pytest.mark.parametrize("metric", OVERALL)
def test_many_classes_with_strange_names_make_a_short_sentence(metric: str) -> None:
    pictures = {f"\x1b[2J{number}" + "x" * 500: 0 for number in range(300)}
    found = shortfall(metric, 0.9, pictures)
    assert found and found.isprintable() and len(found) < 1_000
    if metric != ACCURACY:
        assert found.endswith("and some of 295 more classes")


@pytest.mark.parametrize(
    ("metric", "right", "pictures", "said"),
    [
        ("accuracy", [80, 78], [100, 100], False),
        ("accuracy", [80, 60], [100, 100], True),
        ("accuracy", [3, 1], [4, 3], False),
        ("balanced_accuracy", [990, 3], [1000, 10], True),
        ("balanced_accuracy", [990, 9], [1000, 10], False),
        ("lowest_recall", [990, 3], [1000, 10], True),
        ("lowest_recall", [990, 0], [1000, 0], False),
        ("accuracy", [], [], False),
        ("recall[a]", [990, 3], [1000, 10], False),
        ("recall[b]", [990, 3], [1000, 10], True),
        ("recall[b]", [990, 0], [1000, 0], False),
    ],
)
def test_test_pictures_refute_what_is_far_below_the_target(
    metric: str, right: list[int], pictures: list[int], said: bool
) -> None:
    """A target of 0.9, the interval's upper end against 0.8: few pictures refute little."""
    labels = ["a", "b"][: len(right)]
    checked = CLASSIFICATION.checked(labels, right, pictures, {}, 0)
    assert CLASSIFICATION.refuted(Objective(metric, 0.9), checked) is said
