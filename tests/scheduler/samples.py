"""Jobs and fleets for tests of rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from loupe.names import (
    AccountName,
    AlgorithmVersionName,
    ClusterName,
    DatasetVersionName,
    JobName,
    ModelName,
    TrainerName,
)
from loupe.scheduler.v1.cluster_pb2 import Placement
from services.scheduler.clusters.placement import ClusterState, Requirements, TrainerState
from services.scheduler.jobs.job import Change, Job, JobSpec, State, place, start

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NORTH_A = TrainerName("north", "a")
_numbers = count(1)


def make_job(project: str = "line-7", **fields: object) -> Job:
    """make_job is a queued job with a name of its own; spec fields are priority and requirements."""
    number = next(_numbers)
    spec = JobSpec(
        dataset_version=DatasetVersionName(project, "screws", "3"),
        dataset_digest="cd" * 32,
        algorithm_version=AlgorithmVersionName("finetune", "1.2.0"),
        algorithm_digest="ab" * 32,
        requirements=fields.pop("requirements", Requirements()),
        parameters={"epochs": 30, "label": "零件"},
        target_accuracy=0.95,
        model=ModelName(project, "screws"),
        submitter=AccountName("anna"),
        priority=fields.pop("priority", 0),
    )
    made = Job(JobName(project, f"job-{number}"), f"{number:032x}", spec, NOW + timedelta(seconds=number))
    return Job(**{**{name: getattr(made, name) for name in made.__dataclass_fields__}, **fields})


def placed(job: Job) -> Change:
    """placed gives a job to north/a."""
    return place(job, NORTH_A, Placement(trainer=str(NORTH_A), summary="chosen"), NOW)


def running(job: Job) -> Job:
    """running is the job in its next attempt."""
    return start(placed(job).after, NOW).after


def in_state(state: State) -> Job:
    """in_state is a job that stands there."""
    return make_job(state=state, attempt=1, trainer=NORTH_A)


def trainer(name: str, cluster: str = "north", **fields: object) -> TrainerState:
    """trainer is an idle trainer with one warm slot, unless fields say otherwise."""
    return TrainerState(**{"name": TrainerName(cluster, name), "warm": 1, **fields})


def cluster(name: str, *trainers: TrainerState) -> ClusterState:
    """cluster is these trainers."""
    return ClusterState(ClusterName(name), trainers)
