"""The rules of anomaly: good pictures to learn from and to set a threshold by; rounds told by what bad ones show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loupe.algorithm.dataset import Dataset, UnusableData
from loupe.algorithm.host import Split
from loupe.tasks.anomaly import AUROC, RECALL, good_label
from loupe.tasks.objective import Objective, shown_share, spoken


class AnomalyRules:
    """TaskRules of anomaly."""

    def check(self, data: Dataset) -> None:
        """Raise UnusableData without labelled pictures for training and for validation."""
        for name, indices in (("training", data.train), ("validation", data.validation)):
            if len(indices) == 0:
                raise UnusableData(f"{data.name} has no {name} pictures among its {len(data)}; give each split some")
            used = data.classes[indices]
            if used.min() < 0 or used.max() >= len(data.labels):
                raise UnusableData(f"{data.name} has {name} pictures without one of its {len(data.labels)} labels")

    def sentence(self, objective: Objective, figures: Mapping[str, float], score: float) -> str:
        """Return the figures; the score alone where there are none."""
        told = figures or {objective.metric: score}
        return ", ".join(f"{spoken(name)} {shown_share(value)}" for name, value in told.items())

    def summary(self, split: Mapping[str, Any]) -> str:
        """Return what was measured on how many pictures."""
        bad = split["pictures"] - split["good_pictures"]
        figures = {name: split[name] for name in (AUROC, RECALL) if split[name] is not None}
        if split["false_alarms"] is not None:
            figures["false_alarms"] = split["false_alarms"]
        told = ", ".join(f"{spoken(name)} {shown_share(value)}" for name, value in figures.items())
        return f"{told}, {split['good_pictures']} pictures of good parts and {bad} of bad ones"

    def tells_score(self, objective: Objective) -> bool:
        """Say so always."""
        return True


def good_class(data: Dataset, named: str = "") -> int:
    """Return which of data.labels is that of the good parts. named: the job's parameter `good`; may be empty.

    Raises UnusableData where there is no such class, or where it has no training or no validation pictures.
    """
    try:
        number = list(data.labels).index(label := good_label(data.labels, named))
    except ValueError as error:
        raise UnusableData(f"{data.name}: {error}") from error
    for name, split in (("training", Split.TRAIN), ("validation", Split.VALIDATION)):
        if not data.class_counts(split)[number]:
            raise UnusableData(f"{data.name} has no {name} pictures of {label!r}, the class of the good parts")
    return number
