"""Between jobs and their events and the messages of the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct, Value

from loupe.errors import invalid
from loupe.job_kind_messages import pack_kind, pack_selection, unpack_kind, unpack_selection
from loupe.job_kinds import MODEL_FILES, JobKind
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1 import cluster_pb2
from loupe.scheduler.v1 import training_job_pb2 as messages
from loupe.scheduler.v1.training_job_service_pb2 import (
    RerunTrainingJobRequest,
    ResumeTrainingJobRequest,
    SubmitTrainingJobRequest,
    UpdateTrainingJobRequest,
)
from loupe.tasks.messages import pack_objective, unpack_objective
from loupe.tasks.objective import Objective
from loupe.timestamps import timestamp
from loupe.trainer.v1.attempt_pb2 import AttemptFinished
from services.scheduler.clients.storage import pack_metrics, unpack_metrics
from services.scheduler.clients.trainers import (
    FinishedAttempt,
    LogLine,
    Progress,
    pack_parameters,
    unpack_finished,
    unpack_progress,
)
from services.scheduler.clusters.messages import pack_placement, unpack_placement
from services.scheduler.clusters.placement import Placement
from services.scheduler.jobs.annotations import Annotation
from services.scheduler.jobs.base_model import WEIGHTS
from services.scheduler.jobs.events import Event, StateChange
from services.scheduler.jobs.job import Evaluation, Job, JobFailure, JobResult, Predictions
from services.scheduler.jobs.order import Order, Origin
from services.scheduler.jobs.resumption import check_field

T = TypeVar("T")
M = TypeVar("M")
P = TypeVar("P", bound=Message)

_ANNOTATIONS = ("labels", "note")
_OUTPUT_ONLY = frozenset(
    {"name", "uid", "rerun_of", "resume_of", "state", "state_message", "attempt", "trainer", "submitter"}
    | {"create_time", "start_time", "end_time", "result", "failure", "latest_progress", "delete_time", "expire_time"}
)
_ASKED = tuple(each.name for each in messages.TrainingJob.DESCRIPTOR.fields if each.name not in _OUTPUT_ONLY)
"""The fields in which somebody says what a job is to be."""


def pack_job(job: Job, *, with_report: bool = True) -> messages.TrainingJob:
    """Return the resource, its report left out on request."""
    spec = job.spec
    trains = spec.kind is JobKind.TRAIN
    message = messages.TrainingJob(
        name=str(job.name),
        uid=job.uid,
        dataset_version=str(spec.dataset_version),
        algorithm_version=str(spec.algorithm_version),
        parameters=pack_parameters(spec.parameters),
        objective=pack_objective(spec.objective) if trains else None,
        allow_small_validation=spec.allow_small_validation,
        model=str(spec.model) if trains else "",
        seed=spec.seed,
        priority=spec.priority,
        max_epochs=spec.max_epochs,
        labels=job.labels,
        note=job.note,
        base_model=spec.base_model,
        rerun_of=spec.rerun_of,
        resume_of=spec.resume_of,
        kind=pack_kind(spec.kind),
        pictures=pack_selection(spec.pictures),
        state=f"JOB_STATE_{job.state.name}",
        state_message=job.state_message,
        attempt=job.attempt,
        trainer=str(job.trainer or ""),
        submitter=str(spec.submitter),
        create_time=timestamp(job.create_time),
        start_time=_maybe(timestamp, job.start_time),
        end_time=_maybe(timestamp, job.end_time),
        result=_maybe(pack_result, job.result),
        failure=_maybe(pack_failure, job.failure),
        latest_progress=_maybe(pack_progress, job.progress),
        delete_time=_maybe(timestamp, job.delete_time),
        expire_time=_maybe(timestamp, job.expire_time),
    )
    message.max_duration.FromNanoseconds(round(spec.max_seconds * 1e9))
    if not with_report and job.result is not None:
        message.result.report_json = ""
    return message


def _maybe(pack: Callable[[T], M], value: T | None) -> M | None:
    return None if value is None else pack(value)


def _stored(kind: type[P], body: bytes) -> P:
    """Return a message that was stored. Raises ValueError."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise ValueError(f"a stored {kind.DESCRIPTOR.name} is damaged") from error


