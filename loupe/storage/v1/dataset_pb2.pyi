import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SplitUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNIT_UNSPECIFIED: _ClassVar[SplitUnit]
    SPLIT_UNIT_PICTURE: _ClassVar[SplitUnit]
    SPLIT_UNIT_CLASS: _ClassVar[SplitUnit]

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VALIDATION: _ClassVar[Split]
    SPLIT_TEST: _ClassVar[Split]
SPLIT_UNIT_UNSPECIFIED: SplitUnit
SPLIT_UNIT_PICTURE: SplitUnit
SPLIT_UNIT_CLASS: SplitUnit
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VALIDATION: Split
SPLIT_TEST: Split

class Dataset(_message.Message):
    __slots__ = ("name", "uid", "display_name", "latest_version", "create_time", "delete_time", "expire_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    display_name: str
    latest_version: str
    create_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., display_name: _Optional[str] = ..., latest_version: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DatasetVersion(_message.Message):
    __slots__ = ("name", "uid", "digest", "labels", "picture_count", "byte_count", "near_duplicate_clusters", "split", "creator", "create_time", "base", "added_count", "removed_count", "relabelled_count", "unlabelled_count", "nothing_there_count", "annotated_count", "delete_time", "expire_time")
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
    UNLABELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    NOTHING_THERE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANNOTATED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
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
    unlabelled_count: int
    nothing_there_count: int
    annotated_count: int
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., digest: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[LabelCount, _Mapping]]] = ..., picture_count: _Optional[int] = ..., byte_count: _Optional[int] = ..., near_duplicate_clusters: _Optional[int] = ..., split: _Optional[_Union[SplitPolicy, _Mapping]] = ..., creator: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., base: _Optional[str] = ..., added_count: _Optional[int] = ..., removed_count: _Optional[int] = ..., relabelled_count: _Optional[int] = ..., unlabelled_count: _Optional[int] = ..., nothing_there_count: _Optional[int] = ..., annotated_count: _Optional[int] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LabelCount(_message.Message):
    __slots__ = ("label", "train_count", "validation_count", "test_count", "train_regions", "validation_regions", "test_regions")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRAIN_COUNT_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_REGIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_REGIONS_FIELD_NUMBER: _ClassVar[int]
    TEST_REGIONS_FIELD_NUMBER: _ClassVar[int]
    label: str
    train_count: int
    validation_count: int
    test_count: int
    train_regions: int
    validation_regions: int
    test_regions: int
    def __init__(self, label: _Optional[str] = ..., train_count: _Optional[int] = ..., validation_count: _Optional[int] = ..., test_count: _Optional[int] = ..., train_regions: _Optional[int] = ..., validation_regions: _Optional[int] = ..., test_regions: _Optional[int] = ...) -> None: ...

class SplitPolicy(_message.Message):
    __slots__ = ("train_fraction", "validation_fraction", "test_fraction", "seed", "given", "unit")
    TRAIN_FRACTION_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEST_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    train_fraction: float
    validation_fraction: float
    test_fraction: float
    seed: int
    given: bool
    unit: SplitUnit
    def __init__(self, train_fraction: _Optional[float] = ..., validation_fraction: _Optional[float] = ..., test_fraction: _Optional[float] = ..., seed: _Optional[int] = ..., given: _Optional[bool] = ..., unit: _Optional[_Union[SplitUnit, str]] = ...) -> None: ...

class DatasetItem(_message.Message):
    __slots__ = ("digest", "label", "split", "filename", "size", "annotations", "nothing_there", "width", "height")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    NOTHING_THERE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    digest: str
    label: str
    split: Split
    filename: str
    size: int
    annotations: _containers.RepeatedCompositeFieldContainer[Annotation]
    nothing_there: bool
    width: int
    height: int
    def __init__(self, digest: _Optional[str] = ..., label: _Optional[str] = ..., split: _Optional[_Union[Split, str]] = ..., filename: _Optional[str] = ..., size: _Optional[int] = ..., annotations: _Optional[_Iterable[_Union[Annotation, _Mapping]]] = ..., nothing_there: _Optional[bool] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Annotation(_message.Message):
    __slots__ = ("label", "box", "polygon", "author", "model", "confidence", "verified", "verifier", "verify_time")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    VERIFY_TIME_FIELD_NUMBER: _ClassVar[int]
    label: str
    box: Box
    polygon: Polygon
    author: str
    model: str
    confidence: float
    verified: bool
    verifier: str
    verify_time: _timestamp_pb2.Timestamp
    def __init__(self, label: _Optional[str] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., polygon: _Optional[_Union[Polygon, _Mapping]] = ..., author: _Optional[str] = ..., model: _Optional[str] = ..., confidence: _Optional[float] = ..., verified: _Optional[bool] = ..., verifier: _Optional[str] = ..., verify_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x_min", "y_min", "x_max", "y_max")
    X_MIN_FIELD_NUMBER: _ClassVar[int]
    Y_MIN_FIELD_NUMBER: _ClassVar[int]
    X_MAX_FIELD_NUMBER: _ClassVar[int]
    Y_MAX_FIELD_NUMBER: _ClassVar[int]
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    def __init__(self, x_min: _Optional[float] = ..., y_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_max: _Optional[float] = ...) -> None: ...

class Polygon(_message.Message):
    __slots__ = ("coordinates",)
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    coordinates: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, coordinates: _Optional[_Iterable[float]] = ...) -> None: ...
