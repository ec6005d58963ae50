import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VALIDATION: _ClassVar[Split]
    SPLIT_TEST: _ClassVar[Split]
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VALIDATION: Split
SPLIT_TEST: Split

class Dataset(_message.Message):
    __slots__ = ("name", "uid", "display_name", "latest_version", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    display_name: str
    latest_version: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., display_name: _Optional[str] = ..., latest_version: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DatasetVersion(_message.Message):
    __slots__ = ("name", "uid", "digest", "labels", "picture_count", "byte_count", "near_duplicate_clusters", "split", "creator", "create_time", "base", "added_count", "removed_count", "relabelled_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PICTURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    NEAR_DUPLICATE_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ADDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELABELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    digest: str
    labels: _containers.RepeatedCompositeFieldContainer[LabelCount]
    picture_count: int
    byte_count: int
    near_duplicate_clusters: int
    split: SplitPolicy
    creator: str
    create_time: _timestamp_pb2.Timestamp
    base: str
    added_count: int
    removed_count: int
    relabelled_count: int
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., digest: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[LabelCount, _Mapping]]] = ..., picture_count: _Optional[int] = ..., byte_count: _Optional[int] = ..., near_duplicate_clusters: _Optional[int] = ..., split: _Optional[_Union[SplitPolicy, _Mapping]] = ..., creator: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., base: _Optional[str] = ..., added_count: _Optional[int] = ..., removed_count: _Optional[int] = ..., relabelled_count: _Optional[int] = ...) -> None: ...

class LabelCount(_message.Message):
    __slots__ = ("label", "train_count", "validation_count", "test_count")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRAIN_COUNT_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    label: str
    train_count: int
    validation_count: int
    test_count: int
    def __init__(self, label: _Optional[str] = ..., train_count: _Optional[int] = ..., validation_count: _Optional[int] = ..., test_count: _Optional[int] = ...) -> None: ...

class SplitPolicy(_message.Message):
    __slots__ = ("train_fraction", "validation_fraction", "test_fraction", "seed", "given")
    TRAIN_FRACTION_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEST_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    train_fraction: float
    validation_fraction: float
    test_fraction: float
    seed: int
    given: bool
    def __init__(self, train_fraction: _Optional[float] = ..., validation_fraction: _Optional[float] = ..., test_fraction: _Optional[float] = ..., seed: _Optional[int] = ..., given: _Optional[bool] = ...) -> None: ...

class DatasetItem(_message.Message):
    __slots__ = ("digest", "label", "split", "filename", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    label: str
    split: Split
    filename: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., label: _Optional[str] = ..., split: _Optional[_Union[Split, str]] = ..., filename: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...
