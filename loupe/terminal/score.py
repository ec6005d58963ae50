"""How often a model was right about pictures whose class is known: a folder per class, counted as they are answered."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.proportions import wilson_interval
from loupe.tasks.classification import BALANCED_ACCURACY, Scorer
from loupe.terminal.classifier import Prediction
from loupe.terminal.confusion import MOST_CLASSES, worst_pairs


@dataclass(frozen=True)
class Truth:
    """What pictures are said to show, by the folders that they lie in.

    by_name: the number of each class. strange: the folders that are no class of the model.
    """

    folder: Path
    by_name: Mapping[str, int]
    strange: Sequence[str]

    def class_of(self, path: Path) -> int | None:
        """Return the number of the class whose folder a picture lies in; None outside of all."""
        try:
            parts = path.relative_to(self.folder).parts
        except ValueError:
            return None
        return self.by_name.get(_same(parts[0])) if len(parts) > 1 else None


def truth_of(folder: Path, pictures: Iterable[Path], labels: Sequence[str]) -> Truth | None:
    """Return what the folders say of the pictures below `folder`; None where none of them is named as a class.

    labels: those of the model; with more than MOST_CLASSES of them nothing is scored. Names are compared in Unicode's
    composed form.
    """
    if len(labels) > MOST_CLASSES:
        return None
    numbers = {_same(label): index for index, label in enumerate(labels)}
    tops = {path.relative_to(folder).parts[0] for path in pictures if len(path.relative_to(folder).parts) > 1}
    if not any(_same(top) in numbers for top in tops):
        return None
    return Truth(folder, numbers, sorted(top for top in tops if _same(top) not in numbers))


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class Score:
    """Counts answers by true class and answer.

    Pictures that were answered with "unknown" are counted on their own, by their class: the accuracy, the balanced
    accuracy and the matrix are about those that got a class. Unreadable ones count nowhere but in `unreadable`.
    """

    def __init__(self, truth: Truth, labels: Sequence[str]) -> None:
        self.truth = truth
        self.labels = list(labels)
        self.matrix = [[0] * len(labels) for _ in labels]
        self.unknown = [0] * len(labels)
        self.unreadable = 0
        self._numbers = {label: index for index, label in enumerate(labels)}

    def add(self, prediction: Prediction) -> int | None:
        """Count an answer and return the true class of its picture; None when that is not known."""
        true = self.truth.class_of(prediction.path)
        if true is None:
            return None
        if prediction.problem:
            self.unreadable += 1
        elif prediction.unknown:
            self.unknown[true] += 1
        else:
            self.matrix[true][self._numbers[prediction.label]] += 1
        return true

    @property
    def answered(self) -> int:
        """The number of pictures that got a class."""
        return sum(map(sum, self.matrix))

    @property
    def right(self) -> int:
        """The number of pictures that got their own class."""
        return sum(row[index] for index, row in enumerate(self.matrix))

    @property
    def accuracy(self) -> float:
        """The share of the answered pictures that are right; NaN where none was answered."""
        return self.right / self.answered if self.answered else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return wilson_interval(self.right, self.answered)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes that occur of the share that is right; NaN where none was answered."""
        if not self.answered:
            return math.nan
        right = [row[index] for index, row in enumerate(self.matrix)]
        return Scorer(BALANCED_ACCURACY).of_counts(right, [sum(row) for row in self.matrix])

    def document(self) -> dict[str, Any]:
        """Return all of it for programs; figures that do not exist are null."""
        answered = self.answered
        return {
            "pictures": answered + sum(self.unknown) + self.unreadable,
            "answered": answered,
            "right": self.right,
            "unknown": sum(self.unknown),
            "unreadable": self.unreadable,
            "accuracy": self.accuracy if answered else None,
            "accuracy_interval": list(self.interval) if answered else None,
            "balanced_accuracy": self.balanced_accuracy if answered else None,
            "labels": self.labels,
            "confusion_matrix": self.matrix,
            "unknown_per_class": self.unknown,
            "worst_pairs": [one._asdict() for one in worst_pairs(self.matrix, self.labels)],
        }
