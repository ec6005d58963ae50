"""The demo's last scene, one for each kind of model: the terminal answers the held-out pictures with its own copy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deploy.demo.story import Story
from loupe.storage.v1 import dataset_pb2
from loupe.tasks.average_precision import Regions, evaluate
from loupe.tasks.classification import ACCURACY, BALANCED_ACCURACY, Scorer
from loupe.tasks.detection import OVERALL
from loupe.terminal.annotation_messages import annotations_of
from loupe.terminal.classifier import Classifier
from loupe.terminal.confusion import Confusion, ConfusionView
from loupe.terminal.detector import Detections, Detector
from loupe.terminal.drawing import Drawings
from loupe.terminal.tables import percent

DRAWN = 12
"""So many held-out pictures are drawn."""

HeldOut = Sequence[tuple[Path, dataset_pb2.DatasetItem]]
Answer = Callable[[Story, Path, HeldOut], Awaitable[None]]


async def classify(story: Story, model: Path, held_out: HeldOut) -> None:
    """Classify every picture with the terminal's own classifier."""
    classifier = await asyncio.to_thread(Classifier, model)
    began = time.perf_counter()
    answers = await asyncio.to_thread(lambda: list(classifier.classify([path for path, _ in held_out])))
    seconds = time.perf_counter() - began
    matrix = [[0] * len(classifier.labels) for _ in classifier.labels]
    for (_, item), answer in zip(held_out, answers, strict=True):
        matrix[classifier.labels.index(item.label)][classifier.labels.index(answer.label)] += 1
    right, pictures = [row[index] for index, row in enumerate(matrix)], [sum(row) for row in matrix]
    for metric in (ACCURACY, BALANCED_ACCURACY):
        story.figures[metric] = Scorer(metric).of_counts(right, pictures)
    story.score = story.figures[ACCURACY]
    story.console.print(ConfusionView(Confusion(classifier.labels, matrix)))
    story.conclude(f"{percent(story.score)} of {len(held_out)} pictures right", seconds / max(1, len(held_out)))


async def detect(story: Story, model: Path, held_out: HeldOut) -> None:
    """Look for flaws in every picture with the terminal's own detector, and draw some."""
    detector = await asyncio.to_thread(lambda: Detector(model, min_confidence=0.0))
    began = time.perf_counter()
    answers = await asyncio.to_thread(lambda: list(detector.detect([path for path, _ in held_out])))
    seconds = time.perf_counter() - began
    figures = evaluate(_annotated(held_out, detector.labels), _found(answers, detector.labels), len(held_out),
                       detector.labels)  # fmt: skip
    story.figures |= {metric: figures[metric] for metric in OVERALL}
    story.score = figures[OVERALL[0]]
    for row in figures["per_class"]:
        story.console.print(f"  {row['label']}: AP50 {percent(row['ap50'])} of {row['regions']} boxes", highlight=False)
    story.conclude(
        f"mAP50 {percent(figures['map50'])}, mAP {percent(figures['map'])} on {len(held_out)} pictures",
        seconds / max(1, len(held_out)),
    )
    sure = await asyncio.to_thread(Detector, model)
    drawings = Drawings(story.drawings, sure.labels)
    for answer in await asyncio.to_thread(lambda: list(sure.detect([path for path, _ in held_out[:DRAWN]]))):
        await asyncio.to_thread(drawings.write, answer)
    story.console.print(f"  what it finds in {min(DRAWN, len(held_out))} of them is drawn in {story.drawings}")


def _annotated(held_out: HeldOut, labels: Sequence[str]) -> Regions:
    rows = [
        (number, labels.index(annotation.label), annotation.bounds)
        for number, (_, item) in enumerate(held_out)
        for annotation in annotations_of(item)
    ]
    return _regions(rows)


def _found(answers: Sequence[Detections], labels: Sequence[str]) -> Regions:
    rows = [(number, labels.index(one.label), one.box) for number, answer in enumerate(answers) for one in answer.found]
    scores = [one.confidence for answer in answers for one in answer.found]
    return _regions(rows, np.array(scores, dtype=np.float32))


def _regions(rows: Sequence[tuple[int, int, Sequence[float]]], scores: np.ndarray | None = None) -> Regions:
    pictures, classes = (np.array([row[column] for row in rows], dtype=np.int64) for column in (0, 1))
    boxes = np.array([row[2] for row in rows], dtype=np.float32).reshape(-1, 4)
    return Regions(pictures, classes, boxes, scores)


ANSWERS: Mapping[str, Answer] = {"classify": classify, "detect": detect}
"""By the terminal's command that answers with such a model."""
