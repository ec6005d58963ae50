"""What a finished attempt becomes: a model version with its lineage, and a verdict for people."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from loupe.errors import AlgorithmFailed
from loupe.escapes import escaped
from loupe.forecast import forecast_of
from loupe.labels import MAX_LENGTH
from loupe.proportions import wilson_interval
from loupe.tasks.classification import ACCURACY, BALANCED_ACCURACY, LOWEST_RECALL
from loupe.tasks.figures import MAX_FIGURES, MAX_ITEMS, Count, Fraction, Label, Part, SplitFigures
from loupe.tasks.objective import shown_share
from loupe.tasks.task import Checked, Task
from services.scheduler.clients.storage import ModelLineage, ModelMetrics, ModelVersion
from services.scheduler.clients.trainers import FinishedAttempt
from services.scheduler.jobs.job import MAX_MESSAGE, Job, JobResult

TARGET_REACHED = "target_reached"
_SHOWN_CLASSES = 5


class _Checked(Part):
    """What the trainer counted of the answers for the test pictures, by class; the image has no part in it.

    pictures: of each class, its cases: pictures, or regions of them. figures, test_pictures: where they do not follow
    from these. A trainer of an earlier version says no labels.
    """

    labels: list[str] = Field(default=[], max_length=MAX_ITEMS)
    right: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(max_length=MAX_ITEMS)
    pictures: list[Count] = Field(max_length=MAX_ITEMS)
    figures: dict[str, Fraction] = Field(default={}, max_length=MAX_FIGURES)
    test_pictures: Count = 0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.right) != len(self.pictures) or len(self.labels) not in (0, len(self.right)):
            raise ValueError("right and pictures must have one number for each class")
        return self


class _Report(Part):
    """The report comes out of an algorithm image, so it is checked; the figures of a split by their task's schema."""

    labels: list[Label] = Field(min_length=1, max_length=MAX_ITEMS)
    validation: dict[str, object]
    test: dict[str, object] | None = None
    checked: _Checked | None = None
    label_errors: list[object] = Field(default=[], max_length=MAX_ITEMS)
    notes: object = None


@dataclass(frozen=True)
class _Findings:
    """A report that was read. checked: None where no answers for test pictures came back that could be counted."""

    report: _Report
    validation: SplitFigures
    test: SplitFigures | None
    checked: Checked | None


@dataclass(frozen=True)
class Publication:
    """What goes into the library, and what is told about it. model is None when there is none.

    answered: nothing was to be trained, and what was asked is answered.
    """

    model: ModelVersion | None
    result: JobResult
    answered: bool = False

    @property
    def released(self) -> bool:
        """Whether the model passed its gate: the target was reached, on enough validation pictures."""
        return self.model is not None and self.model.released

    @property
    def succeeded(self) -> bool:
        """Whether the job brought what was asked of it."""
        return self.answered or self.released


def prepare(job: Job, finished: FinishedAttempt) -> Publication:
    """Read an attempt's report, and decide on the model's release (docs/decisions/0012 and 0015).

    Raises AlgorithmFailed when the report is not what loupe.algorithm writes.
    """
    if not finished.artifacts:
        verdict = "Training was stopped before there was a model."
        result = JobResult(outcome=finished.outcome, verdict=verdict, report_json=finished.report_json)
        return Publication(None, result)
    found = _read(job, finished.report_json)
    metrics = _metrics(job, found)
    # The image says whether it is done, but the figure has the last word.
    reached = finished.outcome == TARGET_REACHED and job.spec.objective.reached_by(metrics.validation_score)
    released = reached and not job.spec.shortfall and not _doubt(job, found)
    model = ModelVersion(
        released=released,
        labels=found.report.labels,
        files=finished.artifacts,
        metrics=metrics,
        lineage=_lineage(job, finished),
        report_json=finished.report_json,
    )
    verdict = _verdict(job, finished.outcome, found, metrics, reached)
    result = JobResult(outcome=finished.outcome, metrics=metrics, verdict=verdict, report_json=finished.report_json)
    return Publication(model, result)


def _read(job: Job, report_json: str) -> _Findings:
    where: tuple[str, ...] = ()
    try:
        report = _Report.model_validate_json(report_json)
        where = ("validation",)
        validation = job.spec.task.figures.model_validate(report.validation)
        where = ("test",)
        test = None if report.test is None else job.spec.task.figures.model_validate(report.test)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([*where, *map(str, first["loc"])]) or "the report"
        raise AlgorithmFailed(f"the algorithm's report cannot be used: {place}: {first['msg']}", error=place) from error
    return _Findings(report, validation, test, _counted(job, report))


