"""Jobs and fleets for tests of rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from loupe.names import (
    AccountName,
    AlgorithmVersionName,
    ClusterName,
    DatasetVersionName,
    JobName,
    ModelName,
    TrainerName,
)
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from loupe.tasks.objective import Objective
from services.scheduler.clusters.placement import ClusterState, Placement, Requirements, TrainerState
from services.scheduler.jobs.job import Job, JobSpec
from services.scheduler.jobs.messages import pack_event
from services.scheduler.jobs.states import State
from services.scheduler.jobs.transitions import Change, place, start

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NORTH_A = TrainerName("north", "a")
_numbers = count(1)


def make_job(project: str = "line-7", **fields: Any) -> Job:
    """Make a queued job with a name of its own; spec fields are those below that are popped."""
    number = next(_numbers)
    spec = JobSpec(
        dataset_version=DatasetVersionName(project, "screws", "3"),
        dataset_digest="cd" * 32,
        algorithm_version=AlgorithmVersionName("finetune", "1.2.0"),
        algorithm_digest="ab" * 32,
        requirements=fields.pop("requirements", Requirements()),
        parameters={"epochs": 30, "label": "零件"},
        objective=Objective(fields.pop("metric", "accuracy"), 0.95),
        shortfall=fields.pop("shortfall", ""),
        model=ModelName(project, "screws"),
        submitter=AccountName("anna"),
        priority=fields.pop("priority", 0),
    )
    made = Job(JobName(project, f"job-{number}"), f"{number:032x}", spec, NOW + timedelta(seconds=number))
    return Job(**{**{name: getattr(made, name) for name in made.__dataclass_fields__}, **fields})


def placed(job: Job) -> Change:
    """Give a job to north/a."""
    return place(job, Placement(NORTH_A, (), "chosen", 0.8), NOW)


def running(job: Job) -> Job:
    """Return the job in its next attempt."""
    return start(placed(job).after, NOW).after


def events_of(change: Change) -> list[JobEvent]:
    """Return the events of a change as watchers get them, numbered from 1."""
    return [pack_event(change.after.name, number, event) for number, event in enumerate(change.events, start=1)]


def in_state(state: State) -> Job:
    """Make a job that stands there."""
    return make_job(state=state, attempt=1, trainer=NORTH_A)


def trainer(name: str, cluster: str = "north", **fields: Any) -> TrainerState:
    """Make an idle trainer with one warm slot, unless fields say otherwise."""
    return TrainerState(**{"name": TrainerName(cluster, name), "warm": 1, **fields})


def cluster(name: str, *trainers: TrainerState) -> ClusterState:
    """Make a cluster of these trainers."""
    return ClusterState(ClusterName(name), trainers)
