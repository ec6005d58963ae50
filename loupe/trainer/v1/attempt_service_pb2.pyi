import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from loupe.common.v1 import access_pb2 as _access_pb2
from loupe.trainer.v1 import attempt_pb2 as _attempt_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartAttemptRequest(_message.Message):
    __slots__ = ("spec", "lease")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    spec: _attempt_pb2.AttemptSpec
    lease: _duration_pb2.Duration
    def __init__(self, spec: _Optional[_Union[_attempt_pb2.AttemptSpec, _Mapping]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StartAttemptResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _attempt_pb2.AttemptState
    def __init__(self, state: _Optional[_Union[_attempt_pb2.AttemptState, str]] = ...) -> None: ...

class WatchAttemptRequest(_message.Message):
    __slots__ = ("key", "after_sequence")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    key: _attempt_pb2.AttemptKey
    after_sequence: int
    def __init__(self, key: _Optional[_Union[_attempt_pb2.AttemptKey, _Mapping]] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchAttemptResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _attempt_pb2.AttemptEvent
    def __init__(self, event: _Optional[_Union[_attempt_pb2.AttemptEvent, _Mapping]] = ...) -> None: ...

class RenewLeasesRequest(_message.Message):
    __slots__ = ("keys", "lease")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[_attempt_pb2.AttemptKey]
    lease: _duration_pb2.Duration
    def __init__(self, keys: _Optional[_Iterable[_Union[_attempt_pb2.AttemptKey, _Mapping]]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RenewLeasesResponse(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_attempt_pb2.AttemptState]
    def __init__(self, states: _Optional[_Iterable[_Union[_attempt_pb2.AttemptState, str]]] = ...) -> None: ...

class ReplaceStorageTokenRequest(_message.Message):
    __slots__ = ("key", "storage_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STORAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: _attempt_pb2.AttemptKey
    storage_token: str
    def __init__(self, key: _Optional[_Union[_attempt_pb2.AttemptKey, _Mapping]] = ..., storage_token: _Optional[str] = ...) -> None: ...

class ReplaceStorageTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelAttemptRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: _attempt_pb2.AttemptKey
    def __init__(self, key: _Optional[_Union[_attempt_pb2.AttemptKey, _Mapping]] = ...) -> None: ...

class CancelAttemptResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
