"""What a finished attempt becomes: a model version with its lineage, and a verdict for people."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from loupe.errors import AlgorithmFailed
from loupe.escapes import escaped
from loupe.forecast import forecast_of
from loupe.labels import MAX_LENGTH, normalise_label
from loupe.proportions import wilson_interval
from loupe.tasks.classification import OVERALL, Scorer
from loupe.tasks.objective import spoken
from services.scheduler.clients.storage import ModelLineage, ModelMetrics, ModelVersion
from services.scheduler.clients.trainers import FinishedAttempt
from services.scheduler.jobs.job import MAX_MESSAGE, Job, JobResult

TARGET_REACHED = "target_reached"
_SHOWN_CLASSES = 5
_MAX_ITEMS = 10_000
_MAX_COUNT = (1 << 31) - 1

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Label = Annotated[str, AfterValidator(normalise_label)]


class _Part(BaseModel):
    """The report comes out of an algorithm image, so it is checked; what is not used here passes through unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _ClassScores(_Part):
    label: Label
    recall: Fraction
    pictures: int = Field(ge=0, le=_MAX_COUNT)


class _Scores(_Part):
    accuracy: Fraction
    pictures: int = Field(ge=0, le=_MAX_COUNT)
    balanced_accuracy: Fraction | None = None
    lowest_recall: Fraction | None = None
    per_class: list[_ClassScores] = Field(default=[], max_length=_MAX_ITEMS)
    worst_classes: list[str] = Field(default=[], max_length=_MAX_ITEMS)


Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]


class _Checked(_Part):
    """What the trainer counted of the answers for the test pictures, by class; the image has no part in it.

    A trainer of an earlier version says no labels.
    """

    labels: list[str] = Field(default=[], max_length=_MAX_ITEMS)
    right: list[Count] = Field(max_length=_MAX_ITEMS)
    pictures: list[Count] = Field(max_length=_MAX_ITEMS)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.right) != len(self.pictures) or len(self.labels) not in (0, len(self.right)):
            raise ValueError("right and pictures must have one number for each class")
        return self


class _Report(_Part):
    labels: list[Label] = Field(min_length=1, max_length=_MAX_ITEMS)
    validation: _Scores
    test: _Scores | None = None
    checked: _Checked | None = None
    label_errors: list[object] = Field(default=[], max_length=_MAX_ITEMS)
    notes: object = None


@dataclass(frozen=True)
class Publication:
    """What goes into the library, and what is told about it. model is None when training made none."""

    model: ModelVersion | None
    result: JobResult

    @property
    def released(self) -> bool:
        """Whether the model passed its gate: the target was reached, on enough validation pictures."""
        return self.model is not None and self.model.released


def prepare(job: Job, finished: FinishedAttempt) -> Publication:
    """Read an attempt's report, and decide on the model's release (docs/decisions/0012 and 0015).

    Raises AlgorithmFailed when the report is not what loupe.algorithm writes.
    """
    if not finished.artifacts:
        verdict = "Training was stopped before there was a model."
        result = JobResult(outcome=finished.outcome, verdict=verdict, report_json=finished.report_json)
        return Publication(None, result)
    try:
        report = _Report.model_validate_json(finished.report_json)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the report"
        raise AlgorithmFailed(f"the algorithm's report cannot be used: {where}: {first['msg']}", error=where) from error
    metrics = _metrics(job, report)
    # The image says whether it is done, but the figure has the last word.
    reached = finished.outcome == TARGET_REACHED and job.spec.objective.reached_by(metrics.validation_score)
    released = reached and not job.spec.shortfall and not _doubt(job, report)
    model = ModelVersion(
        released=released,
        labels=report.labels,
        files=finished.artifacts,
        metrics=metrics,
        lineage=_lineage(job, finished),
        report_json=finished.report_json,
    )
    verdict = _verdict(job, finished.outcome, report, metrics, reached)
    result = JobResult(outcome=finished.outcome, metrics=metrics, verdict=verdict, report_json=finished.report_json)
    return Publication(model, result)


