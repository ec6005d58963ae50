"""Storage: what a job may refer to, and the library that its result joins."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import grpc

from loupe.names import AlgorithmVersionName, DatasetVersionName, JobName, ModelName, ModelVersionName
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.tasks import DEFAULT
from loupe.tasks.classification import ACCURACY
from loupe.tasks.messages import pack_objective, unpack_objective
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount
from services.scheduler.clients.trainers import Artifact

WEIGHTS_FILE = "model.safetensors"
"""The file of a model that another training can start from."""


@dataclass(frozen=True)
class DatasetVersion:
    """A data set version as far as jobs need to know it.

    pictures: how many it has. by_class: each class is in one split only.
    """

    name: DatasetVersionName
    digest: str
    labels: Sequence[LabelCount]
    pictures: int = 0
    by_class: bool = False


@dataclass(frozen=True)
class BaseModel:
    """A model version as far as a job needs to know it that starts from it, or has it answer.

    files: their sha256 in hex by their names. algorithm: "algorithms/…/versions/…", which made it with these
    parameters. labels: its classes, in the order of its outputs.
    """

    name: ModelVersionName
    task: str
    files: Mapping[str, str]
    algorithm: str
    parameters: Mapping[str, Any]
    labels: Sequence[str] = ()

    @property
    def weights(self) -> str:
        """The sha256 of its safetensors file in hex; empty where it has none."""
        return self.files.get(WEIGHTS_FILE, "")


@dataclass(frozen=True)
class AlgorithmVersion:
    """A version of an algorithm image; manifest_toml is its algorithm.toml."""

    name: AlgorithmVersionName
    digest: str
    manifest_toml: str
    built_in: bool


@dataclass(frozen=True)
class ModelMetrics:
    """What a model reached and should have; fractions are 0 to 1, those of the test 0 without test pictures.

    objective, validation_score: what was asked for, and its metric on the validation pictures. task: the name of the
    task; validation and test: its metrics by name.
    """

    objective: Objective
    validation_accuracy: float = 0.0
    test_accuracy: float = 0.0
    test_balanced_accuracy: float = 0.0
    test_accuracy_low: float = 0.0
    test_accuracy_high: float = 0.0
    test_pictures: int = 0
    validation_score: float = 0.0
    test_lowest_recall: float = 0.0
    task: str = ""
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelLineage:
    """Where a model comes from, names as text: with all of it the same training can be run again."""

    job: str
    attempt: int
    dataset_version: str
    dataset_digest: str
    algorithm_version: str
    algorithm_digest: str
    parameters_json: str
    seed: int
    code_version: str
    trainer: str
    submitter: str
    base_model: str = ""


@dataclass(frozen=True)
class ModelVersion:
    """A model version that is to be published."""

    released: bool
    labels: Sequence[str]
    files: Sequence[Artifact]
    metrics: ModelMetrics
    lineage: ModelLineage
    report_json: str


class StorageClient:
    """Storage over gRPC. timeout in seconds. Raises NotFound, and Unavailable while storage is away."""

    def __init__(self, channel: Callable[[], Awaitable[grpc.aio.Channel]], timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout

    async def dataset_version(self, name: DatasetVersionName) -> DatasetVersion:
        """Return a version; "latest" is resolved."""
        stub = dataset_service_pb2_grpc.DatasetServiceStub(await self._channel())
        request = dataset_service_pb2.GetDatasetVersionRequest(name=str(name))
        found = (await stub.GetDatasetVersion(request, timeout=self._timeout)).dataset_version
        labels = [
            LabelCount(**{each.name: getattr(label, each.name) for each in fields(LabelCount)})
            for label in found.labels
        ]
        by_class = found.split.unit == dataset_pb2.SPLIT_UNIT_CLASS
        name = DatasetVersionName.parse(found.name)
        return DatasetVersion(name, found.digest, labels, found.picture_count, by_class)

    async def algorithm_version(self, name: AlgorithmVersionName) -> AlgorithmVersion:
        """Return a version; "latest" is resolved."""
        stub = algorithm_service_pb2_grpc.AlgorithmServiceStub(await self._channel())
        request = algorithm_service_pb2.GetAlgorithmVersionRequest(name=str(name))
        found = (await stub.GetAlgorithmVersion(request, timeout=self._timeout)).algorithm_version
        return AlgorithmVersion(
            AlgorithmVersionName.parse(found.name), found.digest, found.manifest_toml, found.built_in
        )

    async def base_model(self, name: ModelVersionName) -> BaseModel:
        """Return a model version; "latest" is resolved to the newest released one."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.GetModelVersionRequest(name=str(name))
        found = (await stub.GetModelVersion(request, timeout=self._timeout)).model_version
        return BaseModel(
            name=ModelVersionName.parse(found.name),
            task=found.metrics.task or DEFAULT.name,
            files={each.filename: each.digest for each in found.files},
            algorithm=found.lineage.algorithm_version,
            parameters=json.loads(found.lineage.parameters_json or "{}"),
            labels=tuple(found.labels),
        )

    async def raise_fence(self, job: JobName, attempt: int) -> None:
        """Refuse what older attempts write from now on."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.RaiseFenceRequest(job=str(job), attempt=attempt)
        await stub.RaiseFence(request, timeout=self._timeout)

    async def has_checkpoint(self, job: JobName) -> bool:
        """Say whether there is a checkpoint that the job, or another in its place, can go on from."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.GetCheckpointRequest(job=str(job))
        return (await stub.GetCheckpoint(request, timeout=self._timeout)).HasField("checkpoint")

    async def copy_checkpoint(self, job: JobName, source: JobName) -> None:
        """Have a job begin with the checkpoint of another one; one that it has stays. Raises FailedPrecondition."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.CopyCheckpointRequest(job=str(job), source=str(source))
        await stub.CopyCheckpoint(request, timeout=self._timeout)

    async def remove_checkpoint(self, job: JobName) -> None:
        """Remove the checkpoint of a job that is over; without one, do nothing."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.RemoveCheckpointRequest(job=str(job))
        await stub.RemoveCheckpoint(request, timeout=self._timeout)

    async def publish(self, model: ModelName, version: ModelVersion) -> str:
        """Return the name of the job's one model version, made now or before."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.PublishModelVersionRequest(parent=str(model), model_version=_pack_version(version))
        return (await stub.PublishModelVersion(request, timeout=self._timeout)).model_version.name


def _pack_version(version: ModelVersion) -> model_pb2.ModelVersion:
    return model_pb2.ModelVersion(
        released=version.released,
        labels=version.labels,
        files=[model_pb2.ModelFile(**vars(each)) for each in version.files],
        metrics=pack_metrics(version.metrics),
        lineage=model_pb2.ModelLineage(**vars(version.lineage)),
        report_json=version.report_json,
    )


_FIGURES = tuple(each.name for each in fields(ModelMetrics) if each.name != "objective")
_MAPS = ("validation", "test")


def pack_metrics(metrics: ModelMetrics) -> model_pb2.ModelMetrics:
    """Return the message of a model's metrics."""
    figures = {name: getattr(metrics, name) for name in _FIGURES}
    return model_pb2.ModelMetrics(objective=pack_objective(metrics.objective), **figures)


def unpack_metrics(message: model_pb2.ModelMetrics) -> ModelMetrics:
    """Return a model's metrics; those from before there were objectives are of an accuracy."""
    figures = {name: getattr(message, name) for name in _FIGURES} | {
        name: dict(getattr(message, name)) for name in _MAPS
    }
    if message.HasField("objective"):
        return ModelMetrics(unpack_objective("metrics.objective", message.objective), **figures)
    figures["validation_score"] = message.validation_accuracy
    return ModelMetrics(Objective(ACCURACY, message.target_accuracy), **figures)
