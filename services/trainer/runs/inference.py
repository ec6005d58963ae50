"""What a model says of pictures: read with mistrust, counted or written down here, outside of the sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loupe.algorithm.evaluation import calibration_error_of, evaluate_answers
from loupe.algorithm.host import Split
from loupe.errors import BadDataset
from loupe.job_kinds import JobKind, PictureSelection
from loupe.letterbox import from_square
from loupe.tasks.anomaly import Anomaly, good_label
from loupe.tasks.anomaly_scores import HALF, as_ranks, evaluate
from loupe.tasks.average_precision import Regions
from loupe.tasks.average_precision import evaluate as evaluate_regions
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.tasks.task import Task
from services.trainer.attempts.spec import AnsweringModel
from services.trainer.clients.storage import LocalFile
from services.trainer.runs import intake
from services.trainer.runs.answers import Collect
from services.trainer.runs.task_data import TaskData

PREDICTIONS_FILE = "predictions.jsonl"
_SPLITS = {
    PictureSelection.TEST: (Split.TEST,),
    PictureSelection.VALIDATION: (Split.VALIDATION,),
    PictureSelection.TRAIN: (Split.TRAIN,),
    PictureSelection.LABELLED: (Split.TRAIN, Split.VALIDATION, Split.TEST),
    PictureSelection.UNLABELLED: (Split.UNLABELLED,),
    PictureSelection.ALL: tuple(Split),
}
_DIGITS = 6

Sizes = Callable[[Sequence[str]], Awaitable[np.ndarray]]
"""Returns int64 [K, 2], width and height of pictures by their digests."""


def asked_about(data: TaskData, pictures: PictureSelection, labels: Sequence[str]) -> TaskData:
    """Return the pictures that a model is asked about, all of them as test pictures, and nothing of the others.

    labels: the model's. Classes are matched by name: those that the model does not know come behind its own. Raises
    BadDataset where there is no such picture.
    """
    rows = np.flatnonzero(np.isin(data.splits, _SPLITS[pictures]))
    if not len(rows):
        raise BadDataset(f"{data.name} has no {pictures} pictures", problem="no_pictures", dataset_version=data.name)
    joint = list(dict.fromkeys([*labels, *data.labels]))
    places = {label: number for number, label in enumerate(joint)}
    place = np.array([places[each] for each in data.labels] + [-1], np.int64)  # at the end, where NO_CLASS points
    regions = None
    if data.regions is not None:
        shown = data.regions.of(rows)
        regions = Regions(shown.pictures, place[shown.classes], shown.boxes)
    return TaskData(
        data.name,
        joint,
        place[data.classes[rows]].astype(np.int32),
        np.full(len(rows), Split.TEST, np.uint8),
        [data.digests[row] for row in rows.tolist()],
        regions,
    )


@dataclass(frozen=True)
class Answered:
    """What the answers of a run came to: a report, JSON-able, and files that are to be kept."""

    report: Mapping[str, Any]
    files: tuple[LocalFile, ...] = ()


class Inference:
    """Takes a run's answers for the pictures of `data`, which `asked_about` made.

    sizes: of pictures, as far as they are needed. target: where the trainer's own files go.
    """

    def __init__(
        self,
        kind: JobKind,
        pictures: PictureSelection,
        task: Task,
        model: AnsweringModel,
        data: TaskData,
        *,
        sizes: Sizes,
        target: Path,
    ) -> None:
        self._kind = kind
        self._pictures = pictures
        self._answers = _ANSWERS[task.name](model, data)
        self._model = model
        self._data = data
        self._needs_sizes = task.regions
        self._sizes = sizes
        self._target = target

    async def take(self, arguments: Mapping[str, Any], collect: Collect) -> Answered:
        """Read the answers and return what they come to. Raises ProtocolBroken or BadFile for such that cannot be."""
        count = len(self._data.digests)
        path = await collect(intake.relative(arguments.get("file")), intake.detections_bytes(count))
        await asyncio.to_thread(self._answers.read, path)
        if self._kind is JobKind.EVALUATE:
            return Answered(await asyncio.to_thread(self._evaluation))
        sizes = await self._sizes(self._data.digests) if self._needs_sizes else np.ones((count, 2), np.int64)
        return await asyncio.to_thread(self._predictions, sizes)

    def _evaluation(self) -> dict[str, Any]:
        return {
            "labels": list(self._data.labels),
            "pictures": str(self._pictures),
            "evaluation": self._answers.figures(),
            "unknown_labels": self._answers.unknown(),
        }

    def _predictions(self, sizes: np.ndarray) -> Answered:
        """Write the answers down, a line for each picture."""
        self._target.mkdir(parents=True, exist_ok=True)
        path, digest, size = self._target / PREDICTIONS_FILE, hashlib.sha256(), 0
        counts: Counter[str] = Counter()
        with path.open("xb") as file:
            for picture, answer in zip(self._data.digests, self._answers.rows(sizes, counts), strict=True):
                line = json.dumps({"picture": picture, **answer}, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                size += len(line)
                file.write(line)
        report = {
            "labels": list(self._model.labels),
            "pictures": str(self._pictures),
            "predictions": {"pictures": len(self._data.digests), "counts": dict(counts)},
        }
        return Answered(report, (LocalFile(PREDICTIONS_FILE, path, digest.hexdigest(), size),))


class _Answers(Protocol):
    """The answers for the pictures of one task."""

    def read(self, path: Path) -> None:
        """Read them from a copy of the run's file. Raises ProtocolBroken."""

    def figures(self) -> dict[str, Any]:
        """Return what they are worth, as a report has it of a split. Raises BadDataset where none can be measured."""

    def unknown(self) -> list[str]:
        """Return the classes of the pictures that the model does not know, where it cannot be right on these."""

    def rows(self, sizes: np.ndarray, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield what is said of each picture, JSON-able, and count it. sizes: [N, 2], of the upright pictures."""


class _Classes:
    """A class for each picture, and how sure it is."""

    def __init__(self, model: AnsweringModel, data: TaskData) -> None:
        self._known, self._data = len(model.labels), data
        self._said, self._confidences = np.zeros(0, np.int64), np.zeros(0)

    def read(self, path: Path) -> None:
        found = intake.whole_answers(path, len(self._data.digests), self._known)
        self._said, self._confidences = found.classes, _scores(found)

    def figures(self) -> dict[str, Any]:
        classes = self._data.classes.astype(np.int64)
        figures = evaluate_answers(self._said, classes, self._data.labels)
        return figures | {"calibration_error": calibration_error_of(self._confidences, self._said == classes)}

    def unknown(self) -> list[str]:
        return _beyond(self._data, self._known, self._data.classes)

    def rows(self, sizes: np.ndarray, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        names = [self._data.labels[number] for number in self._said.tolist()]
        for name, confidence in zip(names, self._confidences.tolist(), strict=True):
            counts[name] += 1
            yield {"label": name, "confidence": round(confidence, _DIGITS)}


class _Scores:
    """How far each picture is from good parts, and whether that is bad."""

    def __init__(self, model: AnsweringModel, data: TaskData) -> None:
        self._labels, self._data = model.labels, data
        self._good = str(model.parameters.get("good") or "")
        self._bad, self._scores = np.zeros(0, bool), np.zeros(0)

    def read(self, path: Path) -> None:
        found = intake.whole_answers(path, len(self._data.digests), 2, bounded=False)
        self._bad, self._scores = found.classes == 1, _scores(found)

    def figures(self) -> dict[str, Any]:
        try:
            good = list(self._labels).index(good_label(self._labels, self._good))
        except ValueError as error:
            raise BadDataset(
                f"the model does not say which parts are good: {error}", problem="no_good_class"
            ) from error
        ranks = as_ranks(self._scores, self._bad)
        return evaluate(ranks, self._data.classes.astype(np.int64), self._data.labels, good, HALF - 1)

    def unknown(self) -> list[str]:
        return []

    def rows(self, sizes: np.ndarray, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        for bad, score in zip(self._bad.tolist(), self._scores.tolist(), strict=True):
            counts["bad" if bad else "good"] += 1
            yield {"bad": bad, "score": round(score, _DIGITS)}


class _Boxes:
    """Boxes in pictures, each with a class and how sure it is."""

    def __init__(self, model: AnsweringModel, data: TaskData) -> None:
        self._known, self._data = len(model.labels), data
        self._found = Regions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))

    def read(self, path: Path) -> None:
        self._found = intake.detections(path, len(self._data.digests), self._known, method="answers")

    def figures(self) -> dict[str, Any]:
        truth = self._data.regions
        if truth is None or not len(truth):
            name = self._data.name
            raise BadDataset(
                f"{name} has no boxes in these pictures to measure by", problem="no_regions", dataset_version=name
            )
        return evaluate_regions(truth, self._found, len(self._data.digests), self._data.labels)

    def unknown(self) -> list[str]:
        return [] if self._data.regions is None else _beyond(self._data, self._known, self._data.regions.classes)

    def rows(self, sizes: np.ndarray, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        found = self._found
        boxes = from_square(found.boxes.astype(np.float64), sizes[found.pictures]).clip(0, 1).round(_DIGITS)
        kept = np.flatnonzero((boxes[:, :2] < boxes[:, 2:]).all(axis=1))
        ends = np.searchsorted(found.pictures[kept], np.arange(len(sizes) + 1))
        scores = _scores(found)
        for first, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            rows = kept[first:end]
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            names = [self._data.labels[kind] for kind in found.classes[rows].tolist()]
            counts.update(names)
            yield {
                "found": [
                    {"label": name, "confidence": round(score, _DIGITS), "box": corners}
                    for name, score, corners in zip(names, scores[rows].tolist(), boxes[rows].tolist(), strict=True)
                ]
            }


def _scores(found: Regions) -> np.ndarray:
    assert found.scores is not None, "what a model says has scores"
    return found.scores.astype(np.float64)


def _beyond(data: TaskData, known: int, classes: np.ndarray) -> list[str]:
    return [data.labels[number] for number in np.unique(classes).tolist() if number >= known]


_ANSWERS: Mapping[str, Callable[[AnsweringModel, TaskData], _Answers]] = {
    Classification.name: _Classes,
    Detection.name: _Boxes,
    Anomaly.name: _Scores,
}
"""By the name of the task."""
