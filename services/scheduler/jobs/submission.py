"""Submitting a job: everything that it refers to is looked up, checked and fixed, before it is accepted."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from loupe.algorithm.manifest import BadManifest, InvalidParameter, Manifest, parse_manifest, resolve_parameters
from loupe.errors import (
    AlreadyExists,
    BadAlgorithm,
    BadDataset,
    BadParameter,
    FailedPrecondition,
    invalid,
    not_found,
)
from loupe.idempotency import Request
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import AccountName, AlgorithmVersionName, DatasetVersionName, JobName, ModelName, ProjectName
from loupe.tasks import TASKS, task_for
from loupe.tasks.objective import Objective
from loupe.tasks.targets import check_objective
from loupe.tasks.task import Task, UnfitVersion
from services.scheduler.clients.consul import Leadership
from services.scheduler.clients.storage import AlgorithmVersion, DatasetVersion, StorageClient
from services.scheduler.clusters.placement import Requirements
from services.scheduler.jobs import inference
from services.scheduler.jobs.base_model import base_model_name, started_from
from services.scheduler.jobs.job import Job, JobSpec
from services.scheduler.jobs.order import Order, Origin, check_order
from services.scheduler.jobs.resumption import check_changes, check_resumable, no_checkpoint
from services.scheduler.jobs.store import JobStore

DEFAULT_SECONDS = 4 * 3600.0
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
class Submitter:
    """Who asks, and the permission parameter with which the call was let in."""

    account: AccountName
    parameter: int


class Submission:
    """Turns orders into jobs.

    now: wall-clock time in UTC. random_bits: an int of so many random bits. permit: raises PermissionDenied unless
    whoever makes the call may do an action in a project, too.
    """

    def __init__(
        self,
        store: JobStore,
        storage: StorageClient,
        leadership: Leadership,
        now: Callable[[], datetime],
        random_bits: Callable[[int], int] = secrets.randbits,
        *,
        permit: Callable[[ProjectName, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._storage = storage
        self._leadership = leadership
        self._now = now
        self._random_bits = random_bits
        self._permit = permit

    async def submit(self, order: Order, submitter: Submitter, request: Request) -> Job:
        """Return a job that is durable; the same request again returns the same job.

        Raises InvalidArgument, NotFound, BadDataset, BadParameter, AlreadyExists, RequestIdReused, FailedPrecondition,
        and Unavailable while storage is away.
        """
        if (earlier := await self._store.answered(request)) is not None:
            return earlier
        said = order.annotation.checked()
        spec = await self._resolve(order, submitter)
        project = spec.dataset_version.project
        for tries_left in reversed(range(1 if order.job_id else _ID_TRIES)):
            now = self._now()
            chosen = order.job_id or job_id(now, self._random_bits(_ID_RANDOM_BITS))
            job = Job(
                name=JobName(project, chosen),
                uid=uuid4().hex,
                spec=spec,
                create_time=now,
                state_message=self._waits_for(spec),
                labels=said.labels or {},
                note=said.note or "",
            )
            try:
                return await self._store.submit(job, request)
            except AlreadyExists:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _waits_for(self, spec: JobSpec) -> str:
        warning = f"; its model will not be released: {spec.shortfall}" if spec.shortfall else ""
        if self._leadership.held:
            return f"waits for its turn{warning}"
        return f"waits for the scheduler that leads; while Consul is away there is none{warning}"

    async def _resolve(self, order: Order, submitter: Submitter) -> JobSpec:
        check_order(order, submitter.parameter)
        pictures = inference.check_kind(order)
        dataset_name, model = _names(order)
        if pictures is not None:
            return await self._resolve_inference(order, submitter, dataset_name, pictures)
        wanted = order.algorithm_version
        named = AlgorithmVersionName.parse(wanted, "training_job.algorithm_version") if wanted else None
        dataset = await self._storage.dataset_version(dataset_name)
        algorithm = await self._storage.algorithm_version(named or _built_in(order, dataset))
        manifest = _manifest(algorithm)
        inference.check_runs(JobKind.TRAIN, algorithm, manifest)
        resources, task = manifest.resources, TASKS[manifest.task]
        given = order.parameters
        if order.origin is not None:
            check_repeats(order.origin, dataset, algorithm)
            given = await self._carried_over(given, order.origin, algorithm)
        base_name = base_model_name(ProjectName(dataset_name.project), order.base_model)
        base = await self._storage.base_model(base_name) if base_name else None
        if base is not None:
            given = started_from(base, manifest, given)
        objective = check_objective("training_job.objective", order.objective, task)
        _check_fit(task, dataset, objective)
        rerun_of, resume_of = "", ""
        if (origin := order.origin) is not None and origin.resumes:
            check_changes(origin.job, objective, manifest, given)
            resume_of = await self._checkpointed(origin.job)
        elif origin is not None:
            rerun_of = str(origin.job.name)
        return JobSpec(
            dataset_version=dataset.name,
            dataset_digest=dataset.digest,
            algorithm_version=algorithm.name,
            algorithm_digest=algorithm.digest,
            requirements=Requirements(algorithm.built_in, resources.min_memory_mb, resources.gpu),
            parameters=_parameters(manifest, given),
            task_name=task.name,
            objective=objective,
            allow_small_validation=order.allow_small_validation,
            shortfall="" if order.allow_small_validation else task.shortfall(objective, dataset.labels),
            model=model,
            submitter=submitter.account,
            seed=order.seed,
            priority=order.priority,
            max_seconds=DEFAULT_SECONDS if order.max_seconds is None else order.max_seconds,
            max_epochs=order.max_epochs,
            base_model=str(base.name) if base else "",
            rerun_of=rerun_of,
            resume_of=resume_of,
        )

    async def _checkpointed(self, job: Job) -> str:
        """Return the name of a job that can be resumed. Raises FailedPrecondition."""
        check_resumable(job)
        if not await self._storage.has_checkpoint(job.name):
            raise no_checkpoint(job.name)
        return str(job.name)

    async def _resolve_inference(
        self, order: Order, submitter: Submitter, dataset_name: DatasetVersionName, pictures: PictureSelection
    ) -> JobSpec:
        """Return the spec of a job in which a model answers. Who asks for it must be allowed to read models."""
        project, wanted = ProjectName(dataset_name.project), order.algorithm_version
        name = base_model_name(project, order.base_model)
        assert name is not None, "an order of such a kind names its model"
        await self._permit(project, "models.read")
        named = AlgorithmVersionName.parse(wanted, "training_job.algorithm_version") if wanted else inference.BUILT_IN
        dataset = await self._storage.dataset_version(dataset_name)
        algorithm, model = await self._storage.algorithm_version(named), await self._storage.base_model(name)
        manifest = _manifest(algorithm)
        inference.check_runs(order.kind, algorithm, manifest)
        given = order.parameters
        if order.origin is not None:
            if order.origin.resumes:
                check_resumable(order.origin.job)
            check_repeats(order.origin, dataset, algorithm)
            given = await self._carried_over(given, order.origin, algorithm)
        inference.check_fit(order.kind, pictures, model, dataset)
        return JobSpec(
            dataset_version=dataset.name,
            dataset_digest=dataset.digest,
            algorithm_version=algorithm.name,
            algorithm_digest=algorithm.digest,
            requirements=inference.requirements_of(model, algorithm, manifest),
            parameters=_parameters(manifest, inference.files_of(model, manifest, given)),
            task_name=TASKS[model.task].name,
            objective=order.objective,
            model=ModelName(model.name.project, model.name.model),
            submitter=submitter.account,
            seed=order.seed,
            priority=order.priority,
            max_seconds=DEFAULT_SECONDS if order.max_seconds is None else order.max_seconds,
            base_model=str(model.name),
            rerun_of="" if order.origin is None else str(order.origin.job.name),
            kind=order.kind,
            pictures=pictures,
        )

    async def _carried_over(
        self, parameters: Mapping[str, Any], origin: Origin, algorithm: AlgorithmVersion
    ) -> Mapping[str, Any]:
        """Return the parameters that an algorithm gets from an earlier job.

        Of another algorithm those that had its default stay behind: nobody chose them.
        """
        before = origin.job.spec.algorithm_version
        if algorithm.name == before:
            return parameters
        known = _manifest(await self._storage.algorithm_version(before)).parameters
        return {
            name: value
            for name, value in parameters.items()
            if name in origin.given or name not in known or value != known[name].default
        }


def check_repeats(origin: Origin, dataset: DatasetVersion, algorithm: AlgorithmVersion) -> None:
    """Raise FailedPrecondition where a version that is repeated is no longer what it was."""
    spec = origin.job.spec
    for name, digest, before, then in (
        (dataset.name, dataset.digest, spec.dataset_version, spec.dataset_digest),
        (algorithm.name, algorithm.digest, spec.algorithm_version, spec.algorithm_digest),
    ):
        if name == before and digest != then:
            raise FailedPrecondition(
                f"{name} is not what {origin.job.name} was trained with: its digest is {digest}, and was {then}; "
                "choose another version",
                resource=name,
            )


def _names(order: Order) -> tuple[DatasetVersionName, ModelName]:
    """Return what an order trains on and what it makes, both of the order's own project."""
    project = ProjectName.parse(order.parent, "parent").project
    dataset = DatasetVersionName.parse(order.dataset_version, "training_job.dataset_version")
    model = ModelName(project, dataset.dataset)
    if order.model:
        model = ModelName.parse(order.model, "training_job.model")
    if model.project != project:
        raise invalid("training_job.model", order.model, f'a model of the same project, "projects/{project}/models/…"')
    if dataset.project != project:
        # The very words for what does not exist: nobody learns from this what other projects have.
        raise not_found(dataset)
    return dataset, model


