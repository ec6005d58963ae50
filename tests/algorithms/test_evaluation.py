"""Metrics against figures worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from loupe.algorithm.evaluation import (
    OPERATING_POINTS,
    OutOfSample,
    calibrate_temperature,
    calibration_error,
    evaluate,
    likely_label_errors,
    operating_points,
    softmax,
)

LABELS = ("零件", "b", "c", "never seen")


def answers(predicted: list[int], sure: float = 0.7) -> np.ndarray:
    probabilities = np.full((len(predicted), len(LABELS)), (1 - sure) / (len(LABELS) - 1), dtype=np.float32)
    probabilities[np.arange(len(predicted)), predicted] = sure
    return probabilities


def test_metrics_are_those_worked_out_by_hand() -> None:
    """Six pictures: class 0 three times (two right), class 1 twice (one right), class 2 once (right)."""
    found = evaluate(answers([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2]), LABELS)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert [row["precision"] for row in found["per_class"]] == [1.0, 0.5, 0.5, 0.0]
    assert found["per_class"][0]["recall"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["worst_classes"] == ["b", "零件"]
    assert found["log_loss"] == pytest.approx((4 * -math.log(0.7) + 2 * -math.log(0.1)) / 6, rel=1e-5)
    # All answers have a confidence of 0.7, and 4 of 6 are right.
    assert found["calibration_error"] == pytest.approx(0.7 - 4 / 6, abs=1e-6)
    # Wilson's interval for 4 of 6 at 95 %, by its formula with z = 1.959964.
    assert found["accuracy_interval"] == pytest.approx([0.29999, 0.90323], abs=1e-4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_figures_of_each_class_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    classes, predicted = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    found = evaluate(answers(predicted.tolist()), classes, LABELS)
    every = {"labels": np.arange(4), "zero_division": 0.0}
    expected = precision_recall_fscore_support(classes, predicted, **every)
    for name, figures in zip(("precision", "recall", "f1", "pictures"), expected, strict=True):
        assert [row[name] for row in found["per_class"]] == pytest.approx(figures, abs=1e-6)
    assert found["confusion_matrix"] == confusion_matrix(classes, predicted, labels=np.arange(4)).tolist()


def test_labels_that_are_the_answers_are_not_doubted() -> None:
    """cleanlab says the same of them, however unsure the answers are."""
    from cleanlab.filter import find_label_issues

    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 300)
    classes = probabilities.argmax(axis=1)
    sample = OutOfSample(np.arange(300), probabilities.astype(np.float32))
    assert likely_label_errors(sample, classes, LABELS[:3], [""] * 300) == []
    assert len(find_label_issues(classes, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)) == 0


def test_a_class_that_never_occurs_does_not_count() -> None:
    found = evaluate(answers([0, 1]), np.array([0, 1]), LABELS)
    assert found["balanced_accuracy"] == 1.0
    assert found["worst_classes"] == []


def test_many_classes_have_no_matrix() -> None:
    """A matrix of a thousand classes would be a report of a million numbers."""
    labels = [str(number) for number in range(200)]
    found = evaluate(np.eye(200, dtype=np.float32), np.arange(200), labels)
    assert found["confusion_matrix"] is None
    assert found["accuracy"] == 1.0


def test_temperature_cools_what_is_too_sure() -> None:
    """Labels drawn from softmax(logits) for logits then tripled are fitted best near T = 3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 3))
    classes = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    assert calibrate_temperature(3 * logits, classes) == pytest.approx(3.0, rel=0.1)


def test_bins_of_calibration_do_not_make_up_for_each_other() -> None:
    """Too sure by 0.2 in one bin of three pictures and not sure enough by 0.4 in another of two."""
    rows = np.array([[0.9, 0.1]] * 2 + [[0.87, 0.13]] + [[0.6, 0.4]] * 2)
    classes = np.array([0, 1, 0, 0, 0])
    high, low = abs(0.9 + 0.9 + 0.87 - 2), abs(0.6 + 0.6 - 2)
    assert calibration_error(rows, classes) == pytest.approx((high + low) / 5)
    assert calibration_error(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0])) == pytest.approx(0.25)


def test_operating_points_are_those_worked_out_by_hand() -> None:
    sure = np.array([0.6, 0.9, 0.8, 0.8, 0.7, 0.95, 0.65], np.float32)
    wrong = np.array([1, 0, 1, 1, 0, 0, 0])
    rows = operating_points(np.stack([sure, 1 - sure], axis=1), wrong)
    assert [(round(at, 4), *counts) for at, *counts in rows] == [
        (0.95, 1, 0), (0.9, 2, 0), (0.8, 4, 2), (0.65, 6, 2), (0.6, 7, 3),
    ]  # fmt: skip
    assert json.loads(json.dumps(rows)) == [list(row) for row in rows]


def test_many_operating_points_are_thinned_where_they_say_little() -> None:
    sure, wrong = np.linspace(1, 0.5, 20_000), np.random.default_rng(0).integers(0, 2, 20_000)
    rows = operating_points(np.stack([sure, 1 - sure], axis=1), wrong)
    assert OPERATING_POINTS - 20 <= len(rows) <= OPERATING_POINTS
    counts = [row[2] for row in rows]
    assert set(np.diff(counts[:100])) == {0, 1} and counts[99] >= 49 and max(np.diff(counts)) > 10
    assert rows[-1][1:] == (20_000, int(wrong.sum()))


def test_label_errors_are_found_by_digest_with_the_better_label() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 30)
    probabilities = answers(classes.tolist(), 0.9) + rng.uniform(0, 0.02, (90, 4)).astype(np.float32)
    given = classes.copy()
    given[[5, 40]] = (1, 2)
    rows = np.arange(90)[::-1].copy()
    sample = OutOfSample(rows, probabilities[rows] / probabilities[rows].sum(1, keepdims=True))
    found = likely_label_errors(sample, given, LABELS, [f"digest-{row}" for row in range(90)])
    assert {(row["digest"], row["label"], row["suggested"]) for row in found} == {
        ("digest-5", "b", "零件"),
        ("digest-40", "c", "b"),
    }
    assert all(row["score"] < 0.2 for row in found)
