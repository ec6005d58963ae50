"""Submitting a job: everything that it refers to is looked up, checked and fixed, before it is accepted."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from loupe.algorithm.manifest import BadManifest, Manifest, parse_manifest, resolve_parameters
from loupe.algorithm.manifest import BadParameter as ParameterRefused
from loupe.errors import AlreadyExists, BadAlgorithm, BadDataset, BadParameter, invalid, not_found
from loupe.names import (
    AccountName,
    AlgorithmVersionName,
    DatasetVersionName,
    JobName,
    ModelName,
    ProjectName,
    check_id,
)
from loupe.storage.v1.dataset_pb2 import DatasetVersion
from services.scheduler.clients.dependencies import Catalogue
from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs.job import Job, JobSpec
from services.scheduler.jobs.store import JobStore, Request

DEFAULT_ALGORITHM = AlgorithmVersionName("finetune", "latest")
DEFAULT_SECONDS = 4 * 3600.0
MAX_SECONDS = 30 * 86400.0
_MAX_PRIORITY = 100
_ID_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_ID_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 10
_ID_RANDOM_BITS = 13
_ID_TRIES = 5


def job_id(now: datetime, random: int) -> str:
    """Return "job-" and 10 letters or digits that sort by time: hundredths of seconds, then 13 random bits."""
    ticks = round((now - _ID_EPOCH).total_seconds() * 100)
    number = ticks << _ID_RANDOM_BITS | random & (1 << _ID_RANDOM_BITS) - 1
    return "job-" + "".join(_ID_DIGITS[number >> 5 * place & 31] for place in reversed(range(_ID_LENGTH)))


@dataclass(frozen=True)
class Order:
    """What somebody asks for, as it came: empty text and None mean the default."""

    parent: str
    dataset_version: str
    target_accuracy: float
    job_id: str = ""
    algorithm_version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    seed: int = 0
    priority: int = 0
    max_seconds: float | None = None
    max_epochs: int = 0


class Submission:
    """Turns orders into jobs.

    now: wall-clock time in UTC. random_bits: an int of so many random bits.
    """

    def __init__(
        self,
        store: JobStore,
        catalogue: Catalogue,
        now: Callable[[], datetime],
        random_bits: Callable[[int], int] = secrets.randbits,
        leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._leading = leading
        self._catalogue = catalogue
        self._now = now
        self._random_bits = random_bits

    async def submit(self, order: Order, submitter: AccountName, request: Request) -> Job:
        """Return a job that is durable; the same request again returns the same job.

        Raises InvalidArgument, NotFound, BadDataset, BadParameter, AlreadyExists, RequestIdReused, and Unavailable
        while storage is away.
        """
        if (earlier := await self._store.answered(request)) is not None:
            return earlier
        spec = await self._resolve(order, submitter)
        project = spec.dataset_version.project
        for tries_left in reversed(range(1 if order.job_id else _ID_TRIES)):
            now = self._now()
            chosen = order.job_id or job_id(now, self._random_bits(_ID_RANDOM_BITS))
            job = Job(JobName(project, chosen), uuid4().hex, spec, now, state_message=self._waits_for())
            try:
                return await self._store.submit(job, request)
            except AlreadyExists:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _waits_for(self) -> str:
        if self._leading():
            return "waits for its turn"
        return "waits for the scheduler that leads; while Consul is away there is none"

    async def _resolve(self, order: Order, submitter: AccountName) -> JobSpec:
        check_order(order)
        project = ProjectName.parse(order.parent, "parent").project
        dataset = DatasetVersionName.parse(order.dataset_version, "training_job.dataset_version")
        model = ModelName(project, dataset.dataset)
        if order.model:
            model = ModelName.parse(order.model, "training_job.model")
        if model.project != project:
            raise invalid(
                "training_job.model", order.model, f'a model of the same project, "projects/{project}/models/…"'
            )
        if dataset.project != project:
            # The very words for what does not exist: nobody learns from this what other projects have.
            raise not_found(dataset)
        wanted = order.algorithm_version or str(DEFAULT_ALGORITHM)
        algorithm_name = AlgorithmVersionName.parse(wanted, "training_job.algorithm_version")
        version = await self._catalogue.dataset_version(dataset)
        check_dataset(version)
        algorithm = await self._catalogue.algorithm_version(algorithm_name)
        manifest = _manifest(algorithm.name, algorithm.manifest_toml)
        resources = manifest.resources
        return JobSpec(
            dataset_version=DatasetVersionName.parse(version.name),
            dataset_digest=version.digest,
            algorithm_version=AlgorithmVersionName.parse(algorithm.name),
            algorithm_digest=algorithm.digest,
            requirements=Requirements(algorithm.built_in, resources.min_memory_mb, resources.gpu),
            parameters=_parameters(manifest, order.parameters),
            target_accuracy=order.target_accuracy,
            model=model,
            submitter=submitter,
            seed=order.seed,
            priority=order.priority,
            max_seconds=DEFAULT_SECONDS if order.max_seconds is None else order.max_seconds,
            max_epochs=order.max_epochs,
        )


def check_order(order: Order) -> None:
    """Raise InvalidArgument for the first figure or id that cannot be."""
    if order.job_id:
        check_id("job_id", order.job_id)
    if not (math.isfinite(order.target_accuracy) and 0 < order.target_accuracy <= 1):
        raise invalid(
            "training_job.target_accuracy", order.target_accuracy, "a number above 0 and at most 1 (0.97 means 97 %)"
        )
    if not 0 <= order.priority <= _MAX_PRIORITY:
        raise invalid("training_job.priority", order.priority, f"0 to {_MAX_PRIORITY}")
    if order.max_seconds is not None and not 0 < order.max_seconds <= MAX_SECONDS:
        raise invalid("training_job.max_duration", order.max_seconds, f"above 0 and at most {MAX_SECONDS:.0f} seconds")
    if order.max_epochs < 0:
        raise invalid("training_job.max_epochs", order.max_epochs, "0 for no bound, or a number from 1")


def check_dataset(version: DatasetVersion) -> None:
    """Raise BadDataset where there is nothing to tell apart, to learn from or to decide by."""
    trained = [each.label for each in version.labels if each.train_count > 0]
    if not trained:
        raise BadDataset(
            f"{version.name} has no training pictures; give at least one of two labels to training",
            problem="no_training_pictures",
            dataset_version=version.name,
        )
    if len(version.labels) < 2 or len(trained) < 2:
        raise BadDataset(
            f"{version.name} has training pictures of one label only, {trained[0]!r}; a classifier needs at least two",
            problem="one_class",
            **{"class": trained[0], "dataset_version": version.name},
        )
    if not any(each.validation_count > 0 for each in version.labels):
        raise BadDataset(
            f"{version.name} has no validation pictures, which decide when training is done; add more pictures, or "
            "give some to validation",
            problem="no_validation_pictures",
            dataset_version=version.name,
        )


def _manifest(name: str, text: str) -> Manifest:
    try:
        return parse_manifest(text)
    except BadManifest as error:
        raise BadAlgorithm(f"{name}: {error}", algorithm=name, problem="manifest") from error


def _parameters(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return resolve_parameters(manifest, given)
    except ParameterRefused as error:
        declared = manifest.parameters.get(error.parameter)
        raise BadParameter(
            str(error),
            parameter=error.parameter,
            value=given.get(error.parameter),
            expected=declared.allowed() if declared else None,
        ) from error
