"""What scores of good and bad parts come to: the threshold for a rate of false alarms, AUROC, the bad ones found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from loupe.tasks.anomaly import AUROC, RECALL

CALIBRATION_SCORES = 1000
"""How many scores of good pictures a model keeps at most, the highest ones: they set thresholds."""
WORST_CLASSES = 5
HALF = 1 << 15
"""Answers for test pictures from here on say that a picture shows a bad part."""


class Threshold(NamedTuple):
    """What a score must exceed to be called bad.

    value: the score. false_alarms: the rate that the good pictures vouch for; above the one that was asked for where
    they are too few. lacking: how many more good validation pictures that rate takes; 0 where it is vouched for.
    """

    value: float
    false_alarms: float
    lacking: int


def threshold_for(scores: Sequence[float], pictures: int, rate: float) -> Threshold:
    """Return the threshold that a new good picture exceeds in at most `rate` of the cases.

    scores: the highest ones of so many good pictures that nothing was learned from, in any order, at least one. rate:
    above 0, below 1. Among n + 1 pictures drawn alike, the new one is as likely at each rank, so the k-th score from
    below, k = ceil((n + 1) (1 - rate)), is exceeded in at most `rate` of the cases (Papadopoulos et al., "Inductive
    Confidence Machines for Regression", 2002). With fewer than 1 / rate - 1 pictures there is no such score: the
    highest one is taken. Equal scores are not above each other.

    >>> threshold_for([0.1, 0.4, 0.2], 3, 0.25)
    Threshold(value=0.4, false_alarms=0.25, lacking=0)
    >>> threshold_for([0.1, 0.4, 0.2], 3, 0.01)
    Threshold(value=0.4, false_alarms=0.25, lacking=96)
    """
    falling = sorted(scores, reverse=True)
    needed = math.ceil(1 / rate - 1 - 1e-9)
    if pictures < needed:
        return Threshold(float(falling[0]), 1 / (pictures + 1), needed - pictures)
    above = min(math.floor((pictures + 1) * rate + 1e-9), len(falling))
    return Threshold(float(falling[above - 1]), rate, 0)


def auroc(scores: np.ndarray, bad: np.ndarray) -> float | None:
    """Return the share of pairs in which the bad picture scores higher, ties half; None without pictures of both kinds.

    scores: float [M]. bad: bool [M].

    >>> auroc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    count = int(bad.sum())
    if not 0 < count < len(bad):
        return None
    _, places, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[places]
    return float((ranks[bad].sum() - count * (count + 1) / 2) / (count * (len(bad) - count)))


def evaluate(
    scores: np.ndarray, classes: np.ndarray, labels: Sequence[str], good: int, threshold: float
) -> dict[str, Any]:
    """Return the figures of a split, JSON-able; rates are parts of 1, None where there is no picture that they are of.

    scores: float [M]. classes: int [M], the true ones. good: the class of good parts. auroc, recall: as
    `loupe.tasks.anomaly` has them. false_alarms: the share of the good pictures above the threshold. per_class: of each
    class its label, its pictures, and as `recall` the share that is told right. worst_classes: up to WORST_CLASSES bad
    ones of which least is found.
    """
    above, bad = scores > threshold, classes != good
    pictures = np.bincount(classes, minlength=len(labels))
    right = np.bincount(classes[above == bad], minlength=len(labels))
    per_class: list[dict[str, Any]] = [
        {"label": label, "recall": round(float(hits / there), 6) if there else 0.0, "pictures": int(there)}
        for label, hits, there in zip(labels, right, pictures, strict=True)
    ]
    missed = [row for number, row in enumerate(per_class) if number != good and row["pictures"] and row["recall"] < 1]
    worst = sorted(missed, key=lambda row: (row["recall"], row["label"]))[:WORST_CLASSES]
    return {
        "pictures": len(classes),
        "good": labels[good],
        "good_pictures": int((~bad).sum()),
        AUROC: auroc(scores, bad),
        RECALL: float(above[bad].mean()) if bad.any() else None,
        "false_alarms": float(above[~bad].mean()) if not bad.all() else None,
        "per_class": per_class,
        "worst_classes": [row["label"] for row in worst],
    }


def as_answers(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return int64 [T], below 2^16, that say of test pictures what their scores, float [T], say: order and kind.

    From HALF on a picture is called bad; of two called alike the higher answer is the higher score. Above 2^15
    different scores of a kind neighbours become equal.
    """
    return as_ranks(scores, scores > threshold)


def as_ranks(scores: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the same where it is told, as bool [T], which pictures are called bad."""
    answers = np.zeros(len(scores), np.int64)
    for kind in (False, True):
        values, places = np.unique(scores[bad == kind], return_inverse=True)
        answers[bad == kind] = HALF * kind + places * min(HALF - 1, len(values) - 1) // max(1, len(values) - 1)
    return answers


def count_answers(answers: np.ndarray, classes: np.ndarray, labels: Sequence[str], good: int) -> dict[str, Any]:
    """Return what answers of `as_answers` are worth, JSON-able: see Task.checked.

    right, pictures: of each bad class those that are found, and all; 0 for the good one. figures: AUROC where it can be
    measured. test_pictures: how many there are.
    """
    bad = classes != good
    pictures = np.bincount(classes[bad], minlength=len(labels))
    found = np.bincount(classes[bad & (answers >= HALF)], minlength=len(labels))
    measured = auroc(answers, bad)
    return {
        "labels": list(labels),
        "right": found.tolist(),
        "pictures": pictures.tolist(),
        "figures": {} if measured is None else {AUROC: measured},
        "test_pictures": len(classes),
    }
