"""Projects as the contract's messages."""

from __future__ import annotations

from loupe.names import ProjectName
from loupe.storage.v1.project_pb2 import Project, ProjectQuota, ProjectUsage, StoredCount
from loupe.storage.v1.project_service_pb2 import DeleteProjectResponse, UndeleteProjectResponse
from loupe.timestamps import timestamp
from services.storage.database.messages import with_lifetime
from services.storage.projects.quotas import Parts, Quota, Room
from services.storage.projects.store import ProjectRow


def pack_project(row: ProjectRow) -> Project:
    """Pack a project."""
    project = Project(
        name=str(ProjectName(row.project)),
        uid=row.uid,
        display_name=row.display_name,
        create_time=timestamp(row.create_time),
    )
    return with_lifetime(project, row)


def encode_project(row: ProjectRow) -> bytes:
    """Encode a project as the answer to the request that made it is remembered."""
    return pack_project(row).SerializeToString(deterministic=True)


def encode_deleted(row: ProjectRow) -> bytes:
    """Encode the answer to who deleted a project."""
    return DeleteProjectResponse(project=pack_project(row)).SerializeToString(deterministic=True)


def encode_restored(row: ProjectRow) -> bytes:
    """Encode the answer to who restored a project."""
    return UndeleteProjectResponse(project=pack_project(row)).SerializeToString(deterministic=True)


def pack_usage(room: Room, parts: Parts) -> ProjectUsage:
    """Pack what a project holds and may hold."""
    usage = room.usage
    return ProjectUsage(
        project=str(ProjectName(room.project)),
        pictures=StoredCount(count=usage.pictures, byte_count=usage.picture_bytes),
        blobs=StoredCount(count=usage.blobs, byte_count=usage.blob_bytes),
        checkpoints=_held(parts, "checkpoint"),
        model_files=_held(parts, "model"),
        dataset_versions=parts.dataset_versions,
        model_versions=parts.model_versions,
        quota=pack_quota(room.quota),
        deleted_dataset_versions=parts.deleted_dataset_versions,
        deleted_model_versions=parts.deleted_model_versions,
        unnamed_pictures=StoredCount(count=parts.unnamed[0], byte_count=parts.unnamed[1]),
        dead_bytes=parts.dead_bytes,
    )


def _held(parts: Parts, kind: str) -> StoredCount:
    count, size = parts.held.get(kind, (0, 0))
    return StoredCount(count=count, byte_count=size)


def pack_quota(quota: Quota) -> ProjectQuota:
    """Pack a quota."""
    return ProjectQuota(max_pictures=quota.pictures, max_bytes=quota.bytes)
