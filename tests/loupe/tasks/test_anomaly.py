"""Anomaly: which class is good, what a version must have, thresholds, and figures that bad pictures alone can give."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.tasks import TASKS, task_for
from loupe.tasks.anomaly import good_label
from loupe.tasks.anomaly_scores import HALF, as_answers, auroc, count_answers, evaluate, threshold_for
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount, UnfitVersion

ANOMALY = TASKS["anomaly"]
LABELS = ["crack", "good", "rust"]


def test_the_good_class_is_named_or_called_good_or_the_only_one() -> None:
    assert good_label(["ok"]) == "ok"
    assert good_label(LABELS) == "good" and good_label(LABELS, "rust") == "rust"
    with pytest.raises(ValueError, match=r"no class 'good'.*: crack, rust"):
        good_label(["crack", "rust"])
    with pytest.raises(ValueError, match="no class 'fine'"):
        good_label(["ok"], "fine")


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ([], "no_training_pictures"),
        ([LabelCount("ok", 0, 20)], "no_training_pictures"),
        ([LabelCount("ok", 20, 0)], "no_validation_pictures"),
        ([LabelCount("good", 0, 20), LabelCount("crack", 20, 20)], "no_training_pictures"),
        ([LabelCount("good", 20, 0), LabelCount("crack", 0, 20)], "no_validation_pictures"),
        ([LabelCount("a", 20, 0), LabelCount("b", 0, 20)], "no_validation_pictures"),
    ],
)
def test_there_must_be_good_pictures_to_learn_from_and_to_set_a_threshold(
    counts: list[LabelCount], problem: str
) -> None:
    with pytest.raises(UnfitVersion) as caught:
        ANOMALY.check_version("v", counts)
    assert caught.value.problem == problem


def test_without_bad_pictures_a_model_is_made_and_nothing_is_released() -> None:
    counts = [LabelCount("good", 100, 100)]
    ANOMALY.check_version("v", counts)
    for metric in ANOMALY.metrics:
        objective = Objective(metric, 0.95)
        assert ANOMALY.unmeasurable(objective, counts) == ""
        assert "cannot be measured: give at least 22" in ANOMALY.shortfall(objective, counts)
        assert "not measured" in ANOMALY.validation_sentence(objective, 0.0, 100)
    figures = evaluate(np.zeros(4), np.ones(4, int), LABELS, 1, 0.5)
    assert figures["auroc"] is None and figures["recall"] is None and figures["false_alarms"] == 0
    assert ANOMALY.score_of_report("auroc", figures) == 0
    assert ANOMALY.figures.model_validate(figures)


def test_both_kinds_of_validation_pictures_are_needed_for_a_release() -> None:
    objective = Objective("auroc", 0.95)
    said = ANOMALY.shortfall(objective, [LabelCount("good", 100, 20), LabelCount("crack", 0, 15)])
    assert said.endswith("needs at least 22 validation pictures each: 2 more of good parts and 7 more of bad parts")
    assert ANOMALY.shortfall(objective, [LabelCount("ok", 100, 22), LabelCount("crack", 9, 22)]) == ""


def test_the_task_is_taken_where_its_metric_is_asked_for() -> None:
    """One class alone might as well be a mistake: of that, classification tells."""
    several = [LabelCount("good", 60, 20), LabelCount("crack", 60, 20)]
    assert task_for("auroc", "v", several) is ANOMALY and task_for("recall", "v", several) is ANOMALY
    assert task_for("recall[crack]", "v", several) is TASKS["classification"]
    assert task_for("recall[crack]", "v", several[:1]) is TASKS["classification"]
    assert task_for("", "v", several[:1]) is task_for("", "v", several) is TASKS["classification"]


def test_new_good_parts_exceed_the_threshold_as_rarely_as_was_asked() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.01, 0.1):
        alarms = [
            float(np.mean(rng.normal(size=1000) > threshold_for(rng.normal(size=150).tolist(), 150, rate).value))
            for _ in range(300)
        ]
        assert 0.3 * rate < np.mean(alarms) <= 1.1 * rate


def test_too_few_pictures_vouch_for_what_they_can() -> None:
    assert threshold_for([1.0] * 98, 98, 0.01).lacking == 1 and threshold_for([1.0] * 99, 99, 0.01).lacking == 0
    one = threshold_for([3.0], 1, 0.01)
    assert one.value == 3.0 and one.false_alarms == 0.5 and one.lacking == 98


def test_scores_as_high_as_the_threshold_are_not_above_it() -> None:
    """Half of the good pictures have the same score; none of these is called bad."""
    scores = [0.0] * 50 + [1.0] * 50
    threshold = threshold_for(scores, 100, 0.2)
    figures = evaluate(np.array([*scores, 1.0]), np.array([1] * 100 + [0]), LABELS, 1, threshold.value)
    assert threshold.value == 1.0 and figures["false_alarms"] == 0 and figures["recall"] == 0


def test_the_highest_scores_alone_never_give_a_lower_threshold() -> None:
    scores = np.random.default_rng(0).normal(size=5000)
    kept = np.sort(scores)[::-1][:1000].tolist()
    for rate in (0.001, 0.1, 0.4):
        assert threshold_for(kept, 5000, rate).value >= threshold_for(scores.tolist(), 5000, rate).value
    assert threshold_for(kept, 5000, 0.1).value == threshold_for(scores.tolist(), 5000, 0.1).value


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, bad = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(b > g) + (b == g) / 2 for b in scores[bad] for g in scores[~bad]]
    assert auroc(scores, bad) == pytest.approx(np.mean(pairs))
    assert auroc(scores, np.zeros(60, bool)) is None and auroc(scores, np.ones(60, bool)) is None


def test_answers_say_what_scores_say() -> None:
    """Also of very many, where neighbours become equal."""
    rng = np.random.default_rng(0)
    for count in (1, 40, 200_000):
        classes = rng.integers(0, 3, count)
        scores = rng.normal(size=count) + (classes != 1)
        answers = as_answers(scores, 1.0)
        assert answers.min() >= 0 and answers.max() < 1 << 16
        assert ((answers >= HALF) == (scores > 1.0)).all()
        figures, counted = evaluate(scores, classes, LABELS, 1, 1.0), count_answers(answers, classes, LABELS, 1)
        if figures["auroc"] is not None:
            assert counted["figures"]["auroc"] == pytest.approx(figures["auroc"], abs=1e-4)
        assert counted["right"][1] == counted["pictures"][1] == 0
        found = sum(counted["right"]) / max(1, sum(counted["pictures"]))
        assert found == pytest.approx(figures["recall"] or 0.0)
    assert as_answers(np.zeros(0), 1.0).tolist() == []


def test_the_classes_of_which_least_is_found_are_told() -> None:
    figures = evaluate(np.array([0.9, 0.1, 0.2, 0.9]), np.array([0, 2, 1, 1]), LABELS, 1, 0.5)
    assert figures["worst_classes"] == ["rust"] and figures["false_alarms"] == 0.5
    assert [row["recall"] for row in figures["per_class"]] == [1.0, 0.5, 0.0]


def test_test_pictures_refute_by_bad_ones_alone() -> None:
    none = ANOMALY.checked(LABELS, [0, 0, 0], [0, 0, 0], {}, 50)
    assert not ANOMALY.refuted(Objective("auroc", 0.9), none) and "nothing was measured" in ANOMALY.test_sentence(none)
    poor = ANOMALY.checked(LABELS, [4, 0, 2], [20, 0, 20], {"auroc": 0.97}, 80)
    assert ANOMALY.refuted(Objective("recall", 0.9), poor) and not ANOMALY.refuted(Objective("auroc", 0.97), poor)
    assert ANOMALY.refuted(Objective("auroc", 0.97), ANOMALY.checked(LABELS, [0] * 3, [20, 0, 20], {"auroc": 0.5}, 80))
