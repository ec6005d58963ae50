"""What a model can be asked to reach: how it is measured, read and refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from loupe.errors import InvalidArgument
from loupe.tasks import TASKS
from loupe.tasks.classification import (
    ACCURACY,
    BALANCED_ACCURACY,
    LOWEST_RECALL,
    OVERALL,
    Scorer,
    scorer,
)
from loupe.tasks.detection import MAP50
from loupe.tasks.objective import Objective
from loupe.tasks.targets import check_objective, parse_objective

TRUTH = np.array([0] * 90 + [1] * 8 + [3] * 2)
ANSWERS = np.array([0] * 90 + [1] * 4 + [0] * 4 + [3] * 2)
"""Four classes, the third of them without a picture."""


@pytest.mark.parametrize(
    ("metric", "expected"), [(ACCURACY, 0.96), (BALANCED_ACCURACY, (1 + 0.5 + 1) / 3), (LOWEST_RECALL, 0.5)]
)
def test_a_class_without_pictures_counts_in_no_metric(metric: str, expected: float) -> None:
    assert Scorer(metric).of_answers(TRUTH, ANSWERS, 4) == pytest.approx(expected)


@pytest.mark.parametrize("metric", OVERALL)
def test_every_metric_is_better_when_it_is_greater(metric: str) -> None:
    better = ANSWERS.copy()
    better[94] = 1
    assert 0 <= Scorer(metric).of_answers(TRUTH, ANSWERS, 4) < Scorer(metric).of_answers(TRUTH, better, 4) < 1
    assert Scorer(metric).of_answers(TRUTH, TRUTH, 4) == 1


def test_nothing_and_unknown_metrics_have_no_score() -> None:
    with pytest.raises(ValueError, match="no picture"):
        Scorer(ACCURACY).of_counts([0, 0], [0, 0])
    for unknown in ("f1", "recall[dent]", "recall"):
        with pytest.raises(ValueError, match=f"'{re.escape(unknown)}' is none of accuracy, balanced_accuracy"):
            scorer(unknown, ["crack"])


def test_the_recall_of_a_class_is_by_its_name() -> None:
    found = scorer("recall[b]", ["a", "b", "c", "d"])
    assert found.of_answers(TRUTH, ANSWERS, 4) == 0.5
    with pytest.raises(ValueError, match="no picture"):
        scorer("recall[c]", ["a", "b", "c", "d"]).of_answers(TRUTH, ANSWERS, 4)


def test_a_mean_that_is_the_bound_reaches_it() -> None:
    """Whatever the last bit of it is."""
    least, most = Objective(BALANCED_ACCURACY, 0.95), Objective("loss", 0.95, at_most=True)
    assert least.reached_by((0.9 + 0.95 + 1.0) / 3) and least.reached_by(0.95 - 1e-16)
    assert not least.reached_by(0.95 - 1e-6)
    assert most.reached_by(0.95 + 1e-16) and most.reached_by(0.1) and not most.reached_by(0.95 + 1e-6)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("0.97", ("", 0.97)),
        ("1", ("", 1.0)),
        ("map50=0.7", (MAP50, 0.7)),
        ("ap50[dent]=0.7", ("ap50[dent]", 0.7)),
        ("accuracy=0.97", (ACCURACY, 0.97)),
        ("balanced_accuracy=0.95", (BALANCED_ACCURACY, 0.95)),
        ("lowest_recall=.9", (LOWEST_RECALL, 0.9)),
        ("recall=0.9", ("recall", 0.9)),
        ("auroc=0.97", ("auroc", 0.97)),
        ("recall[零件]=0.9", ("recall[零件]", 0.9)),
        ("recall[a=b [x]]=0.9", ("recall[a=b [x]]", 0.9)),
        ("recall[gro\u0308\u00dfe]=0.9", ("recall[gr\u00f6\u00dfe]", 0.9)),
    ],
)
def test_a_target_is_read_as_people_write_it(text: str, target: tuple[str, float]) -> None:
    assert parse_objective(text) == Objective(*target)


def test_a_number_alone_is_the_first_metric_of_the_task() -> None:
    for task in TASKS.values():
        assert parse_objective("0.97", task) == Objective(next(iter(task.metrics)), 0.97)


@pytest.mark.parametrize(
    "text",
    ["", "97", "0", "-1", "nan", "97%", "=0.9", "accuracy=", "accuracy=2", "recall[]=1", "accuracy[a]=1"],
)
def test_what_is_no_target_is_refused_with_the_legal_metrics(text: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r"accuracy, .*, lowest_recall, recall.*, map50, map, ap50.*, auroc or recall"
    ) as caught:
        parse_objective(text)
    assert caught.value.metadata["field"] == "target"


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            Objective("f1", 0.9),
            r"m\.metric is 'f1'; expected accuracy, balanced_accuracy, lowest_recall or recall",
        ),
        (Objective("recall[\x1b[2J]", 0.9), "the name of a class, but it has a control"),
        (Objective("accuracy", 0.9, at_most=True), "expected at_least, since greater values are better"),
        (Objective("accuracy", 1.5), r"m\.at_least is 1\.5; expected a number above 0 and at most 1"),
    ],
)
def test_what_no_model_of_the_task_can_reach_is_refused(objective: Objective, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_objective("m", objective)


def test_no_metric_means_the_tasks_first_one() -> None:
    assert [check_objective("m", Objective(name, 0.9)).metric for name in ("", *OVERALL)] == [ACCURACY, *OVERALL]
