"""What a job is for, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loupe.job_kinds import JobKind

if TYPE_CHECKING:
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob


def kind_of(job: TrainingJob) -> str:
    """Return what a job is for; of a newer mesh, its number.

    >>> from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    >>> kind_of(TrainingJob()), kind_of(TrainingJob(kind="JOB_KIND_EVALUATE")), kind_of(TrainingJob(kind=99))
    ('train', 'evaluate', 'kind 99')
    """
    return _word(job, "kind") or JobKind.TRAIN.value


def pictures_of(job: TrainingJob) -> str:
    """Return which pictures a model answers; empty for a job that trains."""
    return _word(job, "pictures")


def trains(job: TrainingJob) -> bool:
    """Say whether a job is to make a model."""
    return kind_of(job) == JobKind.TRAIN


def _word(job: TrainingJob, field: str) -> str:
    """Return the word of an enum's value; empty where nothing is said."""
    number, enum_type = getattr(job, field), job.DESCRIPTOR.fields_by_name[field].enum_type
    values = enum_type.values_by_number if enum_type is not None else {}
    if number not in values:
        return f"{field} {number}"
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return "" if number == 0 else values[number].name.removeprefix(prefix).lower()
