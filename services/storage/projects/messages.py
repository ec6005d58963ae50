"""Projects as the contract's messages."""

from __future__ import annotations

from loupe.names import ProjectName
from loupe.storage.v1.project_pb2 import Project
from loupe.timestamps import timestamp
from services.storage.projects.store import ProjectRow


def pack_project(row: ProjectRow) -> Project:
    """Pack a project."""
    return Project(
        name=str(ProjectName(row.project)),
        uid=row.uid,
        display_name=row.display_name,
        create_time=timestamp(row.create_time),
    )


def encode_project(row: ProjectRow) -> bytes:
    """Encode a project as the answer to the request that made it is remembered."""
    return pack_project(row).SerializeToString(deterministic=True)
