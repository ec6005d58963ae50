"""How good boxes are: average precision while training, and the score from which on they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from loupe.algorithm.dataset import Dataset
from loupe.algorithm.evaluation import operating_points_of
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions, evaluate
from loupe.tasks.detection import OVERALL
from loupe.tasks.task import Task

MATCH_IOU = 0.5
"""From which intersection over union on a box is the one that is annotated."""
UNSURE = 0.5
"""The score from which on boxes are shown where no validation picture says a better one."""

Detections = tuple[Any, Any, Any]
"""Boxes [K, 4], scores [K] and classes [K] of a picture, each a numpy array or what becomes one."""


def score_of(data: Dataset, task: Task, metric: str, detections: Sequence[Detections]) -> dict[str, float]:
    """Return the overall metrics of the validation pictures, and "score", the metric; see Context.score."""
    found = gather(detections, len(data.validation), len(data.labels))
    figures = evaluate(data.regions.of(data.validation), found, len(data.validation), data.labels)
    score = task.score_of_report(metric, figures)
    if score is None:
        raise ValueError(f"{metric} cannot be measured: {data.name} has no such boxes in its validation pictures")
    return {**{name: figures[name] for name in OVERALL}, "score": score}


def gather(detections: Sequence[Detections], pictures: int, classes: int) -> Regions:
    """Return what was found in so many pictures, the surest MAX_DETECTIONS boxes of each. Raises ValueError."""
    if len(detections) != pictures:
        raise ValueError(f"detections of {len(detections)} pictures; one entry for each of {pictures} would be right")
    parts = [_of_picture(each, classes) for each in detections]
    counts = [len(scores) for _, scores, _ in parts]
    return Regions(
        np.repeat(np.arange(pictures), counts),
        np.concatenate([kinds for _, _, kinds in parts]),
        np.concatenate([boxes for boxes, _, _ in parts]),
        np.concatenate([scores for _, scores, _ in parts]),
    )


def _of_picture(detections: Detections, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores = (np.asarray(each, dtype=np.float32) for each in detections[:2])
    kinds = np.asarray(detections[2], dtype=np.int64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.shape != (len(scores), 4) or scores.ndim != 1 or kinds.shape != scores.shape:
        raise ValueError(
            f"boxes {boxes.shape}, scores {scores.shape} and classes {kinds.shape} of a picture; (K, 4), (K,) and (K,) "
            "would be right"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box or score of a picture is not a finite number")
    if kinds.min(initial=0) < 0 or kinds.max(initial=0) >= classes:
        raise ValueError(f"a box of a class that is none of {classes}, counted from 0")
    surest = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    return boxes[surest], scores[surest], kinds[surest]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return float [K, M], the intersection over union of each of K boxes with each of M.

    >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2, dtype=np.float64)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64) for boxes in (first, second)]
    whole = areas[0][:, None] + areas[1][None, :] - shared
    overlaps: np.ndarray = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlaps


def right_ones(truth: Regions, found: Regions) -> np.ndarray:
    """Return bool [M]: which of the found boxes are annotated ones, of the same class, with MATCH_IOU or more.

    Each annotated box is found once, by the surest box that overlaps it most, as COCO counts.
    """
    assert found.scores is not None, "what a model found has scores"
    right = np.zeros(len(found), bool)
    waiting: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(truth.pictures.tolist(), truth.classes.tolist(), strict=True)):
        waiting.setdefault(key, []).append(row)
    keys = list(zip(found.pictures.tolist(), found.classes.tolist(), strict=True))
    for row in np.argsort(-found.scores, kind="stable").tolist():
        if there := waiting.get(keys[row]):
            overlaps = iou(found.boxes[row : row + 1], truth.boxes[there])[0]
            if overlaps.max() >= MATCH_IOU:
                right[row] = True
                there.pop(int(overlaps.argmax()))
    return right


def threshold(truth: Regions, found: Regions, right: np.ndarray, classes: int) -> float:
    """Return the score from which on boxes are to be shown: the F1 at MATCH_IOU, as the classes' mean, is greatest.

    right: as `right_ones` says. It lies half way to the next box that is less sure. A class without annotations counts
    in the mean of none. UNSURE where no box is right.
    """
    assert found.scores is not None, "what a model found has scores"
    if not right.any():
        return UNSURE
    levels = np.unique(found.scores.astype(np.float64))[::-1]
    marks = np.zeros(len(levels))
    counts = np.bincount(truth.classes, minlength=classes)
    for number in np.flatnonzero(counts):
        rows = np.flatnonzero(found.classes == number)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        shown = np.searchsorted(-found.scores[rows].astype(np.float64), -levels, side="right")
        hits = np.concatenate([[0], np.cumsum(right[rows])])[shown]
        marks += 2 * hits / (shown + counts[number])
    best = int(marks.argmax())
    following = levels[best + 1] if best + 1 < len(levels) else 0.0
    return round(float(levels[best] + following) / 2, 6)


def operating_points(found: Regions, right: np.ndarray) -> list[tuple[float, int, int]]:
    """Return what comes of showing boxes only from a score on: (score, shown, wrong of these), JSON-able."""
    assert found.scores is not None, "what a model found has scores"
    return operating_points_of(found.scores, ~right)
