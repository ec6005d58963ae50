"""Training jobs and the clusters that run them: submitting, following, cancelling, explaining."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from loupe.common.v1 import objective_pb2
from loupe.errors import invalid
from loupe.job_kind_messages import pack_kind, pack_selection
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import JobName, project_of
from loupe.scheduler.v1 import cluster_service_pb2, training_job_pb2
from loupe.scheduler.v1 import training_job_service_pb2 as service
from loupe.scheduler.v1.cluster_service_pb2_grpc import ClusterServiceStub
from loupe.scheduler.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from loupe.tasks.messages import pack_objective
from loupe.tasks.objective import Objective
from loupe.tasks.targets import parse_objective
from loupe.terminal.connection import Connection, Service, flatten
from loupe.terminal.watch import Follower

SEEDS = range(-(1 << 63), 1 << 63)
PRIORITIES = range(101)
EPOCHS = range(1 << 31)
MOST_MINUTES = 60 * 24 * 366
"""More than any trainer trains; a Duration would hold ten thousand years."""


def _check_numbers(seed: int, priority: int, max_epochs: int, max_minutes: float | None) -> None:
    for field, value, allowed in (
        ("seed", seed, SEEDS),
        ("priority", priority, PRIORITIES),
        ("max_epochs", max_epochs, EPOCHS),
    ):
        if value not in allowed:
            raise invalid(field, value, f"a whole number from {allowed[0]} to {allowed[-1]}")
    if max_minutes is not None and not 0 < max_minutes <= MOST_MINUTES:  # also catches NaN
        raise invalid("max_minutes", max_minutes, f"minutes above 0, at most {MOST_MINUTES}")


def _duration(minutes: float) -> Duration:
    return Duration(seconds=round(minutes * 60))


def _objective(target: float | str | Objective) -> objective_pb2.Objective:
    return pack_objective(target if isinstance(target, Objective) else parse_objective(str(target)))


def _changed(
    changes: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[training_job_pb2.TrainingJob, FieldMask]:
    """Return the fields that are not None, and the parameters, as a job, and the mask that names them."""
    given = {field: value for field, value in changes.items() if value is not None}
    job = training_job_pb2.TrainingJob(**given)
    job.parameters.update({each: value for each, value in parameters.items() if value is not None})
    return job, FieldMask(paths=[*given, *(f"parameters.{each}" for each in parameters)])


class Jobs:
    """Requests to make a model, or to have one answer pictures; they outlive the terminal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs = Service(connection, TrainingJobServiceStub)

    async def submit(
        self,
        dataset_version: str,
        *,
        target: float | str | Objective,
        allow_small_validation: bool = False,
        algorithm_version: str = "",
        base_model: str = "",
        parameters: Mapping[str, Any] | None = None,
        model: str = "",
        job_id: str = "",
        seed: int = 0,
        priority: int = 0,
        max_minutes: float | None = None,
        max_epochs: int = 0,
        labels: Mapping[str, str] | None = None,
        note: str = "",
    ) -> training_job_pb2.TrainingJob:
        """Return the accepted job, with defaults and versions resolved; it is durable then.

        target: what the validation pictures must reach: 0.97 of them right, or as text "recall[crack]=0.9".
        allow_small_validation: release the model also when too few validation pictures stand behind it. base_model: the
        model version whose weights training starts from. labels, note: to find and explain it. Names are full resource
        names; "" leaves the choice to the scheduler. Raises InvalidArgument for a target that is none, and for a number
        that the contract has no room for.
        """
        _check_numbers(seed, priority, max_epochs, max_minutes)
        job = training_job_pb2.TrainingJob(
            dataset_version=dataset_version,
            algorithm_version=algorithm_version,
            base_model=base_model,
            objective=_objective(target),
            allow_small_validation=allow_small_validation,
            model=model,
            seed=seed,
            priority=priority,
            max_epochs=max_epochs,
            labels=labels,
            note=note,
        )
        if parameters:
            job.parameters.update(parameters)
        if max_minutes is not None:
            job.max_duration.CopyFrom(_duration(max_minutes))
        return await self._submit(job, job_id)

    async def evaluate(
        self,
        model_version: str,
        dataset_version: str,
        *,
        pictures: PictureSelection = PictureSelection.TEST,
        **more: Any,
    ) -> training_job_pb2.TrainingJob:
        """Return the accepted job that measures a model on labelled pictures; its result has `evaluation`.

        more: as in `predict`. Raises FailedPrecondition where there are no such pictures, or none of a class that the
        model knows.
        """
        return await self._answer(JobKind.EVALUATE, model_version, dataset_version, pictures, **more)

    async def predict(
        self,
        model_version: str,
        dataset_version: str,
        *,
        pictures: PictureSelection = PictureSelection.UNLABELLED,
        **more: Any,
    ) -> training_job_pb2.TrainingJob:
        """Return the accepted job in which a model answers pictures; its result has `predictions`.

        more: algorithm_version (the image that answers), parameters, job_id, priority, max_minutes, labels and note, as
        in `submit`. Raises FailedPrecondition where there are no such pictures, NotFound, PermissionDenied.
        """
        return await self._answer(JobKind.PREDICT, model_version, dataset_version, pictures, **more)

    async def _answer(
        self,
        kind: JobKind,
        model_version: str,
        dataset_version: str,
        pictures: PictureSelection,
        *,
        algorithm_version: str = "",
        parameters: Mapping[str, Any] | None = None,
        job_id: str = "",
        priority: int = 0,
        max_minutes: float | None = None,
        labels: Mapping[str, str] | None = None,
        note: str = "",
    ) -> training_job_pb2.TrainingJob:
        _check_numbers(0, priority, 0, max_minutes)
        job = training_job_pb2.TrainingJob(
            kind=pack_kind(kind),
            pictures=pack_selection(pictures),
            base_model=model_version,
            dataset_version=dataset_version,
            algorithm_version=algorithm_version,
            priority=priority,
            labels=labels,
            note=note,
        )
        if parameters:
            job.parameters.update(parameters)
        if max_minutes is not None:
            job.max_duration.CopyFrom(_duration(max_minutes))
        return await self._submit(job, job_id)

    async def _submit(self, job: training_job_pb2.TrainingJob, job_id: str) -> training_job_pb2.TrainingJob:
        parent = str(project_of(job.dataset_version, "dataset_version"))
        request = service.SubmitTrainingJobRequest(
            parent=parent, job_id=job_id, training_job=job, request_id=str(uuid.uuid4())
        )
        return (await self._jobs.call(lambda stub: stub.SubmitTrainingJob, request)).training_job

    async def rerun(
        self,
        name: str,
        *,
        dataset_version: str | None = None,
        target: float | str | Objective | None = None,
        allow_small_validation: bool | None = None,
        algorithm_version: str | None = None,
        base_model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        model: str | None = None,
        job_id: str = "",
        seed: int | None = None,
        priority: int | None = None,
        max_minutes: float | None = None,
        max_epochs: int | None = None,
        labels: Mapping[str, str] | None = None,
        note: str | None = None,
    ) -> training_job_pb2.TrainingJob:
        """Submit a job again and return the new one; what is None stays as it was, and the note is not repeated.

        parameters: those that change, None for the algorithm's default. Otherwise as in `submit`; versions are those of
        the earlier job, not the newest. Raises NotFound, BadParameter for one that a changed algorithm does not have.
        """
        _check_numbers(seed or 0, priority or 0, max_epochs or 0, max_minutes)
        changes: dict[str, Any] = {
            "dataset_version": dataset_version,
            "objective": None if target is None else _objective(target),
            "allow_small_validation": allow_small_validation,
            "algorithm_version": algorithm_version,
            "base_model": base_model,
            "model": model,
            "seed": seed,
            "priority": priority,
            "max_duration": None if max_minutes is None else _duration(max_minutes),
            "max_epochs": max_epochs,
            "labels": labels,
            "note": note,
        }
        job, mask = _changed(changes, parameters or {})
        request = service.RerunTrainingJobRequest(
            name=name, training_job=job, update_mask=mask, job_id=job_id, request_id=str(uuid.uuid4())
        )
        return (await self._jobs.call(lambda stub: stub.RerunTrainingJob, request)).training_job

    async def resume(
        self,
        name: str,
        *,
        target: float | str | Objective | None = None,
        allow_small_validation: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        model: str | None = None,
        job_id: str = "",
        priority: int | None = None,
        max_minutes: float | None = None,
        max_epochs: int | None = None,
        labels: Mapping[str, str] | None = None,
        note: str | None = None,
    ) -> training_job_pb2.TrainingJob:
        """Go on from the last checkpoint of a job that is over, as a new job with a budget of its own, and return it.

        What is None stays as it was, but for the note, and for the epochs, which have no bound then. target: another
        value of the same metric. max_epochs: those of the earlier job included. parameters: those that change, as in
        `rerun`; they must leave the network as it is. Raises NotFound, FailedPrecondition for a job that is not over,
        that reached its target, or that has no checkpoint.
        """
        _check_numbers(0, priority or 0, max_epochs or 0, max_minutes)
        changes: dict[str, Any] = {
            "objective": None if target is None else _objective(target),
            "allow_small_validation": allow_small_validation,
            "model": model,
            "priority": priority,
            "max_duration": None if max_minutes is None else _duration(max_minutes),
            "max_epochs": max_epochs,
            "labels": labels,
            "note": note,
        }
        job, mask = _changed(changes, parameters or {})
        request = service.ResumeTrainingJobRequest(
            name=name, training_job=job, update_mask=mask, job_id=job_id, request_id=str(uuid.uuid4())
        )
        return (await self._jobs.call(lambda stub: stub.ResumeTrainingJob, request)).training_job

    async def update(
        self, name: str, *, labels: Mapping[str, str] | None = None, note: str | None = None
    ) -> training_job_pb2.TrainingJob:
        """Replace the labels or the note of a job, in whatever state it is, and return it; None leaves them."""
        job = training_job_pb2.TrainingJob(name=name, labels=labels, note=note or "")
        mask = FieldMask(paths=[each for each, given in (("labels", labels), ("note", note)) if given is not None])
        request = service.UpdateTrainingJobRequest(training_job=job, update_mask=mask, request_id=str(uuid.uuid4()))
        return (await self._jobs.call(lambda stub: stub.UpdateTrainingJob, request)).training_job

    async def delete(self, name: str) -> training_job_pb2.TrainingJob:
        """Delete a job that is over and return it; until its expire_time it can be restored.

        Raises NotFound, FailedPrecondition for a job that is not over.
        """
        request = service.DeleteTrainingJobRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._jobs.call(lambda stub: stub.DeleteTrainingJob, request)).training_job

    async def undelete(self, name: str) -> training_job_pb2.TrainingJob:
        """Restore a job and return it. Raises NotFound once it is purged, AlreadyExists when it is not deleted."""
        request = service.UndeleteTrainingJobRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._jobs.call(lambda stub: stub.UndeleteTrainingJob, request)).training_job

    async def get(self, name: str) -> training_job_pb2.TrainingJob:
        """Return a job with its report. Raises NotFound."""
        request = service.GetTrainingJobRequest(name=name)
        return (await self._jobs.call(lambda stub: stub.GetTrainingJob, request)).training_job

    def list(
        self,
        project: str,
        states: Sequence[training_job_pb2.JobState | str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[training_job_pb2.TrainingJob]:
        """Yield a project's jobs, newest first.

        states: keeps some of the JobStates only, or their names. labels: keeps jobs that have all of these.
        """
        request = service.ListTrainingJobsRequest(parent=project, states=states, labels=labels)
        return flatten(self._jobs.pages(lambda stub: stub.ListTrainingJobs, request), lambda page: page.training_jobs)

    async def deleted(
        self,
        project: str,
        states: Sequence[training_job_pb2.JobState | str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[training_job_pb2.TrainingJob]:
        """Yield a project's jobs that are deleted and can be restored, newest first; states, labels as in `list`."""
        request = service.ListTrainingJobsRequest(parent=project, states=states, labels=labels, show_deleted=True)
        pages = self._jobs.pages(lambda stub: stub.ListTrainingJobs, request)
        async for job in flatten(pages, lambda page: page.training_jobs):
            if job.HasField("delete_time"):
                yield job

    async def cancel(self, name: str) -> training_job_pb2.TrainingJob:
        """Cancel a job that is neither publishing nor final, and return it as it is then."""
        request = service.CancelTrainingJobRequest(name=name)
        return (await self._jobs.call(lambda stub: stub.CancelTrainingJob, request)).training_job

    async def explain(self, name: str) -> service.ExplainPlacementResponse:
        """Say where the job would go now and why, and how its last attempt was placed."""
        request = service.ExplainPlacementRequest(name=name)
        return await self._jobs.call(lambda stub: stub.ExplainPlacement, request)

    def watch(self, name: str, after: int = 0) -> AsyncGenerator[training_job_pb2.JobEvent]:
        """Yield a job's events after a sequence number, each once and in order, until its final one.

        Cuts of NATS and of the scheduler are healed; see `loupe.terminal.watch`.
        """
        job = JobName.parse(name)
        return Follower(
            lambda cursor: self._live(job, cursor), lambda cursor: self.record(name, cursor), after=after
        ).events()

    async def _live(self, job: JobName, cursor: int) -> AsyncGenerator[training_job_pb2.JobEvent]:
        from loupe.bus import follow_progress

        endpoints = await self._connection.endpoints()
        events = follow_progress(
            endpoints.nats_url,
            token=await self._connection.token(),
            ca=self._connection.ca,
            job=job,
            after_sequence=cursor,
        )
        async for event in events:
            yield event

    async def record(self, name: str, after: int = 0) -> AsyncGenerator[training_job_pb2.JobEvent]:
        """Yield a job's events from the scheduler alone, without healing. Raises Unavailable when it is cut."""
        request = service.WatchTrainingJobRequest(name=name, after_sequence=after)
        async for response in self._jobs.read(lambda stub: stub.WatchTrainingJob(request)):
            yield response.event


class Clusters:
    """The sets of trainers, as the scheduler sees them."""

    def __init__(self, connection: Connection) -> None:
        self._clusters = Service(connection, ClusterServiceStub)

    async def list(self) -> cluster_service_pb2.ListClustersResponse:
        """Return all clusters with their trainers and load, and the load below which one is a candidate."""
        return await self._clusters.call(lambda stub: stub.ListClusters, cluster_service_pb2.ListClustersRequest())
