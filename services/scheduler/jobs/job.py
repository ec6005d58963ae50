"""The training job as it stands, and its place in the queue while it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import AccountName, AlgorithmVersionName, DatasetVersionName, JobName, ModelName, TrainerName
from loupe.tasks import DEFAULT, TASKS
from loupe.tasks.objective import Objective
from loupe.tasks.task import Task
from services.scheduler.clients.storage import ModelMetrics
from services.scheduler.clients.trainers import FinishedAttempt, Progress
from services.scheduler.clusters.placement import Placement, Requirements
from services.scheduler.jobs.states import FINAL, State

MAX_MESSAGE = 2_000
"""Characters of a sentence for people; what is longer is cut."""


@dataclass(frozen=True)
class JobSpec:
    """What was asked for, with versions, defaults and parameters resolved. It never changes.

    objective: what the model must reach, by a metric of the task. shortfall: what the validation pictures lack to say
    that it does; empty where they do, or where the order asked for a release all the same.
    max_seconds: bound of the training time. max_epochs: 0 for no bound. base_model: the name of the model version
    whose weights training starts from, rerun_of that of the job that it repeats, and resume_of that of the job whose
    checkpoint training goes on from; empty for none.
    pictures: which ones the base model answers where the job is not to train; then there is no objective (its metric is
    empty), and `model` is that of the base model: nothing is put there.
    """

    dataset_version: DatasetVersionName
    dataset_digest: str
    algorithm_version: AlgorithmVersionName
    algorithm_digest: str
    requirements: Requirements
    parameters: Mapping[str, Any]
    objective: Objective
    model: ModelName
    submitter: AccountName
    task_name: str = DEFAULT.name
    allow_small_validation: bool = False
    shortfall: str = ""
    seed: int = 0
    priority: int = 0
    max_seconds: float = 4 * 3600.0
    max_epochs: int = 0
    base_model: str = ""
    rerun_of: str = ""
    resume_of: str = ""
    kind: JobKind = JobKind.TRAIN
    pictures: PictureSelection | None = None

    @property
    def task(self) -> Task:
        """What the model is to answer."""
        return TASKS[self.task_name]


@dataclass(frozen=True)
class Evaluation:
    """What a model's answers to labelled pictures are worth; figures are the task's metrics by name.

    unknown_labels: classes of the pictures that the model does not know.
    """

    task: str
    pictures: int
    figures: Mapping[str, float]
    unknown_labels: Sequence[str] = ()


@dataclass(frozen=True)
class Predictions:
    """The file with the answers to pictures: sha256 in hex, bytes; the pictures, and the answers of each class."""

    digest: str
    size: int
    pictures: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class JobResult:
    """What a job has brought. model_version is empty, and there are no metrics, when there is no model."""

    outcome: str = ""
    model_version: str = ""
    metrics: ModelMetrics | None = None
    verdict: str = ""
    report_json: str = ""
    evaluation: Evaluation | None = None
    predictions: Predictions | None = None


@dataclass(frozen=True)
class JobFailure:
    """Why a job, or an attempt, could not be run. reason: a Reason's name without the prefix."""

    reason: str
    message: str


@dataclass(frozen=True)
class QueueEntry:
    """A waiting job, as far as its place in the queue goes."""

    uid: str
    project: str
    priority: int
    create_time: datetime
    requirements: Requirements


@dataclass(frozen=True)
class Job:
    """A job as it stands in the database.

    failures counts attempts that crashed, losses the trainers that vanished since the job's last checkpoint.
    trainer_sequence is the last event of the current attempt that was written, last_sequence the last event of the job.
    finished is kept while PUBLISHING. delete_time, expire_time: when it was deleted, and until when it can be restored.
    """

    name: JobName
    uid: str
    spec: JobSpec
    create_time: datetime
    state: State = State.QUEUED
    state_message: str = ""
    attempt: int = 0
    trainer: TrainerName | None = None
    failures: int = 0
    losses: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    result: JobResult | None = None
    failure: JobFailure | None = None
    progress: Progress | None = None
    placement: Placement | None = None
    finished: FinishedAttempt | None = None
    trainer_sequence: int = 0
    last_sequence: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    delete_time: datetime | None = None
    expire_time: datetime | None = None

    @property
    def final(self) -> bool:
        """Whether the job will never change again."""
        return self.state in FINAL

    @property
    def queue_entry(self) -> QueueEntry:
        """The job's place in the queue."""
        return QueueEntry(self.uid, self.name.project, self.spec.priority, self.create_time, self.spec.requirements)
