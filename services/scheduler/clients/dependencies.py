"""What the scheduler asks of storage, auth, the trainers and NATS, as protocols that the rules are written against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from loupe.names import AlgorithmVersionName, DatasetVersionName, JobName, ModelName, TrainerName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
from loupe.storage.v1.dataset_pb2 import DatasetVersion
from loupe.storage.v1.model_pb2 import ModelVersion
from loupe.trainer.v1.attempt_pb2 import AttemptEvent, AttemptKey, AttemptSpec, AttemptState


class Catalogue(Protocol):
    """What a job may refer to. Raises NotFound, and Unavailable while storage is away."""

    async def dataset_version(self, name: DatasetVersionName) -> DatasetVersion:
        """Return a version; "latest" is resolved."""

    async def algorithm_version(self, name: AlgorithmVersionName) -> AlgorithmVersion:
        """Return a version; "latest" is resolved."""


class Library(Protocol):
    """Where results go. Raises Unavailable while storage is away."""

    async def raise_fence(self, job: JobName, attempt: int) -> None:
        """Refuse what older attempts write from now on."""

    async def publish(self, model: ModelName, version: ModelVersion) -> ModelVersion:
        """Return the job's one model version, made now or before."""


@dataclass(frozen=True)
class StorageToken:
    """Opens storage for one attempt. lifetime: seconds from when it was issued."""

    value: str = field(repr=False)
    lifetime: float


class Tokens(Protocol):
    """Gives attempts their access to storage."""

    async def issue(self, submitter: str, job: JobName, attempt: int) -> StorageToken:
        """Return a token. Raises PermissionDenied and the like when the submitter has no right any more."""


class Trainers(Protocol):
    """Told what to do. Raises Unavailable for one that cannot be reached.

    lease, patience: seconds; patience is how long the call may take.
    """

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, patience: float) -> None:
        """Give an attempt to a trainer. Raises TrainerBusy, StaleAttempt, SandboxUnavailable."""

    def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncIterator[AttemptEvent]:
        """Yield the attempt's events after a sequence to the last. Raises AttemptUnknown."""

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, patience: float) -> AttemptState:
        """Give the attempt more time and return where it stands, UNSPECIFIED when it is not known."""

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, patience: float) -> None:
        """Give the attempt a new storage token. Raises AttemptUnknown."""

    async def cancel(self, trainer: TrainerName, key: AttemptKey, patience: float) -> None:
        """Stop the attempt; one that is not known is no error."""


class Bus(Protocol):
    """Takes job events to the terminals."""

    async def publish(self, event: JobEvent) -> None:
        """Return when the event is taken; the same event again is dropped there. Raises Unavailable."""

    async def close(self) -> None:
        """End the connection."""
