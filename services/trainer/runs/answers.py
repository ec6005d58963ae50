"""What a run's final model says of the test pictures, counted here before the run sees what is right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from loupe.tasks.anomaly import Anomaly, good_label
from loupe.tasks.anomaly_scores import count_answers
from loupe.tasks.average_precision import Regions, checked, evaluate
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.tasks.task import Task
from services.trainer.runs import intake
from services.trainer.runs.job_folder import JobFolder
from services.trainer.runs.task_data import TaskData
from services.trainer.sandbox.channel import ProtocolBroken

SCORES = 1 << 16
"""So many different answers there are where a score is told."""

Collect = Callable[[PurePosixPath, int], Awaitable[Path]]
"""Takes a file of at most so many bytes out of a run's work folder, out of its reach. Raises BadFile."""


class Answers(Protocol):
    """Counts the answers of one kind. Nothing that a run sends is believed."""

    async def count(self, arguments: Mapping[str, Any], data: TaskData, collect: Collect) -> dict[str, Any]:
        """Return what is counted, JSON-able. Raises ProtocolBroken or BadFile for answers that cannot be."""

    def reveal(self, data: TaskData, folder: JobFolder) -> str:
        """Put what is right into the run's folder, and return the file's name."""


def answers_to(task: Task, parameters: Mapping[str, Any]) -> Answers:
    """Return how the answers of a job are counted. parameters: the job's."""
    return _ANSWERS[task.name](parameters)


class _OfPictures:
    """A class for each test picture."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        pass

    async def count(self, arguments: Mapping[str, Any], data: TaskData, collect: Collect) -> dict[str, Any]:
        truth = data.classes[data.test]
        said = intake.answers(arguments, len(truth), len(data.labels))
        counted = (truth, truth[truth == said])
        pictures, right = (np.bincount(each, minlength=len(data.labels)).tolist() for each in counted)
        return {"labels": list(data.labels), "right": right, "pictures": pictures}

    def reveal(self, data: TaskData, folder: JobFolder) -> str:
        return folder.reveal_classes(data.classes)


class _OfScores:
    """How far each test picture is from good parts, and whether that is called bad, as one number below 2^16."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._good = str(parameters.get("good") or "")

    async def count(self, arguments: Mapping[str, Any], data: TaskData, collect: Collect) -> dict[str, Any]:
        truth = data.classes[data.test]
        said = intake.answers(arguments, len(truth), SCORES)
        try:
            good = list(data.labels).index(good_label(data.labels, self._good))
        except ValueError as error:
            raise ProtocolBroken(f"reveal_test: {error}") from error
        return count_answers(said, truth, data.labels, good)

    def reveal(self, data: TaskData, folder: JobFolder) -> str:
        return folder.reveal_classes(data.classes)


class _OfRegions:
    """Boxes in the test pictures, in a file."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        pass

    async def count(self, arguments: Mapping[str, Any], data: TaskData, collect: Collect) -> dict[str, Any]:
        pictures = len(data.test)
        path = await collect(intake.relative(arguments.get("file")), intake.detections_bytes(pictures))
        found = await asyncio.to_thread(intake.detections, path, pictures, len(data.labels))
        truth = _regions(data).of(data.test)
        return await asyncio.to_thread(_counted, truth, found, data)

    def reveal(self, data: TaskData, folder: JobFolder) -> str:
        return folder.reveal_regions(_regions(data))


def _regions(data: TaskData) -> Regions:
    assert data.regions is not None, "a task about regions has them"
    return data.regions


def _counted(truth: Regions, found: Regions, data: TaskData) -> dict[str, Any]:
    """Return for each class its regions and its average precision times these; without figures where there are none."""
    none = [0] * len(data.labels)
    said: dict[str, Any] = {"labels": list(data.labels), "right": none, "pictures": none, "figures": {}}
    if len(truth):
        counts = checked(evaluate(truth, found, len(data.test), data.labels))
        said |= {"right": list(counts.right), "pictures": list(counts.cases), "figures": dict(counts.figures)}
    return {**said, "test_pictures": len(data.test)}


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any]], Answers]] = {
    Classification.name: _OfPictures,
    Detection.name: _OfRegions,
    Anomaly.name: _OfScores,
}
"""By the name of the task."""
