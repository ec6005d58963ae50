"""Detection: where in a picture is something of which class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loupe.tasks import evidence
from loupe.tasks.objective import Objective, shown_share, split_metric, spoken
from loupe.tasks.task import Checked, LabelCount, Metric, UnfitVersion, refuse_class_split

if TYPE_CHECKING:
    from loupe.tasks.figures import DetectionFigures

MAP50 = "map50"
MAP = "map"
AP50 = "ap50"

OVERALL = (MAP50, MAP)
"""The metrics that are not of one class."""


class Detection:
    """The task: boxes around what is to be found, each with one class, of at least one.

    Its metrics are those of COCO (Lin et al., "Microsoft COCO: Common Objects in Context", 2014): a class's average
    precision is the mean of the precision at 101 recalls.
    """

    name = "detection"
    regions = True
    command = "detect"
    algorithm = "detect"
    metrics: Mapping[str, Metric] = {
        each.name: each
        for each in (
            Metric(
                MAP50, "the mean over the classes of the average precision, boxes being right from an IoU of 0.5 on"
            ),
            Metric(MAP, "the same, as the mean over IoUs of 0.5 to 0.95 in steps of 0.05"),
            Metric(AP50, "the average precision of one class, boxes being right from an IoU of 0.5 on", of_label=True),
        )
    }

    @property
    def figures(self) -> type[DetectionFigures]:
        """The schema of a report's figures of a split; terminals do without it, and it takes long to load."""
        from loupe.tasks.figures import DetectionFigures

        return DetectionFigures

    def check_version(self, version: str, labels: Sequence[LabelCount], *, by_class: bool = False) -> None:
        """Raise UnfitVersion where there is no box to learn from or to decide by."""
        if by_class:
            refuse_class_split(version, self.name)
        if not any(each.train_regions for each in labels):
            raise UnfitVersion(
                f"{version} has no boxes in its training pictures; annotate some, or give annotated ones to training",
                problem="no_training_regions",
            )
        if not any(each.validation_regions for each in labels):
            raise UnfitVersion(
                f"{version} has no boxes in its validation pictures, which decide when training is done; annotate more "
                "pictures, or give some to validation",
                problem="no_validation_regions",
            )

    def unmeasurable(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return which classes have boxes in validation pictures where that of the metric has none; else empty."""
        _, label = split_metric(objective.metric)
        there = [each.label for each in labels if each.validation_regions > 0]
        if not label or label in there:
            return ""
        return f"a class that has {evidence.REGIONS}, for example {evidence.nearest(label, there)}"

    def shortfall(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return what the boxes of the validation pictures lack; see Task.shortfall.

        An average precision is taken to be as sure as a share of so many boxes.
        """
        boxes = {
            each.label: each.validation_regions for each in labels if each.train_regions or each.validation_regions
        }
        name, label = split_metric(objective.metric)
        if name == AP50:
            return evidence.shortfall_of_class(
                objective.metric, objective.bound, boxes.get(label, 0), cases=evidence.REGIONS
            )
        return evidence.shortfall_of_each(
            objective.metric, objective.bound, boxes, averaged=True, cases=evidence.REGIONS
        )

    def checked(
        self,
        labels: Sequence[str],
        right: Sequence[float],
        cases: Sequence[int],
        figures: Mapping[str, float],
        pictures: int,
    ) -> Checked:
        """Return what a trainer counted: its own figures, which do not follow from the boxes of each class."""
        return Checked(labels, right, cases, {name: figures[name] for name in OVERALL if name in figures}, pictures)

    def refuted(self, objective: Objective, checked: Checked) -> bool:
        """Say whether the upper end of what test pictures show is far below the bound; see Task.refuted."""
        name, label = split_metric(objective.metric)
        counted = list(zip(checked.labels, checked.right, checked.cases, strict=True))
        known = [(good, there) for each, good, there in counted if there and label in ("", each)]
        if not known:
            return False
        if name == MAP:
            cases = sum(there for _, there in known)
            return evidence.share_is_refuted(objective.bound, checked.figures[MAP] * cases, cases)
        return evidence.mean_is_refuted(objective.bound, known)

    def score_of_report(self, metric: str, split: Mapping[str, Any]) -> float | None:
        """Return a metric by the figures of `loupe.tasks.average_precision.evaluate`; see Task.score_of_report."""
        name, label = split_metric(metric)
        if name != AP50:
            found: float | None = split.get(metric)
            return found
        for row in split.get("per_class") or ():
            if row["label"] == label and row["regions"]:
                return float(row["ap50"])
        return None

    def validation_sentence(self, objective: Objective, score: float, pictures: int) -> str:
        """Return what came out on the validation pictures; see Task.validation_sentence."""
        return f"The {spoken(objective.metric)} is {shown_share(score)} on {pictures} validation pictures"

    def test_sentence(self, checked: Checked) -> str:
        """Return what came out on the test pictures; see Task.test_sentence."""
        if not sum(checked.cases):
            return f"None of the {checked.pictures} test pictures has a box: nothing was measured on them."
        return (
            f"On {checked.pictures} test pictures with {sum(checked.cases)} boxes mAP50 is "
            f"{shown_share(checked.figures[MAP50])} and mAP {shown_share(checked.figures[MAP])}."
        )
