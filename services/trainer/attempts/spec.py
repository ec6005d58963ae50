"""What an attempt is asked to do, parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loupe.errors import InvalidArgument, invalid
from loupe.job_kinds import SELECTIONS, JobKind, PictureSelection
from loupe.limits import MAX_JOB_SECONDS
from loupe.names import AlgorithmVersionName, DatasetVersionName, JobName, check_sha256
from loupe.tasks import TASKS
from loupe.tasks.objective import Objective


@dataclass(frozen=True)
class AnsweringModel:
    """What has to be known of a model to count its answers. labels: in the order of its outputs.

    parameters: those that it was made with. Raises InvalidArgument for a task that is not known.
    """

    task: str
    labels: Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise invalid("spec.model.task", self.task, f"one of {', '.join(TASKS)}")


@dataclass(frozen=True, order=True)
class AttemptKey:
    """Names an attempt: a job, and a number from 1 that only goes up."""

    job: str
    attempt: int

    @classmethod
    def parse(cls, job: str, attempt: int) -> AttemptKey:
        """Check both. Raises InvalidArgument."""
        JobName.parse(job, "key.job")
        if attempt < 1:
            raise invalid("key.attempt", attempt, "a number from 1")
        return cls(job, attempt)

    def __str__(self) -> str:
        return f"{self.job} attempt {self.attempt}"


@dataclass(frozen=True)
class AttemptSpec:
    """One attempt. `max_seconds` and `max_epochs` are None for no bound; the token is a secret.

    pictures, model: which pictures are answered by which model; None where the job is to train. Raises
    InvalidArgument where a field cannot be.
    """

    key: AttemptKey
    dataset_version: str
    algorithm_version: str
    algorithm_digest: str
    objective: Objective
    storage_token: str = field(repr=False)
    built_in: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_seconds: float | None = None
    max_epochs: int | None = None
    kind: JobKind = JobKind.TRAIN
    pictures: PictureSelection | None = None
    model: AnsweringModel | None = None

    def __post_init__(self) -> None:
        AlgorithmVersionName.parse(self.algorithm_version, "spec.algorithm_version")
        check_sha256("spec.algorithm_digest", self.algorithm_digest)
        dataset = DatasetVersionName.parse(self.dataset_version, "spec.dataset_version")
        if dataset.project != JobName.parse(self.key.job, "spec.key.job").project:
            raise InvalidArgument(
                f"{self.dataset_version} is of another project than {self.key.job}", field="spec.dataset_version"
            )
        if self.max_seconds is not None and not 0 < self.max_seconds <= MAX_JOB_SECONDS:
            raise invalid("spec.max_duration", self.max_seconds, f"above 0 and at most {MAX_JOB_SECONDS} seconds")
        if self.max_epochs is not None and self.max_epochs < 1:
            raise invalid("spec.max_epochs", self.max_epochs, "a number from 1, or 0 for no bound")
        if self.kind is not JobKind.TRAIN and (self.pictures not in SELECTIONS[self.kind] or self.model is None):
            raise invalid("spec.pictures", self.pictures, f"{', '.join(SELECTIONS[self.kind])}, and a model")
