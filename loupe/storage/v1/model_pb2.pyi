import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from loupe.common.v1 import objective_pb2 as _objective_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("name", "uid", "latest_version", "latest_released_version", "create_time", "delete_time", "expire_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    LATEST_RELEASED_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    latest_version: str
    latest_released_version: str
    create_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., latest_version: _Optional[str] = ..., latest_released_version: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "uid", "released", "labels", "files", "metrics", "lineage", "report_json", "create_time", "delete_time", "expire_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    released: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    files: _containers.RepeatedCompositeFieldContainer[ModelFile]
    metrics: ModelMetrics
    lineage: ModelLineage
    report_json: str
    create_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., released: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ..., files: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., metrics: _Optional[_Union[ModelMetrics, _Mapping]] = ..., lineage: _Optional[_Union[ModelLineage, _Mapping]] = ..., report_json: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ModelFile(_message.Message):
    __slots__ = ("filename", "digest", "size")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    filename: str
    digest: str
    size: int
    def __init__(self, filename: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ModelMetrics(_message.Message):
    __slots__ = ("validation_accuracy", "test_accuracy", "test_balanced_accuracy", "test_accuracy_low", "test_accuracy_high", "test_pictures", "target_accuracy", "validation_score", "test_lowest_recall", "objective", "task", "validation", "test")
    class ValidationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TestEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALIDATION_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    TEST_BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_LOW_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_HIGH_FIELD_NUMBER: _ClassVar[int]
    TEST_PICTURES_FIELD_NUMBER: _ClassVar[int]
    TARGET_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SCORE_FIELD_NUMBER: _ClassVar[int]
    TEST_LOWEST_RECALL_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    validation_accuracy: float
    test_accuracy: float
    test_balanced_accuracy: float
    test_accuracy_low: float
    test_accuracy_high: float
    test_pictures: int
    target_accuracy: float
    validation_score: float
    test_lowest_recall: float
    objective: _objective_pb2.Objective
    task: str
    validation: _containers.ScalarMap[str, float]
    test: _containers.ScalarMap[str, float]
    def __init__(self, validation_accuracy: _Optional[float] = ..., test_accuracy: _Optional[float] = ..., test_balanced_accuracy: _Optional[float] = ..., test_accuracy_low: _Optional[float] = ..., test_accuracy_high: _Optional[float] = ..., test_pictures: _Optional[int] = ..., target_accuracy: _Optional[float] = ..., validation_score: _Optional[float] = ..., test_lowest_recall: _Optional[float] = ..., objective: _Optional[_Union[_objective_pb2.Objective, _Mapping]] = ..., task: _Optional[str] = ..., validation: _Optional[_Mapping[str, float]] = ..., test: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ModelLineage(_message.Message):
    __slots__ = ("job", "attempt", "dataset_version", "dataset_digest", "algorithm_version", "algorithm_digest", "parameters_json", "seed", "code_version", "trainer", "submitter", "base_model")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
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
    base_model: str
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[int] = ..., dataset_version: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., algorithm_version: _Optional[str] = ..., algorithm_digest: _Optional[str] = ..., parameters_json: _Optional[str] = ..., seed: _Optional[int] = ..., code_version: _Optional[str] = ..., trainer: _Optional[str] = ..., submitter: _Optional[str] = ..., base_model: _Optional[str] = ...) -> None: ...