def pack_result(result: JobResult) -> messages.JobResult:
    """Return the message of a result."""
    return messages.JobResult(
        outcome=result.outcome,
        model_version=result.model_version,
        metrics=_maybe(pack_metrics, result.metrics),
        verdict=result.verdict,
        report_json=result.report_json,
        evaluation=_maybe(_pack_evaluation, result.evaluation),
        predictions=_maybe(_pack_predictions, result.predictions),
    )


def _pack_evaluation(evaluation: Evaluation) -> messages.Evaluation:
    return messages.Evaluation(
        task=evaluation.task,
        picture_count=evaluation.pictures,
        figures=evaluation.figures,
        unknown_labels=evaluation.unknown_labels,
    )


def _pack_predictions(made: Predictions) -> messages.Predictions:
    return messages.Predictions(digest=made.digest, size=made.size, picture_count=made.pictures, counts=made.counts)


def read_result(body: bytes) -> JobResult:
    """Return a result that was stored."""
    message = _stored(messages.JobResult, body)
    metrics = unpack_metrics(message.metrics) if message.HasField("metrics") else None
    told, made = message.evaluation, message.predictions
    return JobResult(
        message.outcome,
        message.model_version,
        metrics,
        message.verdict,
        message.report_json,
        Evaluation(told.task, told.picture_count, dict(told.figures), tuple(told.unknown_labels))
        if message.HasField("evaluation")
        else None,
        Predictions(made.digest, made.size, made.picture_count, dict(made.counts))
        if message.HasField("predictions")
        else None,
    )


def pack_failure(failure: JobFailure) -> messages.JobFailure:
    """Return the message of a failure."""
    return messages.JobFailure(reason=failure.reason, message=failure.message)


def read_failure(body: bytes) -> JobFailure:
    """Return a failure that was stored."""
    message = _stored(messages.JobFailure, body)
    return JobFailure(message.reason, message.message)


def pack_progress(progress: Progress) -> messages.JobProgress:
    """Return the message of progress."""
    return messages.JobProgress(**vars(progress))


def read_progress(body: bytes) -> Progress:
    """Return progress that was stored."""
    return unpack_progress(_stored(messages.JobProgress, body))


def read_finished(body: bytes) -> FinishedAttempt:
    """Return what an attempt has brought, as it was stored."""
    return unpack_finished(_stored(AttemptFinished, body))


@lru_cache(maxsize=1024)
def read_placement(body: bytes) -> Placement:
    """Return a placement that was stored."""
    # It is read with every change of its job, and a large fleet's has many names to parse.
    return unpack_placement(_stored(cluster_pb2.Placement, body))


def pack_event(job: JobName, sequence: int, event: Event) -> messages.JobEvent:
    """Return the event as it is stored and as watchers get it."""
    message = messages.JobEvent(job=str(job), attempt=event.attempt, sequence=sequence, time=timestamp(event.time))
    match event.content:
        case StateChange() as change:
            message.state_change.CopyFrom(_pack_change(change))
        case Progress() as progress:
            message.progress.CopyFrom(pack_progress(progress))
        case LogLine(text):
            message.log = text
        case Placement() as placement:
            message.placement.CopyFrom(pack_placement(placement))
    return message


def _pack_change(change: StateChange) -> messages.StateChange:
    return messages.StateChange(
        state=f"JOB_STATE_{change.state.name}",
        message=change.message,
        result=_maybe(pack_result, change.result),
        failure=_maybe(pack_failure, change.failure),
    )


