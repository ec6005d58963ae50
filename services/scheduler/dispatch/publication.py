"""What a finished attempt becomes: a model version with its lineage, and a verdict for people."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from loupe.errors import AlgorithmFailed
from loupe.escapes import escaped
from loupe.labels import MAX_LENGTH, normalise_label
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


class _Scores(_Part):
    accuracy: Fraction
    pictures: int = Field(ge=0, le=_MAX_COUNT)
    balanced_accuracy: Fraction = 0.0
    accuracy_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    worst_classes: list[str] = Field(default=[], max_length=_MAX_ITEMS)


class _Report(_Part):
    labels: list[Label] = Field(min_length=1, max_length=_MAX_ITEMS)
    validation: _Scores
    test: _Scores | None = None
    label_errors: list[object] = Field(default=[], max_length=_MAX_ITEMS)


@dataclass(frozen=True)
class Publication:
    """What goes into the library, and what is told about it. model is None when training made none."""

    model: ModelVersion | None
    result: JobResult

    @property
    def released(self) -> bool:
        """Whether the model passed its gate: the target was reached on validation pictures."""
        return self.model is not None and self.model.released


def prepare(job: Job, finished: FinishedAttempt) -> Publication:
    """Read an attempt's report. Raises AlgorithmFailed when it is not what loupe.algorithm writes."""
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
    released = finished.outcome == TARGET_REACHED and metrics.validation_accuracy >= job.spec.target_accuracy
    model = ModelVersion(
        released=released,
        labels=report.labels,
        files=finished.artifacts,
        metrics=metrics,
        lineage=_lineage(job, finished),
        report_json=finished.report_json,
    )
    verdict = _verdict(job, finished.outcome, report, released)
    result = JobResult(outcome=finished.outcome, metrics=metrics, verdict=verdict, report_json=finished.report_json)
    return Publication(model, result)


def _metrics(job: Job, report: _Report) -> ModelMetrics:
    metrics = ModelMetrics(validation_accuracy=report.validation.accuracy, target_accuracy=job.spec.target_accuracy)
    if (test := report.test) is None:
        return metrics
    low, high = test.accuracy_interval
    return replace(
        metrics,
        test_accuracy=test.accuracy,
        test_balanced_accuracy=test.balanced_accuracy,
        test_accuracy_low=low,
        test_accuracy_high=high,
        test_pictures=test.pictures,
    )


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


def _verdict(job: Job, outcome: str, report: _Report, released: bool) -> str:
    target, reached = job.spec.target_accuracy, report.validation.accuracy
    sentences = [f"{_percent(reached)} of {report.validation.pictures} validation pictures are right"]
    if released:
        sentences[0] += f": the target of {_percent(target)} is reached."
    else:
        why = _ENDED.get(outcome, "the run called itself done too early")
        sentences[0] += f", the target is {_percent(target)}: training ended because {why}."
    if report.test is not None:
        low, high = report.test.accuracy_interval
        sentences.append(
            f"Of {report.test.pictures} test pictures {_percent(report.test.accuracy)} are right (95 % interval "
            f"{_percent(low)} to {_percent(high)})."
        )
    worst = (report.test or report.validation).worst_classes[:_SHOWN_CLASSES]
    if worst and not released:
        shown = ", ".join(escaped(each, MAX_LENGTH) for each in worst)
        sentences.append(f"Hardest to tell: {shown}.")
    if report.label_errors:
        count = len(report.label_errors)
        sentences.append(f"{count} {'label looks' if count == 1 else 'labels look'} wrong; the report names them.")
    return escaped(" ".join(sentences), MAX_MESSAGE)


def _percent(fraction: float) -> str:
    return f"{fraction:.2%}".replace("%", " %")
