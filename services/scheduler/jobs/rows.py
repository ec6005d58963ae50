"""Between a job and its row: what each column holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from loupe.errors import DataLoss, LoupeError
from loupe.escapes import escaped
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import AccountName, AlgorithmVersionName, DatasetVersionName, JobName, ModelName, Name, TrainerName
from loupe.tasks.classification import ACCURACY
from loupe.tasks.objective import Objective
from loupe.timestamps import datetime_of_micros, micros_of
from services.scheduler.clients.trainers import FinishedAttempt, Progress, pack_finished
from services.scheduler.clusters.messages import pack_placement
from services.scheduler.clusters.placement import Placement, Requirements
from services.scheduler.jobs import messages
from services.scheduler.jobs.job import Job, JobFailure, JobResult, JobSpec, QueueEntry
from services.scheduler.jobs.states import State

if TYPE_CHECKING:
    from sqlalchemy import Row

_MAX_SHOWN = 200

S = TypeVar("S")
T = TypeVar("T")

_NAMES: Mapping[str, type[Name]] = {
    "dataset_version": DatasetVersionName,
    "algorithm_version": AlgorithmVersionName,
    "model": ModelName,
    "submitter": AccountName,
}

_COLUMNS: Mapping[type, Callable[[Any], Any]] = {
    datetime: micros_of,
    TrainerName: str,
    State: int,
    JobResult: lambda value: messages.pack_result(value).SerializeToString(),
    JobFailure: lambda value: messages.pack_failure(value).SerializeToString(),
    Progress: lambda value: messages.pack_progress(value).SerializeToString(),
    Placement: lambda value: pack_placement(value).SerializeToString(),
    FinishedAttempt: lambda value: pack_finished(value).SerializeToString(),
    dict: lambda value: json.dumps(value, separators=(",", ":")),
}
"""What a column holds of a value, by its type; any other value stands there as it is."""


def row_of(job: Job) -> dict[str, Any]:
    """Return all columns of a job."""
    row = columns_of({each.name: getattr(job, each.name) for each in fields(Job) if each.name not in ("name", "spec")})
    return row | {
        "project": job.name.project,
        "job": job.name.job,
        "priority": job.spec.priority,
        "resumes": JobName.parse(job.spec.resume_of).job if job.spec.resume_of else None,
        "spec": dump_spec(job.spec),
    }


def columns_of(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns for some of a job's fields; name and spec never change."""
    return {name: _column(value) for name, value in written.items()}


def _column(value: Any) -> Any:
    convert = _COLUMNS.get(type(value))
    return value if convert is None else convert(value)


def job_of(row: Row[Any]) -> Job:
    """Return the job that a row of all columns holds.

    Raises DataLoss where it is not one that this version wrote, for example one of a newer replica.
    """
    return _read(_job_of, row)


def entry_of(row: Row[Any]) -> QueueEntry:
    """Return the place in the queue that a row of the columns for it holds. Raises DataLoss as job_of does."""
    return _read(_entry_of, row)


def _read(read: Callable[[Row[Any]], T], row: Row[Any]) -> T:
    try:
        return read(row)
    except (LoupeError, ValueError, TypeError, KeyError, OverflowError) as error:
        name, why = JobName(row.project, row.job), escaped(str(error), _MAX_SHOWN)
        raise DataLoss(f"{name} cannot be read from the database: {why}", resource=name) from error


def _entry_of(row: Row[Any]) -> QueueEntry:
    created, needs = datetime_of_micros(row.create_time), load_spec(row.spec).requirements
    return QueueEntry(row.uid, row.project, row.priority, created, needs)


def _job_of(row: Row[Any]) -> Job:
    return Job(
        name=JobName(row.project, row.job),
        uid=row.uid,
        spec=load_spec(row.spec),
        create_time=datetime_of_micros(row.create_time),
        state=State(row.state),
        state_message=row.state_message,
        attempt=row.attempt,
        trainer=TrainerName.parse(row.trainer) if row.trainer else None,
        failures=row.failures,
        losses=row.losses,
        start_time=_maybe(datetime_of_micros, row.start_time),
        end_time=_maybe(datetime_of_micros, row.end_time),
        result=_maybe(messages.read_result, row.result),
        failure=_maybe(messages.read_failure, row.failure),
        progress=_maybe(messages.read_progress, row.progress),
        placement=_maybe(messages.read_placement, row.placement),
        finished=_maybe(messages.read_finished, row.finished),
        trainer_sequence=row.trainer_sequence,
        last_sequence=row.last_sequence,
        labels=_labels(row.labels),
        note=row.note,
        delete_time=_maybe(datetime_of_micros, row.delete_time),
        expire_time=_maybe(datetime_of_micros, row.expire_time),
    )


def _maybe(read: Callable[[S], T], value: S | None) -> T | None:
    return None if value is None else read(value)


def _labels(text: str) -> dict[str, str]:
    return dict(json.loads(text))


def dump_spec(spec: JobSpec) -> str:
    """Return the spec as JSON."""
    values = {each.name: getattr(spec, each.name) for each in fields(JobSpec)}
    values |= {name: str(values[name]) for name in _NAMES}
    values["requirements"] = {each.name: getattr(spec.requirements, each.name) for each in fields(Requirements)}
    values["objective"] = {each.name: getattr(spec.objective, each.name) for each in fields(Objective)}
    return json.dumps(values, separators=(",", ":"))


def load_spec(text: str) -> JobSpec:
    """Return the spec that dump_spec wrote."""
    values = json.loads(text)
    values |= {name: kind.parse(values[name]) for name, kind in _NAMES.items()}
    values["requirements"] = Requirements(**values["requirements"])
    if "target_accuracy" in values:  # of a job from before there were objectives
        values["objective"] = {"metric": ACCURACY, "bound": values.pop("target_accuracy")}
    values["objective"] = Objective(**values["objective"])
    values["kind"] = JobKind(values.get("kind", JobKind.TRAIN))  # of a job from before there were kinds
    values["pictures"] = _maybe(PictureSelection, values.get("pictures"))
    return JobSpec(**values)
