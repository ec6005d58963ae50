"""The trainers: what they are told, what they tell, and both over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from loupe.errors import Internal, Unavailable
from loupe.job_kind_messages import pack_kind, pack_selection
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import AlgorithmVersionName, DatasetVersionName, JobName, TrainerName
from loupe.scheduler.v1.training_job_pb2 import JobProgress
from loupe.tasks.messages import pack_objective
from loupe.tasks.objective import Objective
from loupe.timestamps import datetime_of
from loupe.trainer.v1 import attempt_pb2, attempt_service_pb2, attempt_service_pb2_grpc


@dataclass(frozen=True)
class AttemptKey:
    """Names an attempt."""

    job: JobName
    attempt: int


@dataclass(frozen=True)
class AnsweringModel:
    """What a trainer has to know of a model to count its answers. labels: in the order of its outputs.

    parameters: those that it was made with.
    """

    task: str
    labels: Sequence[str]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class AttemptSpec:
    """What a trainer is told about an attempt. max_seconds bounds the training time; max_epochs 0 is no bound.

    pictures, model: which pictures are answered by which model; None where the job is to train.
    """

    key: AttemptKey
    dataset_version: DatasetVersionName
    algorithm_version: AlgorithmVersionName
    algorithm_digest: str
    built_in: bool
    parameters: Mapping[str, Any]
    objective: Objective
    seed: int
    max_seconds: float
    max_epochs: int
    storage_token: str = field(repr=False)
    kind: JobKind = JobKind.TRAIN
    pictures: PictureSelection | None = None
    model: AnsweringModel | None = None


@dataclass(frozen=True)
class Started:
    """Training has begun, or goes on from the last checkpoint."""

    resumed: bool


@dataclass(frozen=True)
class Progress:
    """How far training is. total_steps is 0 while it is not known."""

    phase: str = ""
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True)
class LogLine:
    """What the algorithm image printed."""

    text: str


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint is durable: another attempt goes on from it."""


@dataclass(frozen=True)
class Artifact:
    """A file that an attempt has stored. size in bytes."""

    filename: str
    digest: str
    size: int


@dataclass(frozen=True)
class FinishedAttempt:
    """Training is over; without artifacts it was stopped before there was a model."""

    outcome: str
    artifacts: tuple[Artifact, ...] = ()
    report_json: str = ""
    code_version: str = ""


@dataclass(frozen=True)
class FailedAttempt:
    """Training broke off. reason: a Reason's name without the prefix. retryable: another attempt may fare better."""

    reason: str
    message: str
    retryable: bool


Content = Started | Progress | LogLine | Checkpointed | FinishedAttempt | FailedAttempt


@dataclass(frozen=True)
class AttemptEvent:
    """Something that happened in an attempt.

    time is None where the trainer gave none that there is. content is None for what this version does not know.
    """

    sequence: int
    time: datetime | None
    content: Content | None


class Trainers(Protocol):
    """Told what to do. Raises Unavailable for one that cannot be reached.

    lease: in seconds. seconds: how long the call may take.
    """

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, seconds: float) -> None:
        """Give an attempt to a trainer. Raises TrainerBusy, StaleAttempt, SandboxUnavailable."""

    def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncGenerator[AttemptEvent, None]:
        """Yield the attempt's events after a sequence to the last. Raises AttemptUnknown."""

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, seconds: float) -> bool:
        """Give the attempt more time, and say whether the trainer knows it."""

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, seconds: float) -> None:
        """Give the attempt a new storage token. Raises AttemptUnknown."""

    async def cancel(self, trainer: TrainerName, key: AttemptKey, seconds: float) -> None:
        """Stop the attempt; one that is not known is no error."""