def _built_in(order: Order, dataset: DatasetVersion) -> AlgorithmVersionName:
    """Return the algorithm for what a data set version has and what is asked of the model."""
    task = task_for(order.objective.metric, str(dataset.name), dataset.labels, by_class=dataset.by_class)
    return AlgorithmVersionName(task.algorithm, "latest")


def _check_fit(task: Task, dataset: DatasetVersion, objective: Objective) -> None:
    """Raise BadDataset or InvalidArgument where nothing can be learned from a version, or measured on it."""
    try:
        task.check_version(str(dataset.name), dataset.labels, by_class=dataset.by_class)
    except UnfitVersion as error:
        named = {"class": error.label} if error.label else {}
        raise BadDataset(str(error), problem=error.problem, dataset_version=dataset.name, **named) from error
    if expected := task.unmeasurable(objective, dataset.labels):
        raise invalid("training_job.objective.metric", objective.metric, expected)


def _manifest(algorithm: AlgorithmVersion) -> Manifest:
    try:
        return parse_manifest(algorithm.manifest_toml)
    except BadManifest as error:
        raise BadAlgorithm(f"{algorithm.name}: {error}", algorithm=algorithm.name, problem="manifest") from error


def _parameters(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return resolve_parameters(manifest, given)
    except InvalidParameter as error:
        declared = manifest.parameters.get(error.parameter)
        raise BadParameter(
            str(error),
            parameter=error.parameter,
            value=given.get(error.parameter),
            expected=declared.allowed() if declared else None,
        ) from error
