"""The figures of a split as a report has them, checked: reports come out of algorithm images."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from loupe.labels import normalise_label

MAX_ITEMS = 10_000
MAX_FIGURES = 64
_MAX_COUNT = (1 << 31) - 1

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
Label = Annotated[str, AfterValidator(normalise_label)]


class Part(BaseModel):
    """A part of a report; what is not used passes through unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class SplitFigures(Part):
    """What every task's figures have. worst_classes: labels, those that are worst told or found first."""

    pictures: Count
    worst_classes: list[str] = Field(default=[], max_length=MAX_ITEMS)


class ClassRecall(Part):
    """How many of a class's pictures were told right."""

    label: Label
    recall: Fraction
    pictures: Count


class ClassificationFigures(SplitFigures):
    """As `loupe.algorithm.evaluation.evaluate` returns them."""

    accuracy: Fraction
    balanced_accuracy: Fraction | None = None
    lowest_recall: Fraction | None = None
    per_class: list[ClassRecall] = Field(default=[], max_length=MAX_ITEMS)


class ClassPrecision(Part):
    """The average precision of a class, and of how many annotated regions."""

    label: Label
    ap50: Fraction
    regions: Count


class DetectionFigures(SplitFigures):
    """As `loupe.tasks.average_precision.evaluate` returns them."""

    map50: Fraction
    map: Fraction
    per_class: list[ClassPrecision] = Field(default=[], max_length=MAX_ITEMS)


class AnomalyFigures(SplitFigures):
    """As `loupe.tasks.anomaly_scores.evaluate` returns them; None where there was no picture to measure by."""

    auroc: Fraction | None = None
    recall: Fraction | None = None
    false_alarms: Fraction | None = None
    per_class: list[ClassRecall] = Field(default=[], max_length=MAX_ITEMS)