class TrainerClient:
    """The Trainers over gRPC: one channel to each, opened anew when Consul names another address.

    address: the trainer's last known internal address, empty when there never was one. open_channel: dials the address
    and speaks to nobody there but that trainer.
    """

    def __init__(
        self, address: Callable[[TrainerName], str], open_channel: Callable[[str, TrainerName], grpc.aio.Channel]
    ) -> None:
        self._address = address
        self._open = open_channel
        self._channels: dict[TrainerName, tuple[str, grpc.aio.Channel]] = {}

    async def _stub(self, trainer: TrainerName) -> attempt_service_pb2_grpc.AttemptServiceAsyncStub:
        address = self._address(trainer)
        if not address:
            raise Unavailable(f"no address of {trainer} is known", dependency="trainer")
        known = self._channels.get(trainer)
        if known is None or known[0] != address:
            self._channels[trainer] = (address, self._open(address, trainer))
            if known is not None:
                await known[1].close()
        return attempt_service_pb2_grpc.AttemptServiceStub(self._channels[trainer][1])

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, seconds: float) -> None:
        """Give an attempt to a trainer."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.StartAttemptRequest(spec=_pack_spec(spec), lease=_duration(lease))
        await stub.StartAttempt(request, timeout=seconds)

    async def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncGenerator[AttemptEvent, None]:
        """Yield the attempt's events after a sequence to the last."""
        stub = await self._stub(trainer)
        call = stub.WatchAttempt(attempt_service_pb2.WatchAttemptRequest(key=_pack_key(key), after_sequence=after))
        try:
            async for response in call:
                yield unpack_event(response.event)
        finally:
            call.cancel()

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, seconds: float) -> bool:
        """Give the attempt more time, and say whether the trainer knows it."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.RenewLeasesRequest(keys=[_pack_key(key)], lease=_duration(lease))
        states = (await stub.RenewLeases(request, timeout=seconds)).states
        if len(states) != 1:
            raise Internal(f"{trainer} answers a renewal of one lease with {len(states)} states")
        return states[0] != attempt_pb2.ATTEMPT_STATE_UNSPECIFIED

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, seconds: float) -> None:
        """Give the attempt a new storage token."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.ReplaceStorageTokenRequest(key=_pack_key(key), storage_token=token)
        await stub.ReplaceStorageToken(request, timeout=seconds)

    async def cancel(self, trainer: TrainerName, key: AttemptKey, seconds: float) -> None:
        """Stop the attempt."""
        stub = await self._stub(trainer)
        await stub.CancelAttempt(attempt_service_pb2.CancelAttemptRequest(key=_pack_key(key)), timeout=seconds)

    async def close(self) -> None:
        """Close every channel."""
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def _pack_key(key: AttemptKey) -> attempt_pb2.AttemptKey:
    return attempt_pb2.AttemptKey(job=str(key.job), attempt=key.attempt)


def _pack_spec(spec: AttemptSpec) -> attempt_pb2.AttemptSpec:
    message = attempt_pb2.AttemptSpec(
        key=_pack_key(spec.key),
        dataset_version=str(spec.dataset_version),
        algorithm_version=str(spec.algorithm_version),
        algorithm_digest=spec.algorithm_digest,
        built_in=spec.built_in,
        parameters=pack_parameters(spec.parameters),
        objective=pack_objective(spec.objective) if spec.kind is JobKind.TRAIN else None,
        seed=spec.seed,
        max_epochs=spec.max_epochs,
        storage_token=spec.storage_token,
        kind=pack_kind(spec.kind),
        pictures=pack_selection(spec.pictures),
        model=None if spec.model is None else _pack_model(spec.model),
    )
    message.max_duration.FromNanoseconds(round(spec.max_seconds * 1e9))
    return message


def _pack_model(model: AnsweringModel) -> attempt_pb2.AnsweringModel:
    return attempt_pb2.AnsweringModel(
        task=model.task, labels=model.labels, parameters=pack_parameters(model.parameters)
    )


def pack_parameters(parameters: Mapping[str, Any]) -> Struct:
    """Return parameters as a Struct."""
    struct = Struct()
    struct.update(parameters)
    return struct


def unpack_event(event: attempt_pb2.AttemptEvent) -> AttemptEvent:
    """Return what a trainer tells."""
    try:
        time = datetime_of(event.time)
    except ValueError:
        time = None
    return AttemptEvent(event.sequence, time, _content(event))


def _content(event: attempt_pb2.AttemptEvent) -> Content | None:  # noqa: PLR0911 - a line for each kind
    match event.WhichOneof("event"):
        case "started":
            return Started(event.started.resumed)
        case "progress":
            return unpack_progress(event.progress)
        case "log":
            return LogLine(event.log)
        case "checkpointed":
            return Checkpointed()
        case "finished":
            return unpack_finished(event.finished)
        case "failed":
            return FailedAttempt(event.failed.reason, event.failed.message, event.failed.retryable)
        case _:
            return None


def unpack_progress(message: attempt_pb2.AttemptProgress | JobProgress) -> Progress:
    """Return how far training is, as the trainer tells it or as it is stored."""
    return Progress(
        message.phase, message.epoch, message.step, message.total_steps, dict(message.metrics), message.message
    )


def unpack_finished(message: attempt_pb2.AttemptFinished) -> FinishedAttempt:
    """Return what an attempt has brought."""
    artifacts = tuple(Artifact(each.filename, each.digest, each.size) for each in message.artifacts)
    return FinishedAttempt(message.outcome, artifacts, message.report_json, message.code_version)


def pack_finished(finished: FinishedAttempt) -> attempt_pb2.AttemptFinished:
    """Return the message of what an attempt has brought."""
    return attempt_pb2.AttemptFinished(
        outcome=finished.outcome,
        artifacts=[attempt_pb2.Artifact(**vars(each)) for each in finished.artifacts],
        report_json=finished.report_json,
        code_version=finished.code_version,
    )
