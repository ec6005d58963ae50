"""What the answers of a model come to: the figures of an evaluation, the file of a prediction, a verdict for people."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from loupe.errors import AlgorithmFailed
from loupe.escapes import escaped
from loupe.job_kinds import JobKind, PictureSelection
from loupe.labels import MAX_LENGTH
from loupe.tasks.figures import MAX_ITEMS, Count, Label, Part
from loupe.tasks.objective import shown_share, spoken
from services.scheduler.clients.trainers import FinishedAttempt
from services.scheduler.dispatch.publication import Publication, task_figures
from services.scheduler.jobs.job import MAX_MESSAGE, Evaluation, Job, JobResult, Predictions

DONE = "done"
PREDICTIONS_FILE = "predictions.jsonl"
MAX_NAMED = 100
"""Classes that a result names at most; the report has all."""
_SHOWN_CLASSES = 5


class _Counted(Part):
    """A report of an evaluation; the trainer made it. evaluation: figures by the schema of the task."""

    labels: list[Label] = Field(max_length=MAX_ITEMS)
    evaluation: dict[str, object]
    unknown_labels: list[Label] = Field(default=[], max_length=MAX_ITEMS)


class _Written(Part):
    pictures: Count
    counts: dict[str, Count] = Field(default={}, max_length=MAX_ITEMS)


class _Predicted(Part):
    """A report of a prediction; the trainer made it."""

    predictions: _Written


def prepare_answers(job: Job, finished: FinishedAttempt) -> Publication:
    """Read the report of an attempt that trained nothing. Raises AlgorithmFailed where nothing was answered."""
    if finished.outcome != DONE:
        raise AlgorithmFailed("the run ended without answers", error=finished.outcome)
    try:
        if job.spec.kind is JobKind.EVALUATE:
            return _evaluation(job, finished)
        return _predictions(job, finished)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the report"
        raise AlgorithmFailed(f"the report cannot be used: {place}: {first['msg']}", error=place) from error


def _evaluation(job: Job, finished: FinishedAttempt) -> Publication:
    report = _Counted.model_validate_json(finished.report_json)
    figures = job.spec.task.figures.model_validate(report.evaluation)
    measured = task_figures(job.spec.task, figures)
    told = ", ".join(f"{spoken(name)} {shown_share(value)}" for name, value in measured.items())
    what = (
        f"On {figures.pictures} {_pictures(job)} of {job.spec.dataset_version}: {told or 'nothing could be measured'}."
    )
    if unknown := report.unknown_labels:
        what += f" The model does not know {_shown(unknown)}: it cannot be right there, and that counts."
    evaluation = Evaluation(job.spec.task_name, figures.pictures, measured, report.unknown_labels[:MAX_NAMED])
    return _published(finished, what, evaluation=evaluation)


def _predictions(job: Job, finished: FinishedAttempt) -> Publication:
    written = _Predicted.model_validate_json(finished.report_json).predictions
    file = next((each for each in finished.artifacts if each.filename == PREDICTIONS_FILE), None)
    if file is None:
        raise AlgorithmFailed(f"the run made no {PREDICTIONS_FILE}", error=PREDICTIONS_FILE)
    most = sorted(written.counts.items(), key=lambda each: (-each[1], each[0]))
    told = ", ".join(f"{count} {escaped(label, MAX_LENGTH)}" for label, count in most[:_SHOWN_CLASSES])
    more = f" and {len(most) - _SHOWN_CLASSES} classes more" if len(most) > _SHOWN_CLASSES else ""
    where = f"{written.pictures} {_pictures(job)} of {job.spec.dataset_version}"
    what = f"{where} are answered: {told or 'nothing is there'}{more}."
    predictions = Predictions(file.digest, file.size, written.pictures, dict(most[:MAX_NAMED]))
    return _published(finished, what, predictions=predictions)


def _published(finished: FinishedAttempt, verdict: str, **brought: Any) -> Publication:
    said = escaped(verdict, MAX_MESSAGE)
    result = JobResult(finished.outcome, verdict=said, report_json=finished.report_json, **brought)
    return Publication(None, result, answered=True)


def _pictures(job: Job) -> str:
    chosen = job.spec.pictures
    return "pictures" if chosen in (None, PictureSelection.ALL) else f"{chosen} pictures"


def _shown(labels: list[str]) -> str:
    more = f" and {len(labels) - _SHOWN_CLASSES} classes more" if len(labels) > _SHOWN_CLASSES else ""
    return ", ".join(escaped(each, MAX_LENGTH) for each in labels[:_SHOWN_CLASSES]) + more
