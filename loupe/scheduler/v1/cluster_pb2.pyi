import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Cluster(_message.Message):
    __slots__ = ("name", "load", "trainers", "free_slots")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TRAINERS_FIELD_NUMBER: _ClassVar[int]
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    load: float
    trainers: _containers.RepeatedCompositeFieldContainer[Trainer]
    free_slots: int
    def __init__(self, name: _Optional[str] = ..., load: _Optional[float] = ..., trainers: _Optional[_Iterable[_Union[Trainer, _Mapping]]] = ..., free_slots: _Optional[int] = ...) -> None: ...

class Trainer(_message.Message):
    __slots__ = ("name", "load", "cpu_fraction", "memory_fraction", "gpu_fraction", "gpus", "slots", "busy_slots", "warm_slots", "sandboxed", "report_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CPU_FRACTION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FRACTION_FIELD_NUMBER: _ClassVar[int]
    GPU_FRACTION_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SLOTS_FIELD_NUMBER: _ClassVar[int]
    WARM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    SANDBOXED_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    load: float
    cpu_fraction: float
    memory_fraction: float
    gpu_fraction: float
    gpus: int
    slots: int
    busy_slots: int
    warm_slots: int
    sandboxed: bool
    report_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., load: _Optional[float] = ..., cpu_fraction: _Optional[float] = ..., memory_fraction: _Optional[float] = ..., gpu_fraction: _Optional[float] = ..., gpus: _Optional[int] = ..., slots: _Optional[int] = ..., busy_slots: _Optional[int] = ..., warm_slots: _Optional[int] = ..., sandboxed: _Optional[bool] = ..., report_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("trainer", "considered", "summary", "load_threshold")
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    CONSIDERED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    LOAD_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    trainer: str
    considered: _containers.RepeatedCompositeFieldContainer[ConsideredCluster]
    summary: str
    load_threshold: float
    def __init__(self, trainer: _Optional[str] = ..., considered: _Optional[_Iterable[_Union[ConsideredCluster, _Mapping]]] = ..., summary: _Optional[str] = ..., load_threshold: _Optional[float] = ...) -> None: ...

class ConsideredCluster(_message.Message):
    __slots__ = ("cluster", "load", "free_slots", "candidate", "chosen", "explanation")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    load: float
    free_slots: int
    candidate: bool
    chosen: bool
    explanation: str
    def __init__(self, cluster: _Optional[str] = ..., load: _Optional[float] = ..., free_slots: _Optional[int] = ..., candidate: _Optional[bool] = ..., chosen: _Optional[bool] = ..., explanation: _Optional[str] = ...) -> None: ...
