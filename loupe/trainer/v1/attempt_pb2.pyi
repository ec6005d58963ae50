import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from loupe.common.v1 import job_kind_pb2 as _job_kind_pb2
from loupe.common.v1 import objective_pb2 as _objective_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttemptState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTEMPT_STATE_UNSPECIFIED: _ClassVar[AttemptState]
    ATTEMPT_STATE_PREPARING: _ClassVar[AttemptState]
    ATTEMPT_STATE_RUNNING: _ClassVar[AttemptState]
    ATTEMPT_STATE_FINISHED: _ClassVar[AttemptState]
    ATTEMPT_STATE_FAILED: _ClassVar[AttemptState]
ATTEMPT_STATE_UNSPECIFIED: AttemptState
ATTEMPT_STATE_PREPARING: AttemptState
ATTEMPT_STATE_RUNNING: AttemptState
ATTEMPT_STATE_FINISHED: AttemptState
ATTEMPT_STATE_FAILED: AttemptState

class AttemptKey(_message.Message):
    __slots__ = ("job", "attempt")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: int
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class AttemptSpec(_message.Message):
    __slots__ = ("key", "dataset_version", "algorithm_version", "algorithm_digest", "built_in", "parameters", "seed", "max_duration", "max_epochs", "storage_token", "objective", "kind", "pictures", "model")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BUILT_IN_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    MAX_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    dataset_version: str
    algorithm_version: str
    algorithm_digest: str
    built_in: bool
    parameters: _struct_pb2.Struct
    seed: int
    max_duration: _duration_pb2.Duration
    max_epochs: int
    storage_token: str
    objective: _objective_pb2.Objective
    kind: _job_kind_pb2.JobKind
    pictures: _job_kind_pb2.PictureSelection
    model: AnsweringModel
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., dataset_version: _Optional[str] = ..., algorithm_version: _Optional[str] = ..., algorithm_digest: _Optional[str] = ..., built_in: _Optional[bool] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., seed: _Optional[int] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_epochs: _Optional[int] = ..., storage_token: _Optional[str] = ..., objective: _Optional[_Union[_objective_pb2.Objective, _Mapping]] = ..., kind: _Optional[_Union[_job_kind_pb2.JobKind, str]] = ..., pictures: _Optional[_Union[_job_kind_pb2.PictureSelection, str]] = ..., model: _Optional[_Union[AnsweringModel, _Mapping]] = ...) -> None: ...

class AnsweringModel(_message.Message):
    __slots__ = ("task", "labels", "parameters")
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    task: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    parameters: _struct_pb2.Struct
    def __init__(self, task: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class AttemptEvent(_message.Message):
    __slots__ = ("sequence", "time", "started", "progress", "log", "checkpointed", "finished", "failed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    started: AttemptStarted
    progress: AttemptProgress
    log: str
    checkpointed: AttemptCheckpointed
    finished: AttemptFinished
    failed: AttemptFailed
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[AttemptStarted, _Mapping]] = ..., progress: _Optional[_Union[AttemptProgress, _Mapping]] = ..., log: _Optional[str] = ..., checkpointed: _Optional[_Union[AttemptCheckpointed, _Mapping]] = ..., finished: _Optional[_Union[AttemptFinished, _Mapping]] = ..., failed: _Optional[_Union[AttemptFailed, _Mapping]] = ...) -> None: ...

class AttemptStarted(_message.Message):
    __slots__ = ("warm", "resumed")
    WARM_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    warm: bool
    resumed: bool
    def __init__(self, warm: _Optional[bool] = ..., resumed: _Optional[bool] = ...) -> None: ...

class AttemptProgress(_message.Message):
    __slots__ = ("phase", "epoch", "step", "total_steps", "metrics", "message")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PHASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    epoch: int
    step: int
    total_steps: int
    metrics: _containers.ScalarMap[str, float]
    message: str
    def __init__(self, phase: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., total_steps: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., message: _Optional[str] = ...) -> None: ...

class AttemptCheckpointed(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class AttemptFinished(_message.Message):
    __slots__ = ("outcome", "artifacts", "report_json", "code_version")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
    report_json: str
    code_version: str
    def __init__(self, outcome: _Optional[str] = ..., artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ..., report_json: _Optional[str] = ..., code_version: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("filename", "digest", "size")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    filename: str
    digest: str
    size: int
    def __init__(self, filename: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class AttemptFailed(_message.Message):
    __slots__ = ("reason", "message", "retryable")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    retryable: bool
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...