def unpack_parameters(struct: Struct) -> dict[str, Any]:
    """Return a Struct's values; numbers are floats, as JSON has them."""
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return unpack_parameters(value.struct_value)
        case "list_value":
            return [_value(each) for each in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def unpack_order(request: SubmitTrainingJobRequest) -> Order:
    """Return what somebody asks for; output-only fields are not looked at."""
    asked = request.training_job
    kind = unpack_kind("training_job.kind", asked.kind)
    untargeted = kind is not JobKind.TRAIN and not asked.HasField("objective")
    return Order(
        parent=request.parent,
        job_id=request.job_id,
        dataset_version=asked.dataset_version,
        algorithm_version=asked.algorithm_version,
        parameters=unpack_parameters(asked.parameters),
        objective=Objective("", 0.0) if untargeted else unpack_objective("training_job.objective", asked.objective),
        allow_small_validation=asked.allow_small_validation,
        model=asked.model,
        seed=asked.seed,
        priority=asked.priority,
        max_seconds=asked.max_duration.ToNanoseconds() / 1e9 if asked.HasField("max_duration") else None,
        max_epochs=asked.max_epochs,
        labels=dict(asked.labels),
        note=asked.note,
        base_model=asked.base_model,
        kind=kind,
        pictures=unpack_selection("training_job.pictures", asked.pictures),
    )


def unpack_annotation(request: UpdateTrainingJobRequest) -> Annotation:
    """Return what changes of a job. Raises InvalidArgument for a mask with another field, or with none."""
    asked = request.training_job
    paths = request.update_mask.paths or [each.name for each, _ in asked.ListFields() if each.name in _ANNOTATIONS]
    if not paths:
        raise invalid("update_mask", "", '"labels", "note", or both')
    for path in paths:
        if path not in _ANNOTATIONS:
            raise invalid("update_mask", path, '"labels" or "note"; nothing else of a job can be changed')
    return Annotation(
        labels=dict(asked.labels) if "labels" in paths else None, note=asked.note if "note" in paths else None
    )


def unpack_rerun(request: RerunTrainingJobRequest, old: Job) -> Order:
    """Return the order of a job once more, with the changes that somebody asks for.

    Raises InvalidArgument for a mask that names what cannot be asked for.
    """
    return _repeated(request, old, _paths(request), "note")  # it was written of the other run


def unpack_resume(request: ResumeTrainingJobRequest, old: Job) -> Order:
    """Return the order of a job that goes on from an old one's checkpoint, with the changes that somebody asks for.

    Raises InvalidArgument for a mask that names what has to stay.
    """
    paths = _paths(request)
    for path in paths:
        check_field(path)
    order = _repeated(request, old, paths, "note", "max_epochs")  # which would end it where the old one ended
    assert order.origin is not None
    return replace(order, origin=replace(order.origin, resumes=True))


def _paths(request: RerunTrainingJobRequest | ResumeTrainingJobRequest) -> list[str]:
    return sorted(request.update_mask.paths or _present(request.training_job))


def _repeated(
    request: RerunTrainingJobRequest | ResumeTrainingJobRequest, old: Job, paths: Sequence[str], *left_out: str
) -> Order:
    """Return the order of an old job with what the paths name of the request, less the fields that are left out."""
    asked, merged = request.training_job, pack_job(old, with_report=False)
    for field in left_out:
        merged.ClearField(field)
    if old.spec.base_model:
        for name in (WEIGHTS, *MODEL_FILES):  # they are those of the base model, whichever that will be
            merged.parameters.fields.pop(name, None)
    for path in paths:
        _take(path, asked, merged)
    order = unpack_order(
        SubmitTrainingJobRequest(parent=str(ProjectName(old.name.project)), job_id=request.job_id, training_job=merged)
    )
    return replace(order, origin=Origin(old, frozenset(asked.parameters.fields)))


def _present(asked: messages.TrainingJob) -> list[str]:
    """Return the paths of what a job asks for, its parameters one by one."""
    names = [each.name for each, _ in asked.ListFields() if each.name in _ASKED and each.name != "parameters"]
    return names + [f"parameters.{name}" for name in asked.parameters.fields]


def _take(path: str, asked: messages.TrainingJob, merged: messages.TrainingJob) -> None:
    name, dot, parameter = path.partition(".")
    if name not in _ASKED or (dot and (name != "parameters" or not parameter)):
        raise invalid("update_mask", path, f'"parameters.NAME", or one of {", ".join(_ASKED)}')
    if not dot:
        FieldMask(paths=[name]).MergeMessage(asked, merged, True, True)
    elif parameter in asked.parameters.fields:
        merged.parameters.fields[parameter].CopyFrom(asked.parameters.fields[parameter])
    elif parameter in merged.parameters.fields:
        del merged.parameters.fields[parameter]
