"""What the SDK has to know of a task beside what `loupe.tasks` says; a row for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from loupe.algorithm.anomaly.rules import AnomalyRules
from loupe.algorithm.classification.rules import ClassificationRules
from loupe.algorithm.dataset import Dataset
from loupe.algorithm.detection.rules import DetectionRules
from loupe.tasks.anomaly import Anomaly
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.tasks.objective import Objective
from loupe.tasks.task import Task


class TaskRules(Protocol):
    """The rules of one task."""

    def check(self, data: Dataset) -> None:
        """Raise UnusableData where there is too little to learn from, or to measure by."""

    def sentence(self, objective: Objective, figures: Mapping[str, float], score: float) -> str:
        """Return what a round of training came to on the validation pictures, for people.

        figures: metrics of the task by name. score: the objective's.
        """

    def summary(self, split: Mapping[str, Any]) -> str:
        """Return what a report's figures of a split come to, for people."""

    def tells_score(self, objective: Objective) -> bool:
        """Say whether terminals want the objective's metric under a name of its own, "validation_score"."""


_RULES: Mapping[str, TaskRules] = {
    Classification.name: ClassificationRules(),
    Detection.name: DetectionRules(),
    Anomaly.name: AnomalyRules(),
}


def rules_of(task: Task) -> TaskRules:
    """Return the rules of a task."""
    return _RULES[task.name]
