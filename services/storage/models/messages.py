"""Models, their versions and checkpoints as the contract's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from loupe.errors import invalid
from loupe.names import SHA256, JobName, ModelName, ModelVersionName
from loupe.storage.v1 import model_service_pb2 as rpc
from loupe.storage.v1.model_pb2 import Model, ModelFile, ModelVersion
from loupe.timestamps import timestamp
from services.storage.blobs.blob_references import BlobReference
from services.storage.database.messages import with_lifetime
from services.storage.models.store import Checkpoint, ModelRow, ModelVersionRow, TrainedModel


def pack_model(row: ModelRow) -> Model:
    """Pack a model."""
    name = ModelName(row.project, row.model)
    model = Model(
        name=str(name),
        uid=row.uid,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        latest_released_version=f"{name}/versions/{row.latest_released}" if row.latest_released else "",
        create_time=timestamp(row.create_time),
    )
    return with_lifetime(model, row)


def unpack_trained(version: ModelVersion) -> TrainedModel:
    """Unpack what a job hands in. Raises InvalidArgument."""
    return TrainedModel(
        job=JobName.parse(version.lineage.job, "lineage.job"),
        attempt=version.lineage.attempt,
        dataset_version=version.lineage.dataset_version,
        base_model=version.lineage.base_model,
        algorithm_version=version.lineage.algorithm_version,
        parameter_files=_parameter_files(version.lineage.parameters_json),
        released=version.released,
        files=_unpack_files(version.files),
        document=version.SerializeToString(deterministic=True),
    )


def _parameter_files(parameters_json: str) -> dict[str, str]:
    """Return what may be files among a job's parameters, by their names: those that look like digests."""
    try:
        parameters = json.loads(parameters_json or "{}")
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise invalid("lineage.parameters_json", parameters_json[:100], "a JSON object")
    return {name: each for name, each in parameters.items() if isinstance(each, str) and re.fullmatch(SHA256, each)}


def encode_version(trained: TrainedModel, name: ModelVersionName, uid: str, create_time: float) -> bytes:
    """Encode a version as its document: what the job handed in, and what the library says of it."""
    version = ModelVersion.FromString(trained.document)
    version.name, version.uid = str(name), uid
    version.create_time.CopyFrom(timestamp(create_time))
    return version.SerializeToString(deterministic=True)


def version_files(document: bytes) -> list[BlobReference]:
    """Return the files of a version."""
    return _unpack_files(ModelVersion.FromString(document).files)


def pack_version(row: ModelVersionRow) -> ModelVersion:
    """Pack a version: its document is the message already, but for when it was deleted."""
    return with_lifetime(ModelVersion.FromString(row.document), row)


def pack_summary(row: ModelVersionRow) -> ModelVersion:
    """Pack a version without its report."""
    version = pack_version(row)
    version.ClearField("report_json")
    return version


def encode_remains(document: bytes) -> bytes:
    """Encode what is remembered of a purged version: its name and what it was made from."""
    version = ModelVersion.FromString(document)
    for gone in ("report_json", "files"):
        version.ClearField(gone)
    return version.SerializeToString(deterministic=True)


def encode_deleted(model: ModelRow, version_count: int) -> bytes:
    """Encode the answer to who deleted a model."""
    answer = rpc.DeleteModelResponse(model=pack_model(model), version_count=version_count)
    return answer.SerializeToString(deterministic=True)


def encode_restored(model: ModelRow, version_count: int) -> bytes:
    """Encode the answer to who restored a model."""
    answer = rpc.UndeleteModelResponse(model=pack_model(model), version_count=version_count)
    return answer.SerializeToString(deterministic=True)


def encode_deleted_version(model: ModelRow, version: ModelVersionRow) -> bytes:
    """Encode the answer to who deleted a version."""
    answer = rpc.DeleteModelVersionResponse(model_version=pack_summary(version), model=pack_model(model))
    return answer.SerializeToString(deterministic=True)


def encode_restored_version(model: ModelRow, version: ModelVersionRow) -> bytes:
    """Encode the answer to who restored a version."""
    answer = rpc.UndeleteModelVersionResponse(model_version=pack_summary(version), model=pack_model(model))
    return answer.SerializeToString(deterministic=True)


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