def _counted(job: Job, report: _Report) -> Checked | None:
    counts = report.checked
    if counts is None:
        return None
    labels = counts.labels or report.labels
    if len(labels) != len(counts.right):
        return None
    return job.spec.task.checked(labels, counts.right, counts.pictures, counts.figures, counts.test_pictures)


def _metrics(job: Job, found: _Findings) -> ModelMetrics:
    task = job.spec.task
    validation = task_figures(task, found.validation)
    metrics = ModelMetrics(
        objective=job.spec.objective,
        validation_score=_score(job, found),
        validation_accuracy=validation.get(ACCURACY, 0.0),
        task=task.name,
        validation=validation,
    )
    if (checked := found.checked) is None or not checked.pictures:
        return metrics
    test = checked.figures
    low, high = wilson_interval(sum(checked.right), sum(checked.cases)) if ACCURACY in test else (0.0, 0.0)
    return replace(
        metrics,
        test=test,
        test_pictures=checked.pictures,
        test_accuracy=test.get(ACCURACY, 0.0),
        test_balanced_accuracy=test.get(BALANCED_ACCURACY, 0.0),
        test_lowest_recall=test.get(LOWEST_RECALL, 0.0),
        test_accuracy_low=low,
        test_accuracy_high=high,
    )


def task_figures(task: Task, figures: SplitFigures) -> dict[str, float]:
    """Return the metrics of a task that are not of one class, as far as the figures have them."""
    said = figures.model_dump()
    return {
        name: said[name] for name, metric in task.metrics.items() if not metric.of_label and said.get(name) is not None
    }


def _doubt(job: Job, found: _Findings) -> str:
    """Return why an image's figures are not to be believed, a sentence; empty where nothing speaks against them."""
    if found.checked is None:
        return "No answers for the test pictures came back that could be checked."
    if job.spec.task.refuted(job.spec.objective, found.checked):
        return "The answers for the test pictures, counted outside of the algorithm, are far below the target."
    return ""


def _score(job: Job, found: _Findings) -> float:
    metric = job.spec.objective.metric
    score = job.spec.task.score_of_report(metric, found.validation.model_dump())
    if score is None:
        where = f"validation.{metric}"
        raise AlgorithmFailed(
            f"the algorithm's report cannot be used: {where}: it is missing, and the target is one of it", error=where
        )
    return score


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
        base_model=spec.base_model,
    )


_ENDED = {
    "plateau": "it did not get better any more",
    "budget": "its time or epochs were used up",
    "stopped": "it was stopped",
}


def _verdict(job: Job, outcome: str, found: _Findings, metrics: ModelMetrics, reached: bool) -> str:
    task, objective, report = job.spec.task, job.spec.objective, found.report
    target = shown_share(objective.bound)
    sentences = [task.validation_sentence(objective, metrics.validation_score, found.validation.pictures)]
    if reached:
        sentences[0] += f": the target of {target} is reached."
    else:
        why = _ENDED.get(outcome, "the run called itself done too early")
        sentences[0] += f", the target is {target}: training ended because {why}."
    if job.spec.shortfall:
        sentences.append(
            f"The model is not released: {job.spec.shortfall}." if reached else f"Besides, {job.spec.shortfall}."
        )
    if reached and (doubt := _doubt(job, found)):
        sentences.append(f"{doubt} The model is not released.")
    if found.checked is not None and found.checked.pictures:
        sentences.append(task.test_sentence(found.checked))
    worst = (found.test or found.validation).worst_classes[:_SHOWN_CLASSES]
    if worst and not reached:
        shown = ", ".join(escaped(each, MAX_LENGTH) for each in worst)
        sentences.append(f"Hardest to tell: {shown}.")
    if not reached and (forecast := forecast_of(report.notes, report.labels, target)):
        sentences.append(f"By the learning curve it takes {forecast}.")
    if report.label_errors:
        count = len(report.label_errors)
        sentences.append(f"{count} {'label looks' if count == 1 else 'labels look'} wrong; the report names them.")
    return escaped(" ".join(sentences), MAX_MESSAGE)
