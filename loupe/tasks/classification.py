"""Classification: of which class is a picture?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loupe.proportions import wilson_interval
from loupe.tasks import evidence
from loupe.tasks.objective import Objective, shown_share, split_metric, spoken
from loupe.tasks.task import Checked, LabelCount, Metric, UnfitVersion, refuse_class_split

if TYPE_CHECKING:
    import numpy as np

    from loupe.tasks.figures import ClassificationFigures

ACCURACY = "accuracy"
BALANCED_ACCURACY = "balanced_accuracy"
LOWEST_RECALL = "lowest_recall"
RECALL = "recall"

OVERALL = (ACCURACY, BALANCED_ACCURACY, LOWEST_RECALL)
"""The metrics that are not of one class."""


@dataclass(frozen=True)
class Scorer:
    """Computes one metric. Every metric is a share, 0..1; a class without pictures counts in none of them.

    metric: as an objective has it. number: the class's, for a metric of one class; else None.
    """

    metric: str
    number: int | None = None

    def of_answers(self, truth: np.ndarray, answers: np.ndarray, classes: int) -> float:
        """Return the metric of answers. Raises ValueError where there is no picture that it is of.

        truth, answers: int [M], the true class of each picture and the one that was said, each below `classes`.

        >>> import numpy as np
        >>> truth, answers = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 0, 1])
        >>> [round(Scorer(metric).of_answers(truth, answers, 3), 4) for metric in OVERALL]
        [0.8333, 0.75, 0.5]
        """
        import numpy as np

        right = np.bincount(truth[truth == answers], minlength=classes)
        return self.of_counts(right.tolist(), np.bincount(truth, minlength=classes).tolist())

    def of_counts(self, right: Sequence[float], pictures: Sequence[float]) -> float:
        """Return the metric, from the right and from all pictures of each class. Raises ValueError without pictures.

        >>> Scorer("recall[dent]", number=1).of_counts([8, 1], [10, 4])
        0.25
        """
        if self.number is not None:
            right, pictures = [right[self.number]], [pictures[self.number]]
        recalls = [good / of for good, of in zip(right, pictures, strict=True) if of]
        if not recalls:
            raise ValueError(f"there is no picture to compute {self.metric} of")
        match self.metric:
            case "accuracy":
                return sum(right) / sum(pictures)
            case "balanced_accuracy":
                return math.fsum(recalls) / len(recalls)
            case _:
                return min(recalls)


def scorer(metric: str, labels: Sequence[str]) -> Scorer:
    """Return what computes a metric for these classes. Raises ValueError for what is none.

    >>> scorer("recall[dent]", ["crack", "dent"])
    Scorer(metric='recall[dent]', number=1)
    """
    name, label = split_metric(metric)
    if metric in OVERALL:
        return Scorer(metric)
    if name == RECALL and label in labels:
        return Scorer(metric, labels.index(label))
    raise ValueError(f"{metric!r} is none of {', '.join(OVERALL)}, or {RECALL}[CLASS] with a class that there is")


class Classification:
    """The task: one class for a whole picture, of at least two."""

    name = "classification"
    regions = False
    command = "classify"
    algorithm = "finetune"
    metrics: Mapping[str, Metric] = {
        each.name: each
        for each in (
            Metric(ACCURACY, "the share of the pictures that are right"),
            Metric(BALANCED_ACCURACY, "the mean over the classes of the share that is found"),
            Metric(LOWEST_RECALL, "the share that is found of the class where it is lowest"),
            Metric(RECALL, "the share that is found of one class", of_label=True),
        )
    }

    @property
    def figures(self) -> type[ClassificationFigures]:
        """The schema of a report's figures of a split; terminals do without it, and it takes long to load."""
        from loupe.tasks.figures import ClassificationFigures

        return ClassificationFigures

    def check_version(self, version: str, labels: Sequence[LabelCount], *, by_class: bool = False) -> None:
        """Raise UnfitVersion where there is nothing to tell apart, to learn from or to decide by."""
        if by_class:
            refuse_class_split(version, self.name)
        trained = [each.label for each in labels if each.train_count > 0]
        if not trained:
            raise UnfitVersion(
                f"{version} has no training pictures; give at least one of two labels to training",
                problem="no_training_pictures",
            )
        if len(labels) < 2 or len(trained) < 2:
            raise UnfitVersion(
                f"{version} has training pictures of one label only, {trained[0]!r}; a classifier needs at least two "
                "(good parts alone are enough where the target is one of auroc or recall)",
                problem="one_class",
                label=trained[0],
            )
        if not any(each.validation_count > 0 for each in labels):
            raise UnfitVersion(
                f"{version} has no validation pictures, which decide when training is done; add more pictures, or "
                "give some to validation",
                problem="no_validation_pictures",
            )

    def unmeasurable(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return which classes have validation pictures where that of the metric has none; else empty."""
        _, label = split_metric(objective.metric)
        there = [each.label for each in labels if each.validation_count > 0]
        if not label or label in there:
            return ""
        return f"a class that has {evidence.PICTURES}, for example {evidence.nearest(label, there)}"

    def shortfall(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return what the validation pictures lack; see Task.shortfall."""
        pictures = {each.label: each.validation_count for each in labels}
        name, label = split_metric(objective.metric)
        if name == RECALL:
            return evidence.shortfall_of_class(objective.metric, objective.bound, pictures.get(label, 0))
        if name == ACCURACY:
            return evidence.shortfall_of_all(objective.bound, sum(pictures.values()))
        return evidence.shortfall_of_each(
            objective.metric, objective.bound, pictures, averaged=name == BALANCED_ACCURACY
        )

    def checked(
        self,
        labels: Sequence[str],
        right: Sequence[float],
        cases: Sequence[int],
        figures: Mapping[str, float],
        pictures: int,
    ) -> Checked:
        """Return what a trainer counted; every figure follows from the pictures of each class."""
        found = {metric: Scorer(metric).of_counts(right, cases) for metric in OVERALL} if sum(cases) else {}
        return Checked(labels, right, cases, found, sum(cases))

    def refuted(self, objective: Objective, checked: Checked) -> bool:
        """Say whether the upper end of what test pictures show is far below the bound; see Task.refuted."""
        name, label = split_metric(objective.metric)
        counted = list(zip(checked.labels, checked.right, checked.cases, strict=True))
        known = [(good, there) for each, good, there in counted if there and label in ("", each)]
        if not known:
            return False
        if name == ACCURACY:
            known = [(sum(checked.right), sum(checked.cases))]
        if name == BALANCED_ACCURACY:
            return evidence.mean_is_refuted(objective.bound, known)
        return any(evidence.share_is_refuted(objective.bound, good, there) for good, there in known)

    def score_of_report(self, metric: str, split: Mapping[str, Any]) -> float | None:
        """Return a metric by the figures of `loupe.algorithm.evaluation.evaluate`; see Task.score_of_report."""
        name, label = split_metric(metric)
        if name != RECALL:
            found: float | None = split.get(metric)
            return found
        for row in split.get("per_class") or ():
            if row["label"] == label and row["pictures"]:
                # It is rounded there; pictures are whole.
                recall, pictures = float(row["recall"]), int(row["pictures"])
                return round(recall * pictures) / pictures
        return None

    def validation_sentence(self, objective: Objective, score: float, pictures: int) -> str:
        """Return what came out on the validation pictures; see Task.validation_sentence."""
        shown = shown_share(score)
        if objective.metric == ACCURACY:
            return f"{shown} of {pictures} validation pictures are right"
        return f"The {spoken(objective.metric)} is {shown} on {pictures} validation pictures"

    def test_sentence(self, checked: Checked) -> str:
        """Return what came out on the test pictures; see Task.test_sentence."""
        right, cases = sum(checked.right), sum(checked.cases)
        low, high = wilson_interval(right, cases)
        return (
            f"Of {cases} test pictures {shown_share(right / cases)} are right (95 % interval {shown_share(low)} to "
            f"{shown_share(high)})."
        )
