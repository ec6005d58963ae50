"""How good a classifier is, and which labels look wrong: numbers for the report, from probabilities and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe.proportions import wilson_interval
from loupe.tasks.classification import OVERALL, Scorer

MATRIX_CLASSES = 100
LABEL_ERRORS = 100
WORST_CLASSES = 5
CALIBRATION_BINS = 15
OPERATING_POINTS = 200


@dataclass(frozen=True)
class OutOfSample:
    """Predictions for pictures that the predicting model was not fitted to.

    indices: int64 [M], into the data set's pictures. probabilities: float32 [M, C].
    """

    indices: np.ndarray
    probabilities: np.ndarray


def evaluate(probabilities: np.ndarray, classes: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of a split, JSON-able: those of `evaluate_answers`, and what probabilities say besides.

    probabilities: [M, C]; classes: int [M], the true ones; labels: C names. log_loss: in nats. calibration_error: as
    below.
    """
    return {
        **evaluate_answers(probabilities.argmax(axis=1), classes, labels),
        "log_loss": log_loss(probabilities, classes),
        "calibration_error": calibration_error(probabilities, classes),
    }


def evaluate_answers(answers: np.ndarray, classes: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of a split by the answers alone, JSON-able. Rates are parts of 1.

    answers, classes: int [M], what was said and the true ones; labels: C names. accuracy_interval: low and high at 95 %
    (Wilson, "Probable Inference", 1927). accuracy, balanced_accuracy, lowest_recall: as `loupe.tasks.classification`
    has them. worst_classes: up to WORST_CLASSES labels of least recall, those with a recall of 1 left out.
    confusion_matrix: rows are true classes, columns answers; None above MATRIX_CLASSES classes.
    """
    # sklearn.metrics and scipy.stats have all this, and take longer to import than the usual job's training does.
    every = (classes[answers == classes], classes, answers)
    right, support, answered = (np.bincount(each, minlength=len(labels)) for each in every)
    precision, recall = _ratio(right, answered), _ratio(right, support)
    f1 = _ratio(2 * right, answered + support)
    correct = int(right.sum())
    small = len(labels) <= MATRIX_CLASSES
    per_class = [
        {
            "label": label,
            "precision": round(float(precision[index]), 6),
            "recall": round(float(recall[index]), 6),
            "f1": round(float(f1[index]), 6),
            "pictures": int(support[index]),
        }
        for index, label in enumerate(labels)
    ]
    return {
        "pictures": len(classes),
        **{metric: Scorer(metric).of_answers(classes, answers, len(labels)) for metric in OVERALL},
        "accuracy_interval": list(wilson_interval(correct, len(classes))),
        "per_class": per_class,
        "worst_classes": _worst(per_class),
        "confusion_matrix": confusion_matrix(answers, classes, len(labels)).tolist() if small else None,
    }


def confusion_matrix(answers: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return int [count, count]: how often each true class, a row, got each answer, a column.

    answers, classes: int [M], in 0..count - 1.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix: np.ndarray = np.bincount(classes * count + answers, minlength=count**2).reshape(count, count)
    return matrix


def log_loss(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    probabilities: [M, C]; classes: int [M].

    >>> round(log_loss(np.array([[0.5, 0.5]]), np.array([0])), 4)
    0.6931
    """
    chosen = probabilities[np.arange(len(classes)), classes].astype(np.float64)
    return float(-np.log(np.clip(chosen, 1e-12, 1.0)).mean())


def calibration_error(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the expected calibration error: how far the confidence of answers is from the share that is right, 0..1.

    It is the mean over CALIBRATION_BINS bins of equal width, weighted by their pictures. probabilities: [M, C], the
    largest of a row is its confidence; classes: int [M]. Guo et al., "On Calibration of Modern Neural Networks", 2017.

    >>> round(calibration_error(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1])), 4)
    0.4
    """
    return calibration_error_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == classes)


def calibration_error_of(confidences: np.ndarray, right: np.ndarray) -> float:
    """Return the same of M answers: float [M], how sure each is, and bool [M], whether it is right."""
    confidences = confidences.astype(np.float64)
    bins = np.clip(np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=confidences - right)).sum() / len(right))


def operating_points(probabilities: np.ndarray, classes: np.ndarray) -> list[tuple[float, int, int]]:
    """Return what comes of answering only from a confidence on: (confidence, answered, wrong of these), JSON-able.

    probabilities: [M, C]; classes: int [M]. By falling confidence, the first and the last for each number of wrong
    answers, so the last row answers all; of more than OPERATING_POINTS rows fewer and fewer are taken. Confidences are
    rounded down to six digits, as far as two runtimes agree.

    >>> rows = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> operating_points(rows, np.array([0, 0, 0, 0]))
    [(0.9, 1, 0), (0.8, 2, 0), (0.7, 3, 1), (0.6, 4, 1)]
    """
    return operating_points_of(probabilities.max(axis=1), probabilities.argmax(axis=1) != classes)


def operating_points_of(confidences: np.ndarray, missed: np.ndarray) -> list[tuple[float, int, int]]:
    """Return the same of any M answers: float [M], how sure each is, and bool [M], whether it is wrong."""
    confidences = np.floor(confidences.astype(np.float64) * 1e6 + 1e-3) / 1e6
    falling, ranks = np.unique(-confidences, return_inverse=True)
    answered = np.cumsum(np.bincount(ranks))
    wrong = np.cumsum(np.bincount(ranks, weights=missed)).astype(int)
    if not len(falling):
        return []
    changes = np.diff(wrong) > 0
    rows = np.flatnonzero(np.append(True, changes) | np.append(changes, True))
    if len(rows) > OPERATING_POINTS:
        half = OPERATING_POINTS // 2
        spread = np.geomspace(half, len(rows) - 1, half).round().astype(int)
        rows = rows[np.union1d(np.arange(half), spread)]
    return [(float(-falling[row]), int(answered[row]), int(wrong[row])) for row in rows]


def calibrate_temperature(logits: np.ndarray, classes: np.ndarray) -> float:
    """Return the T in 0.25..8 for which softmax(logits / T) has the least log-loss.

    logits: [M, C]; classes: int [M]. Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return log_loss(softmax(logits / np.exp(log_temperature)), classes)

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(8.0)), method="bounded")
    return float(np.exp(found.x))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in the precision of its input."""
    from scipy.special import softmax as scipy_softmax

    probabilities: np.ndarray = scipy_softmax(logits, axis=-1)
    return probabilities


def likely_label_errors(
    sample: OutOfSample, classes: np.ndarray, labels: Sequence[str], digests: Sequence[str]
) -> list[dict[str, Any]]:
    """Return up to LABEL_ERRORS pictures whose label cleanlab doubts, the most doubtful first, JSON-able.

    classes: int [N], the given labels of the whole data set; digests: N, its pictures'. score: the probability of the
    given label, 0..1. Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021.
    """
    given = classes[sample.indices]
    # cleanlab wants classes 0..K-1, each of them given at least once.
    present = np.unique(given)
    if len(present) < 2:
        return []
    probabilities = sample.probabilities[:, present].astype(np.float64)
    probabilities = np.clip(probabilities, 1e-12, None)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    compact = np.searchsorted(present, given)
    if (probabilities.argmax(axis=1) == compact).all():
        return []  # cleanlab doubts no label that is the answer, too; it takes a second to import
    from cleanlab.filter import find_label_issues

    ranked = find_label_issues(compact, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        {
            "digest": digests[sample.indices[row]],
            "label": labels[given[row]],
            "suggested": labels[present[probabilities[row].argmax()]],
            "score": round(float(probabilities[row, compact[row]]), 6),
        }
        for row in ranked[:LABEL_ERRORS]
    ]


def _ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return parts / wholes, and 0 where there is no whole."""
    ratio: np.ndarray = np.divide(parts, wholes, out=np.zeros(len(wholes)), where=wholes > 0)
    return ratio


def _worst(per_class: Sequence[dict[str, Any]]) -> list[str]:
    """Return the labels of least recall, among those that occur and are not perfect."""
    imperfect = [row for row in per_class if row["pictures"] and row["recall"] < 1.0]
    return [row["label"] for row in sorted(imperfect, key=lambda row: (row["recall"], row["label"]))][:WORST_CLASSES]
