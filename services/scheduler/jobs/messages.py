"""Between the scheduler's own types and the messages of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from loupe.names import AccountName, TrainerName
from loupe.scheduler.v1 import cluster_pb2, training_job_pb2
from loupe.scheduler.v1.training_job_service_pb2 import SubmitTrainingJobRequest
from loupe.trainer.v1.attempt_pb2 import AttemptKey, AttemptSpec
from services.scheduler.clusters.placement import ClusterState, Placement, TrainerState
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.store import Request
from services.scheduler.jobs.submission import Order


def pack_job(job: Job, *, with_report: bool = True) -> training_job_pb2.TrainingJob:
    """Return the resource, its report left out on request."""
    spec = job.spec
    message = training_job_pb2.TrainingJob(
        name=str(job.name),
        uid=job.uid,
        dataset_version=str(spec.dataset_version),
        algorithm_version=str(spec.algorithm_version),
        parameters=pack_parameters(spec.parameters),
        target_accuracy=spec.target_accuracy,
        model=str(spec.model),
        seed=spec.seed,
        priority=spec.priority,
        max_epochs=spec.max_epochs,
        state=int(job.state),
        state_message=job.state_message,
        attempt=job.attempt,
        trainer=str(job.trainer or ""),
        submitter=str(spec.submitter),
        result=job.result,
        failure=job.failure,
        latest_progress=job.progress,
    )
    message.max_duration.FromNanoseconds(round(spec.max_seconds * 1e9))
    for name in ("create_time", "start_time", "end_time"):
        if (time := getattr(job, name)) is not None:
            getattr(message, name).FromDatetime(time)
    if not with_report and job.result is not None:
        message.result.report_json = ""
    return message


def pack_placement(placement: Placement) -> cluster_pb2.Placement:
    """Return the message of a placement."""
    considered = [
        cluster_pb2.ConsideredCluster(
            cluster=str(each.cluster),
            load=each.load,
            free_slots=each.free_slots,
            candidate=not each.obstacle,
            chosen=each.chosen,
            explanation=each.explanation,
        )
        for each in placement.considered
    ]
    return cluster_pb2.Placement(
        trainer=str(placement.trainer or ""),
        considered=considered,
        summary=placement.summary,
        load_threshold=placement.load_threshold,
    )


def attempt_key(job: Job) -> AttemptKey:
    """Name the job's current attempt."""
    return AttemptKey(job=str(job.name), attempt=job.attempt)


def attempt_spec(job: Job, storage_token: str) -> AttemptSpec:
    """Return what the trainer is told about the job's current attempt."""
    spec = job.spec
    message = AttemptSpec(
        key=attempt_key(job),
        dataset_version=str(spec.dataset_version),
        algorithm_version=str(spec.algorithm_version),
        algorithm_digest=spec.algorithm_digest,
        built_in=spec.requirements.built_in,
        parameters=pack_parameters(spec.parameters),
        target_accuracy=spec.target_accuracy,
        seed=spec.seed,
        max_epochs=spec.max_epochs,
        storage_token=storage_token,
    )
    message.max_duration.FromNanoseconds(round(spec.max_seconds * 1e9))
    return message


def pack_parameters(parameters: Mapping[str, Any]) -> Struct:
    """Return parameters as a Struct."""
    struct = Struct()
    struct.update(parameters)
    return struct


def unpack_parameters(struct: Struct) -> dict[str, Any]:
    """Return a Struct's values; numbers are floats, as JSON has them."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return unpack_parameters(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def unpack_order(request: SubmitTrainingJobRequest) -> Order:
    """Return what somebody asks for; output-only fields are not looked at."""
    asked = request.training_job
    return Order(
        parent=request.parent,
        job_id=request.job_id,
        dataset_version=asked.dataset_version,
        algorithm_version=asked.algorithm_version,
        parameters=unpack_parameters(asked.parameters),
        target_accuracy=asked.target_accuracy,
        model=asked.model,
        seed=asked.seed,
        priority=asked.priority,
        max_seconds=asked.max_duration.ToNanoseconds() / 1e9 if asked.HasField("max_duration") else None,
        max_epochs=asked.max_epochs,
    )


def unpack_request(request: SubmitTrainingJobRequest, submitter: AccountName) -> Request:
    """Return what makes a repeated call the same call."""
    body = SubmitTrainingJobRequest()
    body.CopyFrom(request)
    body.request_id = ""
    return Request(str(submitter), request.request_id, body.SerializeToString(deterministic=True))


def pack_cluster(cluster: ClusterState, report_time: Callable[[TrainerName], datetime | None]) -> cluster_pb2.Cluster:
    """Return the resource of a cluster; report_time gives each trainer's last report."""
    return cluster_pb2.Cluster(
        name=str(cluster.name),
        load=cluster.load,
        free_slots=cluster.free_slots,
        trainers=[_pack_trainer(each, report_time(each.name)) for each in cluster.trainers],
    )


def _pack_trainer(trainer: TrainerState, report_time: datetime | None) -> cluster_pb2.Trainer:
    message = cluster_pb2.Trainer(
        name=str(trainer.name),
        load=trainer.load,
        cpu_fraction=trainer.cpu_fraction,
        memory_fraction=trainer.memory_fraction,
        gpu_fraction=trainer.gpu_fraction,
        gpus=trainer.gpus,
        slots=trainer.slots,
        busy_slots=trainer.busy,
        warm_slots=trainer.warm,
        sandboxed=trainer.sandboxed,
    )
    if report_time is not None:
        message.report_time.FromDatetime(report_time)
    return message
