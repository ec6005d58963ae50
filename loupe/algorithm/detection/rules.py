"""The rules of detection: boxes to learn from and to measure by, rounds told by their average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loupe.algorithm.dataset import Dataset, UnusableData
from loupe.algorithm.host import Split
from loupe.tasks.detection import MAP, MAP50
from loupe.tasks.objective import Objective, spoken


class DetectionRules:
    """TaskRules of detection."""

    def check(self, data: Dataset) -> None:
        """Raise UnusableData without boxes in training pictures and in validation pictures."""
        for name, split in (("training", Split.TRAIN), ("validation", Split.VALIDATION)):
            if not data.region_counts(split).any():
                raise UnusableData(
                    f"{data.name} has no boxes in its {name} pictures; annotate some there, as nothing can be learned "
                    "or measured without them"
                )

    def sentence(self, objective: Objective, figures: Mapping[str, float], score: float) -> str:
        """Return the score, and the other figures."""
        others = [f"{spoken(name)} {value:.2%}" for name, value in figures.items() if name != objective.metric]
        return ", ".join([f"{spoken(objective.metric)} {score:.2%}", *others])

    def summary(self, split: Mapping[str, Any]) -> str:
        """Return both average precisions."""
        counted = f"{split['pictures']} pictures with {split['regions']} boxes"
        return f"mAP50 {split[MAP50]:.2%}, mAP {split[MAP]:.2%}, {counted}"

    def tells_score(self, objective: Objective) -> bool:
        """Say so always."""
        return True
