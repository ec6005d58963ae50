"""Resuming a job that is over: which ones can be, and what of them stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loupe.algorithm.manifest import Manifest
from loupe.errors import FailedPrecondition, InvalidArgument, invalid
from loupe.job_kinds import JobKind
from loupe.names import JobName
from loupe.tasks.objective import Objective
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import State

CHANGEABLE = frozenset(
    {"objective", "allow_small_validation", "model", "priority", "max_duration", "max_epochs", "labels", "note"}
)
"""The fields in which a job may differ from the one whose checkpoint it goes on from; parameters differ by name."""


def check_field(path: str) -> None:
    """Raise InvalidArgument for a path of a mask that names what has to stay."""
    name, _, parameter = path.partition(".")
    if name in CHANGEABLE or (name == "parameters" and parameter):
        return
    expected = (
        f'"parameters.NAME", or one of {", ".join(sorted(CHANGEABLE))}; what a checkpoint was trained with stays: data '
        "set, algorithm, seed and base model. `loupe job rerun` begins anew with others"
    )
    raise invalid("update_mask", path, expected)


def check_resumable(job: Job) -> None:
    """Raise FailedPrecondition for a job that is not over, or that has nothing left to do."""
    if not job.final:
        raise FailedPrecondition(
            f"{job.name} is {job.state.name}; it can be resumed when it is over: `loupe job cancel {job.name}` ends it",
            resource=job.name,
            state=job.state.name,
        )
    if job.spec.kind is not JobKind.TRAIN:
        raise FailedPrecondition(
            f"{job.name} was to {job.spec.kind}, which writes no checkpoint; `loupe job rerun {job.name}` begins anew",
            resource=job.name,
            state=job.state.name,
        )
    if job.state is State.SUCCEEDED:
        raise FailedPrecondition(
            f"{job.name} has reached its target; `loupe train --base-model` trains on from its model",
            resource=job.name,
            state=job.state.name,
        )


def check_changes(job: Job, objective: Objective, manifest: Manifest, parameters: Mapping[str, Any]) -> None:
    """Raise InvalidArgument where a job that resumes another is to be measured otherwise, or gets other files."""
    metric = job.spec.objective.metric
    if objective.metric != metric:
        raise _metric_stays(objective.metric, metric, objective.bound)
    for name, parameter in manifest.parameters.items():
        before, now = job.spec.parameters.get(name), parameters.get(name)
        if parameter.type == "file" and (before or None) != (now or None):
            raise invalid(f"training_job.parameters.{name}", now, f"the file that {job.name} began with, {before}")


def no_checkpoint(name: JobName | str) -> FailedPrecondition:
    """Make the error of a job that cannot be resumed."""
    return FailedPrecondition(
        f"{name} has no checkpoint to go on from: it never got that far, or the checkpoint was collected some days "
        f"after its end; `loupe job rerun {name}` begins anew",
        resource=name,
        state="NO_CHECKPOINT",
    )


def _metric_stays(given: str, metric: str, bound: float) -> InvalidArgument:
    return invalid(
        "training_job.objective.metric", given, f"{metric!r}, by which it was measured until now: {metric}={bound:g}"
    )
