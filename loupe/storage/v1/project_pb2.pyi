import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Project(_message.Message):
    __slots__ = ("name", "uid", "display_name", "create_time", "delete_time", "expire_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    display_name: str
    create_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., display_name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StoredCount(_message.Message):
    __slots__ = ("count", "byte_count")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    byte_count: int
    def __init__(self, count: _Optional[int] = ..., byte_count: _Optional[int] = ...) -> None: ...

class ProjectQuota(_message.Message):
    __slots__ = ("max_pictures", "max_bytes")
    MAX_PICTURES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_pictures: int
    max_bytes: int
    def __init__(self, max_pictures: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ProjectUsage(_message.Message):
    __slots__ = ("project", "pictures", "blobs", "checkpoints", "model_files", "dataset_versions", "model_versions", "quota", "deleted_dataset_versions", "deleted_model_versions", "unnamed_pictures", "dead_bytes")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FILES_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    DELETED_DATASET_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DELETED_MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    UNNAMED_PICTURES_FIELD_NUMBER: _ClassVar[int]
    DEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    project: str
    pictures: StoredCount
    blobs: StoredCount
    checkpoints: StoredCount
    model_files: StoredCount
    dataset_versions: int
    model_versions: int
    quota: ProjectQuota
    deleted_dataset_versions: int
    deleted_model_versions: int
    unnamed_pictures: StoredCount
    dead_bytes: int
    def __init__(self, project: _Optional[str] = ..., pictures: _Optional[_Union[StoredCount, _Mapping]] = ..., blobs: _Optional[_Union[StoredCount, _Mapping]] = ..., checkpoints: _Optional[_Union[StoredCount, _Mapping]] = ..., model_files: _Optional[_Union[StoredCount, _Mapping]] = ..., dataset_versions: _Optional[int] = ..., model_versions: _Optional[int] = ..., quota: _Optional[_Union[ProjectQuota, _Mapping]] = ..., deleted_dataset_versions: _Optional[int] = ..., deleted_model_versions: _Optional[int] = ..., unnamed_pictures: _Optional[_Union[StoredCount, _Mapping]] = ..., dead_bytes: _Optional[int] = ...) -> None: ...
