"""Models, their versions and checkpoints as the contract's messages."""

from __future__ import annotations

from collections.abc import Iterable

from loupe.names import JobName, ModelName, ModelVersionName
from loupe.storage.v1 import model_service_pb2 as rpc
from loupe.storage.v1.model_pb2 import Model, ModelFile, ModelVersion
from loupe.timestamps import timestamp
from services.storage.blobs.blob_references import BlobReference
from services.storage.models.store import Checkpoint, ModelRow, TrainedModel


def pack_model(row: ModelRow) -> Model:
    """Pack a model."""
    name = ModelName(row.project, row.model)
    return Model(
        name=str(name),
        uid=row.uid,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        latest_released_version=f"{name}/versions/{row.latest_released}" if row.latest_released else "",
        create_time=timestamp(row.create_time),
    )


def unpack_trained(version: ModelVersion) -> TrainedModel:
    """Unpack what a job hands in. Raises InvalidArgument."""
    return TrainedModel(
        job=JobName.parse(version.lineage.job, "lineage.job"),
        attempt=version.lineage.attempt,
        dataset_version=version.lineage.dataset_version,
        released=version.released,
        files=_unpack_files(version.files),
        document=version.SerializeToString(deterministic=True),
    )


def encode_version(trained: TrainedModel, name: ModelVersionName, uid: str, create_time: float) -> bytes:
    """Encode a version as its document: what the job handed in, and what the library says of it."""
    version = ModelVersion.FromString(trained.document)
    version.name, version.uid = str(name), uid
    version.create_time.CopyFrom(timestamp(create_time))
    return version.SerializeToString(deterministic=True)


def version_files(document: bytes) -> list[BlobReference]:
    """Return the files of a version."""
    return _unpack_files(ModelVersion.FromString(document).files)


def pack_version(document: bytes) -> ModelVersion:
    """Pack a version: its document is the message already."""
    return ModelVersion.FromString(document)


def pack_summary(document: bytes) -> ModelVersion:
    """Pack a version without its report."""
    version = ModelVersion.FromString(document)
    version.ClearField("report_json")
    return version


def unpack_checkpoint(checkpoint: rpc.Checkpoint) -> Checkpoint:
    """Unpack a checkpoint. Raises InvalidArgument."""
    job = JobName.parse(checkpoint.job, "checkpoint.job")
    return Checkpoint(job, checkpoint.attempt, _unpack_files(checkpoint.files))


def pack_checkpoint(checkpoint: Checkpoint) -> rpc.Checkpoint:
    """Pack a checkpoint."""
    files = [ModelFile(filename=each.filename, digest=each.digest, size=each.size) for each in checkpoint.files]
    return rpc.Checkpoint(job=str(checkpoint.job), attempt=checkpoint.attempt, files=files)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Encode a checkpoint as its document."""
    return pack_checkpoint(checkpoint).SerializeToString(deterministic=True)


def decode_checkpoint(document: bytes) -> Checkpoint:
    """Read a checkpoint's document."""
    return unpack_checkpoint(rpc.Checkpoint.FromString(document))


def _unpack_files(files: Iterable[ModelFile]) -> list[BlobReference]:
    return [BlobReference(each.filename, each.digest, each.size) for each in files]
