"""Whether the ONNX model finds what the trained network finds, picture by picture, box by box."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from loupe.algorithm.detection.export import (
    LEAST_SCORE,
    MOST_OVERLAP,
    FlatDetector,
    FoundBy,
    joined,
    select,
)
from loupe.algorithm.detection.measures import iou
from loupe.algorithm.export import Preprocessing, predict_torch
from loupe.algorithm.onnx_model import OnnxModel, batched
from loupe.algorithm.package import TOLERANCE, ExportMismatch
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions

LONGEST_SECONDS = 60.0
_BATCH = 8
_IOU_TOLERANCE = 0.01
"""How far the overlap of two boxes may be off where their corners are off by TOLERANCE and they are not tiny."""
_LONGEST_CHAIN = 4


def check_parity(
    network: torch.nn.Module,
    flat: OnnxModel,
    found_by: FoundBy,
    preprocessing: Preprocessing,
    *,
    pictures: np.ndarray,
    indices: np.ndarray,
    device: torch.device,
    anchors: int,
    classes: int,
) -> dict[str, Any]:
    """Compare the trained network with both ONNX models on pictures[indices]; return JSON-able figures.

    flat: the exported network, before boxes are selected. found_by: the whole model. After LONGEST_SECONDS no more
    pictures are taken: torch takes long where a network calls thousands of boxes sure. Raises ExportMismatch where a
    number before the selection differs by more than TOLERANCE, or where a box is found by one side alone, and not by
    chance.
    """
    whole, began = FlatDetector(network), time.monotonic()
    differences: list[float] = []
    expected: list[Regions] = []
    got: list[Regions] = []
    batches = batched(indices, _BATCH)
    while batches and (not got or time.monotonic() - began < LONGEST_SECONDS):
        batch = batches.pop()
        said = predict_torch(whole, preprocessing, pictures, batch, device)
        differences.append(_difference(said, flat(pictures[batch])))
        expected.append(select(said, anchors, classes))
        got.append(found_by(pictures[batch]))
    difference, compared = float(np.max(differences)), len(indices) - sum(map(len, batches))
    if not difference <= TOLERANCE:  # also catches NaN
        raise ExportMismatch(
            f"the ONNX model's boxes and scores differ from the trained network's by up to {difference:.2g} "
            f"(at most {TOLERANCE} is taken) on {compared} pictures"
        )
    matched = compare(joined(expected, _BATCH), joined(got, _BATCH), _BATCH * len(got))
    return {"pictures": compared, **matched, "max_difference": difference, "tolerance": TOLERANCE}


def compare(expected: Regions, got: Regions, pictures: int) -> dict[str, int]:
    """Return how many boxes are expected in so many pictures, and how many are found by one side alone, by chance.

    It is chance which box stays where its score is just that from which on boxes count, or that of the last one of a
    picture that has all it may have; where a box of the other side is as sure and overlaps it, or overlaps it just as
    much as is taken; and where such a box overlaps it. Raises ExportMismatch for a box that is alone and not by chance.
    """
    chance = 0
    for picture in range(pictures):
        sides = [each.of(np.array([picture])) for each in (expected, got)]
        alone, by_chance = _alone(*sides)
        for name, side, lonely, excused in zip(
            ("the trained network", "the ONNX model"), sides, alone, by_chance, strict=True
        ):
            if len(wrong := np.flatnonzero(lonely & ~excused)):
                box, score = side.boxes[wrong[0]].round(4).tolist(), _scores(side)[wrong[0]]
                raise ExportMismatch(
                    f"{name} alone finds {len(wrong)} of {len(side)} boxes in picture {picture} of those compared, for "
                    f"example {box} of class {side.classes[wrong[0]]} with the score {score:.4f}"
                )
            chance += int(lonely.sum())
    return {"boxes": len(expected), "by_chance": chance}


def _alone(expected: Regions, got: Regions) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return which boxes of a picture have no counterpart on the other side, and which may have none by chance."""
    same = expected.classes[:, None] == got.classes
    overlaps = np.where(same, iou(expected.boxes, got.boxes), 0.0)
    as_sure = np.abs(_scores(expected)[:, None] - _scores(got)) <= TOLERANCE
    in_place = np.abs(expected.boxes[:, None] - got.boxes).max(axis=2, initial=0.0) <= TOLERANCE
    met = same & as_sure & in_place
    alone = ~met.any(axis=1), ~met.any(axis=0)
    rivals = overlaps > MOST_OVERLAP - _IOU_TOLERANCE
    even = rivals & (as_sure | (overlaps < MOST_OVERLAP + _IOU_TOLERANCE))
    ours, theirs = _at_border(expected) | even.any(axis=1), _at_border(got) | even.any(axis=0)
    for _ in range(_LONGEST_CHAIN):
        ours = ours | (rivals & (alone[1] & theirs)).any(axis=1)
        theirs = theirs | (rivals & (alone[0] & ours)[:, None]).any(axis=0)
    return alone, (ours, theirs)


def _at_border(found: Regions) -> np.ndarray:
    scores = _scores(found)
    least = scores.min(initial=1.0) if len(scores) >= MAX_DETECTIONS else LEAST_SCORE
    return scores <= least + TOLERANCE


def _scores(found: Regions) -> np.ndarray:
    assert found.scores is not None, "what a model found has scores"
    return found.scores


def _difference(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(expected - got).max(initial=0.0)) if expected.shape == got.shape else float("inf")
