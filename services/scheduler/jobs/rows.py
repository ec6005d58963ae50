"""Between a job and its row: what each column holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import Row

from loupe.names import AccountName, AlgorithmVersionName, DatasetVersionName, JobName, ModelName, Name, TrainerName
from loupe.scheduler.v1.cluster_pb2 import Placement
from loupe.scheduler.v1.training_job_pb2 import JobFailure, JobProgress, JobResult
from loupe.trainer.v1.attempt_pb2 import AttemptFinished
from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs.job import Job, JobSpec, State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MESSAGES: Mapping[str, type[Message]] = {
    "result": JobResult,
    "failure": JobFailure,
    "progress": JobProgress,
    "placement": Placement,
    "finished": AttemptFinished,
}
_NAMES: Mapping[str, type[Name]] = {
    "dataset_version": DatasetVersionName,
    "algorithm_version": AlgorithmVersionName,
    "model": ModelName,
    "submitter": AccountName,
}


def micros_of(time: datetime) -> int:
    """Return microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(micros: int) -> datetime:
    """Return the time in UTC of microseconds since 1970."""
    return _EPOCH + micros * _MICROSECOND


def _maybe_time(micros: int | None) -> datetime | None:
    return None if micros is None else time_of(micros)


def _column(value: Any) -> Any:
    match value:
        case datetime():
            return micros_of(value)
        case Message():
            return value.SerializeToString()
        case TrainerName():
            return str(value)
        case State():
            return int(value)
        case _:
            return value


def row_of(job: Job) -> dict[str, Any]:
    """Return all columns of a job."""
    row = {each.name: _column(getattr(job, each.name)) for each in fields(Job) if each.name not in ("name", "spec")}
    return row | {
        "project": job.name.project,
        "job": job.name.job,
        "priority": job.spec.priority,
        "spec": dump_spec(job.spec),
    }


def columns_of(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns for some of a job's fields; name and spec never change."""
    return {name: _column(value) for name, value in written.items()}


def job_of(row: Row[Any]) -> Job:
    """Return the job that a row of all columns holds."""
    columns = row._mapping
    messages = {
        name: None if columns[name] is None else kind.FromString(columns[name]) for name, kind in _MESSAGES.items()
    }
    return Job(
        name=JobName(columns["project"], columns["job"]),
        uid=columns["uid"],
        spec=load_spec(columns["spec"]),
        create_time=time_of(columns["create_time"]),
        state=State(columns["state"]),
        state_message=columns["state_message"],
        attempt=columns["attempt"],
        trainer=TrainerName.parse(columns["trainer"]) if columns["trainer"] else None,
        failures=columns["failures"],
        losses=columns["losses"],
        start_time=_maybe_time(columns["start_time"]),
        end_time=_maybe_time(columns["end_time"]),
        trainer_sequence=columns["trainer_sequence"],
        last_sequence=columns["last_sequence"],
        **messages,
    )


def dump_spec(spec: JobSpec) -> str:
    """Return the spec as JSON."""
    values = {each.name: getattr(spec, each.name) for each in fields(JobSpec)}
    values |= {name: str(values[name]) for name in _NAMES}
    values["requirements"] = {each.name: getattr(spec.requirements, each.name) for each in fields(Requirements)}
    return json.dumps(values, separators=(",", ":"))


def load_spec(text: str) -> JobSpec:
    """Return the spec that dump_spec wrote."""
    values = json.loads(text)
    values |= {name: kind.parse(values[name]) for name, kind in _NAMES.items()}
    values["requirements"] = Requirements(**values["requirements"])
    return JobSpec(**values)
