"""How good a detector's boxes are: COCO's average precision, by pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe.tasks.detection import MAP, MAP50
from loupe.tasks.task import Checked

WORST_CLASSES = 5
MAX_DETECTIONS = 100
"""The most boxes of a picture that count, the surest ones."""

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Regions:
    """M boxes in some pictures, ordered by picture.

    pictures: int64 [M], the picture of each. classes: int64 [M]. boxes: float32 [M, 4], x_min, y_min, x_max, y_max in
    one unit for all. scores: float32 [M], how sure a model is of each, 0..1; None for annotations.
    """

    pictures: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def where(self, chosen: np.ndarray) -> Regions:
        """Return the regions that bool [M] chooses."""
        scores = None if self.scores is None else self.scores[chosen]
        return Regions(self.pictures[chosen], self.classes[chosen], self.boxes[chosen], scores)

    def of(self, pictures: np.ndarray) -> Regions:
        """Return the regions of some pictures, each numbered by its place among them."""
        place = np.full(1 + max(self.pictures.max(initial=-1), pictures.max(initial=-1)), -1, dtype=np.int64)
        place[pictures] = np.arange(len(pictures))
        found = place[self.pictures]
        kept = np.flatnonzero(found >= 0)
        kept = kept[np.argsort(found[kept], kind="stable")]
        scores = None if self.scores is None else self.scores[kept]
        return Regions(found[kept], self.classes[kept], self.boxes[kept], scores)


def evaluate(truth: Regions, found: Regions, pictures: int, labels: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a split, JSON-able; rates are parts of 1.

    truth, found: the annotations of so many pictures, numbered from 0, and what a model found there, with scores.
    map50, map: as `loupe.tasks.detection` has them; a class without annotations counts in neither. per_class: of each
    class its label, ap50, ap, and the number of its annotations as `regions`. Raises ValueError where there is no
    annotation to measure by.
    """
    precision = _precision(truth, found, pictures, len(labels))
    regions = np.bincount(truth.classes, minlength=len(labels))
    known = regions > 0
    if not known.any():
        raise ValueError("there is no annotation to measure average precision by")
    ap50, ap = precision[0].mean(axis=0), precision.mean(axis=(0, 1))
    return {
        "pictures": pictures,
        "regions": int(regions.sum()),
        MAP50: float(ap50[known].mean()),
        MAP: float(ap[known].mean()),
        "worst_classes": _worst(ap50, known, labels),
        "per_class": [
            {
                "label": label,
                "ap50": round(float(ap50[number]), 6) if known[number] else 0.0,
                "ap": round(float(ap[number]), 6) if known[number] else 0.0,
                "regions": int(regions[number]),
            }
            for number, label in enumerate(labels)
        ],
    }


def _worst(ap50: np.ndarray, known: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Return up to WORST_CLASSES labels of least average precision, those that are always right left out."""
    return [labels[each] for each in np.argsort(ap50, kind="stable") if known[each] and ap50[each] < 1 - 1e-6][
        :WORST_CLASSES
    ]


def checked(figures: dict[str, Any]) -> Checked:
    """Return the figures of test pictures as what was counted of a model's answers."""
    rows = figures["per_class"]
    return Checked(
        labels=[row["label"] for row in rows],
        right=[row["ap50"] * row["regions"] for row in rows],
        cases=[row["regions"] for row in rows],
        figures={name: figures[name] for name in (MAP50, MAP)},
        pictures=figures["pictures"],
    )


def _precision(truth: Regions, found: Regions, pictures: int, classes: int) -> np.ndarray:
    """Return float [10 IoUs, 101 recalls, classes]; -1 for a class without annotations."""
    from pycocotools import coco, cocoeval

    # Its modules alone see this in place of the builtin; stdout belongs to all threads of a service.
    coco.print = cocoeval.print = _say_nothing
    heading = {
        "info": {},
        "images": [{"id": number} for number in range(pictures)],
        "categories": [{"id": number} for number in range(classes)],
    }
    known, said = coco.COCO(), coco.COCO()
    known.dataset = {**heading, "annotations": _rows(truth)}
    known.createIndex()
    said.dataset = {**heading, "annotations": _rows(found)}
    said.createIndex()
    evaluation = cocoeval.COCOeval(known, said, "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0, 0]
    return precision


def _say_nothing(*words: object) -> None:
    """Stand in for print."""


def _rows(regions: Regions) -> list[dict[str, Any]]:
    boxes = regions.boxes.astype(np.float64)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    rows = [
        {"id": number, "image_id": picture, "category_id": kind, "bbox": side, "area": side[2] * side[3], "iscrowd": 0}
        for number, (picture, kind, side) in enumerate(
            zip(regions.pictures.tolist(), regions.classes.tolist(), sides.tolist(), strict=True), start=1
        )
    ]
    if regions.scores is not None:
        for row, score in zip(rows, regions.scores.tolist(), strict=True):
            row["score"] = score
    return rows