def _metrics(job: Job, report: _Report) -> ModelMetrics:
    metrics = ModelMetrics(
        validation_accuracy=report.validation.accuracy,
        objective=job.spec.objective,
        validation_score=_score(job, report),
    )
    if (checked := report.checked) is None or not sum(checked.pictures):
        return metrics
    right, pictures = sum(checked.right), sum(checked.pictures)
    accuracy, balanced, lowest = (Scorer(metric).of_counts(checked.right, checked.pictures) for metric in OVERALL)
    low, high = wilson_interval(right, pictures)
    return replace(
        metrics,
        test_accuracy=accuracy,
        test_balanced_accuracy=balanced,
        test_lowest_recall=lowest,
        test_accuracy_low=low,
        test_accuracy_high=high,
        test_pictures=pictures,
    )


def _doubt(job: Job, report: _Report) -> str:
    """Return why an image's figures are not to be believed, a sentence; empty where nothing speaks against them."""
    checked = report.checked
    labels = checked.labels or report.labels if checked else []
    if checked is None or len(labels) != len(checked.right):
        return "No answers for the test pictures came back that could be checked."
    if job.spec.task.refuted(job.spec.objective, labels, checked.right, checked.pictures):
        return "The answers for the test pictures, counted outside of the algorithm, are far below the target."
    return ""


def _score(job: Job, report: _Report) -> float:
    metric = job.spec.objective.metric
    found = job.spec.task.score_of_report(metric, report.validation.model_dump())
    if found is None:
        where = f"validation.{metric}"
        raise AlgorithmFailed(
            f"the algorithm's report cannot be used: {where}: it is missing, and the target is one of it", error=where
        )
    return found


def _lineage(job: Job, finished: FinishedAttempt) -> ModelLineage:
    spec = job.spec
    return ModelLineage(
        job=str(job.name),
        attempt=job.attempt,
        dataset_version=str(spec.dataset_version),
        dataset_digest=spec.dataset_digest,
        algorithm_version=str(spec.algorithm_version),
        algorithm_digest=spec.algorithm_digest,
        parameters_json=json.dumps(spec.parameters, sort_keys=True),
        seed=spec.seed,
        code_version=finished.code_version,
        trainer=str(job.trainer or ""),
        submitter=str(spec.submitter),
    )


_ENDED = {
    "plateau": "it did not get better any more",
    "budget": "its time or epochs were used up",
    "stopped": "it was stopped",
}


def _verdict(job: Job, outcome: str, report: _Report, metrics: ModelMetrics, reached: bool) -> str:
    target = _percent(job.spec.objective.bound)
    sentences = [_measured(job, report)]
    if reached:
        sentences[0] += f": the target of {target} is reached."
    else:
        why = _ENDED.get(outcome, "the run called itself done too early")
        sentences[0] += f", the target is {target}: training ended because {why}."
    if job.spec.shortfall:
        sentences.append(
            f"The model is not released: {job.spec.shortfall}." if reached else f"Besides, {job.spec.shortfall}."
        )
    if reached and (doubt := _doubt(job, report)):
        sentences.append(f"{doubt} The model is not released.")
    if metrics.test_pictures:
        sentences.append(
            f"Of {metrics.test_pictures} test pictures {_percent(metrics.test_accuracy)} are right (95 % interval "
            f"{_percent(metrics.test_accuracy_low)} to {_percent(metrics.test_accuracy_high)})."
        )
    worst = (report.test or report.validation).worst_classes[:_SHOWN_CLASSES]
    if worst and not reached:
        shown = ", ".join(escaped(each, MAX_LENGTH) for each in worst)
        sentences.append(f"Hardest to tell: {shown}.")
    if not reached and (forecast := forecast_of(report.notes, report.labels, target)):
        sentences.append(f"By the learning curve it takes {forecast}.")
    if report.label_errors:
        count = len(report.label_errors)
        sentences.append(f"{count} {'label looks' if count == 1 else 'labels look'} wrong; the report names them.")
    return escaped(" ".join(sentences), MAX_MESSAGE)


def _measured(job: Job, report: _Report) -> str:
    score, pictures = _percent(_score(job, report)), report.validation.pictures
    metric = job.spec.objective.metric
    if metric == next(iter(job.spec.task.metrics)):
        return f"{score} of {pictures} validation pictures are right"
    return f"The {spoken(metric)} is {score} on {pictures} validation pictures"


def _percent(fraction: float) -> str:
    return f"{fraction:.2%}".replace("%", " %")
