"""The boxes that a detector's network answers with: taken only where each of them can be, compared with golden ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loupe.errors import DataLoss

OUTPUTS = ("found_pictures", "boxes", "scores", "classes")
"""What a detector's network answers with, after it has left out boxes that overlap surer ones."""
MOST_BOXES = 10_000
"""Of a picture, on average: what is more than all that could be seen."""
FARTHEST = 1.0
"""How far outside of the picture a corner may be, in parts of its sides: what is cut off has boxes that reach there."""
GOLDEN_IOU = 0.9
GOLDEN_SCORE_TOLERANCE = 0.01


class Boxes(NamedTuple):
    """K boxes in some pictures.

    pictures: int64 [K], which one. boxes: float64 [K, 4], x0, y0, x1, y1 in parts of the network's input. scores:
    float64 [K], 0..1. classes: int64 [K].
    """

    pictures: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def of(self, chosen: np.ndarray | slice) -> Boxes:
        """Return some of the boxes, by a mask, their places or a slice."""
        return Boxes(*(each[chosen] for each in self))


def taken(answers: Sequence[Any], pictures: int, classes: int, file: Path) -> Boxes:
    """Return the answers for so many pictures as boxes. Raises DataLoss for any that cannot be.

    answers: in the order of OUTPUTS. classes: how many there are. file: where they come from.
    """
    fault = _fault_of_form(answers, pictures) or next(_faults_of_values(Boxes(*answers), pictures, classes), "")
    if fault:
        raise DataLoss(f"{file} answers {pictures} pictures with {fault}; pull the model again", file=file)
    rows, boxes, scores, kinds = answers
    return Boxes(rows.astype(np.int64), boxes.astype(np.float64), scores.astype(np.float64), kinds.astype(np.int64))


def joined(parts: Iterable[tuple[int, Boxes]]) -> Boxes:
    """Return the boxes of some batches as one. parts: the number of a batch's first picture, and its boxes."""
    moved = [boxes._replace(pictures=boxes.pictures + first) for first, boxes in parts]
    return Boxes(*(np.concatenate(each) for each in zip(*moved, strict=True)))


def missing(expected: Boxes, found: Boxes, least: float) -> int:
    """Return how many expected boxes with an area, surer than `least`, have no counterpart of their own.

    A counterpart has the class, an IoU of at least GOLDEN_IOU and, but for GOLDEN_SCORE_TOLERANCE, the score.
    """
    lacking, free = 0, np.ones(len(found.scores), bool)
    there = (expected.boxes[:, 2:] > expected.boxes[:, :2]).all(axis=1)
    for picture, box, score, kind in zip(*expected.of(there & (expected.scores > least)), strict=True):
        near = free & (found.pictures == picture) & (found.classes == kind)
        near &= np.abs(found.scores - score) <= GOLDEN_SCORE_TOLERANCE
        places = np.flatnonzero(near)
        overlaps = iou(box, found.boxes[places])
        if not overlaps.max(initial=0) >= GOLDEN_IOU:
            lacking += 1
        else:
            free[places[overlaps.argmax()]] = False
    return lacking


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return float [K], the area that a box [4] shares with each of [K, 4], as part of what both cover.

    >>> iou(np.array([0, 0, 2, 2]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])).round(4).tolist()
    [1.0, 0.3333, 0.0]
    """
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    covered = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    shares: np.ndarray = np.divide(shared, covered, out=np.zeros(len(others)), where=covered > 0)
    return shares


def _fault_of_form(answers: Sequence[Any], pictures: int) -> str:
    if not all(isinstance(one, np.ndarray) for one in answers):
        return "something else than tensors"
    rows, boxes, scores, classes = answers
    count = len(scores) if scores.ndim else 0
    if not (rows.shape == scores.shape == classes.shape == (count,) and boxes.shape == (count, 4)):
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in zip(OUTPUTS, answers, strict=True))
        return f"{shapes}; expected boxes [K, 4], and [K] of the others"
    if not (rows.dtype.kind in "iu" and classes.dtype.kind in "iu" and boxes.dtype.kind == scores.dtype.kind == "f"):
        kinds = ", ".join(f"{name} {one.dtype}" for name, one in zip(OUTPUTS, answers, strict=True))
        return f"{kinds}; expected whole numbers, and floats as boxes and scores"
    if count > MOST_BOXES * pictures:
        return f"{count} boxes; at most {MOST_BOXES} of a picture are taken"
    return ""


def _faults_of_values(answers: Boxes, pictures: int, classes: int) -> Iterator[str]:
    if not (np.isfinite(answers.boxes).all() and np.isfinite(answers.scores).all()):
        yield "boxes or scores that are no numbers"
    if _beyond(answers.scores, 0, 1):
        yield f"scores of {_range(answers.scores)}; expected 0 to 1"
    if _beyond(answers.pictures, 0, pictures - 1):
        yield f"boxes of the pictures {_range(answers.pictures)}; expected 0 to {pictures - 1}"
    if _beyond(answers.classes, 0, classes - 1):
        yield f"the classes {_range(answers.classes)}; expected 0 to {classes - 1}, the labels of model.json"
    if _beyond(answers.boxes, -FARTHEST, 1 + FARTHEST):
        yield f"boxes with corners at {_range(answers.boxes)}; expected 0 to 1, in parts of the picture"
    if (answers.boxes[:, 2:] < answers.boxes[:, :2]).any():
        yield "boxes whose second corner is before the first; expected x0, y0, x1, y1"


def _beyond(values: np.ndarray, low: float, high: float) -> bool:
    return bool(values.size and (values.min() < low or values.max() > high))


def _range(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"
