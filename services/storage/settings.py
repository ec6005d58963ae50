"""What the storage service can be told from outside."""

from __future__ import annotations

from pydantic import Field

from loupe.limits import MAX_MESSAGE_BYTES
from loupe.settings import ServiceSettings

_MOST = 2**63 - 1


class StorageSettings(ServiceSettings):
    """Adds to the common ones where finished files lie and how much work goes on beside the calls."""

    instance: str = "storage"
    """Name of this process in Consul."""

    objects_url: str = ""
    """Where finished packs and blobs lie, as obstore takes it: "s3://bucket/loupe". Empty: below `state`."""

    pack_bytes: int = Field(default=64 << 20, ge=1)
    """Length in bytes at which a pack of pictures is sealed and the next one begun."""

    max_blob_bytes: int = Field(default=16 << 30, ge=1)
    """Largest single blob that is taken, in bytes."""

    max_project_pictures: int = Field(default=0, ge=0, le=_MOST)
    """Most pictures of a project that has no quota of its own; 0: no limit."""

    max_project_bytes: int = Field(default=0, ge=0, le=_MOST)
    """Most bytes of pictures and other blobs of a project that has no quota of its own; 0: no limit."""

    reserve_bytes: int = Field(default=64 << 20, ge=0)
    """Free space that uploads leave on the disk, so that the database can still be written."""

    decoding_processes: int = Field(default=1, ge=1, le=64)
    """Processes that decode uploaded pictures, at low priority; one more decodes those that take long."""

    upload_bytes: int = Field(default=8 * MAX_MESSAGE_BYTES, ge=2 * MAX_MESSAGE_BYTES)
    """Bytes of uploads that are in memory at a time; a project, and an account, has half of them at most."""

    download_bytes: int = Field(default=128 << 20, ge=64 << 20)
    """Bytes of downloads that are in memory at a time; a project, and an account, has half of them at most."""

    stalled_seconds: float = Field(default=20.0, gt=0)
    """How long a stream may keep its share while nothing comes or goes and somebody else waits for it."""

    keep_deleted_days: float = Field(default=30.0, ge=0, le=36_500)
    """How many days projects, data sets, models and versions can be restored once they are deleted."""

    keep_unnamed_days: float = Field(default=7.0, ge=0, le=36_500)
    """How many days pictures stay that no version of a data set names."""

    keep_unnamed_blobs_days: float = Field(default=90.0, ge=0, le=36_500)
    """How many days other blobs stay that are part of nothing and that nobody asks for, such as weights."""

    collect_seconds: float = Field(default=3600.0, gt=0)
    """How far apart the passes are that remove what is to be removed; the first one comes that long after the start."""

    audit_days: int = Field(default=400, ge=1)
    """How many days the rows of the audit log are kept."""
