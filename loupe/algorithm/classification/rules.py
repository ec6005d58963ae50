"""The rules of classification: pictures of two classes at least, rounds told by their accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from loupe.algorithm.dataset import Dataset, UnusableData
from loupe.tasks.classification import ACCURACY
from loupe.tasks.objective import Objective, spoken


class ClassificationRules:
    """TaskRules of classification."""

    def check(self, data: Dataset) -> None:
        """Raise UnusableData without two classes to learn from, and pictures to measure by."""
        if len(data.labels) < 2:
            raise UnusableData(
                f"{data.name} has {len(data.labels)} classes ({', '.join(data.labels)}); at least two are needed"
            )
        for name, indices in (("training", data.train), ("validation", data.validation)):
            if len(indices) == 0:
                raise UnusableData(
                    f"{data.name} has no {name} pictures among its {len(data)}; "
                    "accuracy cannot be measured without them, so give each split some"
                )
            used = data.classes[indices]
            if used.min() < 0 or used.max() >= len(data.labels):
                raise UnusableData(f"{data.name} has {name} pictures without one of its {len(data.labels)} labels")
        if np.count_nonzero(data.class_counts()) < 2:
            raise UnusableData(f"all training pictures of {data.name} are of one class; at least two are needed")

    def sentence(self, objective: Objective, figures: Mapping[str, float], score: float) -> str:
        """Return the accuracy, and the score where it is another figure."""
        said = f"{figures[ACCURACY]:.2%} of the validation pictures"
        return said + (f", {spoken(objective.metric)} {score:.2%}" if self.tells_score(objective) else "")

    def summary(self, split: Mapping[str, Any]) -> str:
        """Return the three accuracies."""
        low, high = split["accuracy_interval"]
        return (
            f"accuracy {split['accuracy']:.2%} ({low:.2%} to {high:.2%}), balanced {split['balanced_accuracy']:.2%}, "
            f"lowest recall {split['lowest_recall']:.2%}, {split['pictures']} pictures"
        )

    def tells_score(self, objective: Objective) -> bool:
        """Say so where it is not the accuracy, which terminals know by its name."""
        return objective.metric != ACCURACY
