"""Between the trainer's own types and the messages of the contract."""

from __future__ import annotations

import json

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from loupe.job_kind_messages import unpack_kind, unpack_selection
from loupe.job_kinds import JobKind
from loupe.tasks.messages import unpack_objective
from loupe.tasks.objective import Objective
from loupe.timestamps import timestamp
from loupe.trainer.v1 import attempt_pb2
from services.trainer.attempts.attempt import State
from services.trainer.attempts.events import Checkpointed, Event, Failed, Finished, Logged, Progressed, Started
from services.trainer.attempts.spec import AnsweringModel, AttemptKey, AttemptSpec

STATES = {
    State.PREPARING: attempt_pb2.ATTEMPT_STATE_PREPARING,
    State.RUNNING: attempt_pb2.ATTEMPT_STATE_RUNNING,
    State.FINISHED: attempt_pb2.ATTEMPT_STATE_FINISHED,
    State.FAILED: attempt_pb2.ATTEMPT_STATE_FAILED,
    None: attempt_pb2.ATTEMPT_STATE_UNSPECIFIED,
}


def unpack_key(message: attempt_pb2.AttemptKey) -> AttemptKey:
    """Read a key. Raises InvalidArgument."""
    return AttemptKey.parse(message.job, message.attempt)


def unpack_seconds(message: Duration) -> float:
    """Read a duration."""
    return message.ToTimedelta().total_seconds()


def unpack_spec(message: attempt_pb2.AttemptSpec) -> AttemptSpec:
    """Read an attempt. Raises InvalidArgument."""
    kind = unpack_kind("spec.kind", message.kind)
    return AttemptSpec(
        key=unpack_key(message.key),
        dataset_version=message.dataset_version,
        algorithm_version=message.algorithm_version,
        algorithm_digest=message.algorithm_digest,
        built_in=message.built_in,
        parameters=json_format.MessageToDict(message.parameters),
        objective=unpack_objective("spec.objective", message.objective)
        if kind is JobKind.TRAIN
        else Objective("", 0.0),
        seed=message.seed,
        max_seconds=unpack_seconds(message.max_duration) if message.HasField("max_duration") else None,
        max_epochs=message.max_epochs or None,
        storage_token=message.storage_token,
        kind=kind,
        pictures=unpack_selection("spec.pictures", message.pictures),
        model=_unpack_model(message.model) if message.HasField("model") else None,
    )


def _unpack_model(message: attempt_pb2.AnsweringModel) -> AnsweringModel:
    return AnsweringModel(message.task, tuple(message.labels), json_format.MessageToDict(message.parameters))


def pack_event(event: Event, code_version: str) -> attempt_pb2.AttemptEvent:
    """Write an event."""
    message = attempt_pb2.AttemptEvent(sequence=event.sequence, time=timestamp(event.time))
    match event.what:
        case Started(warm, resumed):
            message.started.warm, message.started.resumed = warm, resumed
            message.started.SetInParent()
        case Progressed(progress):
            message.progress.CopyFrom(
                attempt_pb2.AttemptProgress(
                    phase=progress.phase,
                    epoch=progress.epoch,
                    step=progress.step,
                    total_steps=progress.total_steps,
                    metrics=progress.metrics,
                    message=progress.message,
                )
            )
        case Logged(text):
            message.log = text
        case Checkpointed(size):
            message.checkpointed.size = size
            message.checkpointed.SetInParent()
        case Finished():
            message.finished.CopyFrom(_pack_finished(event.what, code_version))
        case Failed(reason, text, retryable):
            message.failed.CopyFrom(attempt_pb2.AttemptFailed(reason=reason, message=text, retryable=retryable))
    return message


def _pack_finished(finished: Finished, code_version: str) -> attempt_pb2.AttemptFinished:
    return attempt_pb2.AttemptFinished(
        outcome=str(finished.outcome),
        artifacts=[
            attempt_pb2.Artifact(filename=file.filename, digest=file.digest, size=file.size)
            for file in finished.artifacts
        ],
        report_json=json.dumps(finished.report, ensure_ascii=False),
        code_version=code_version,
    )
