import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from loupe.common.v1 import access_pb2 as _access_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthorizeRequest(_message.Message):
    __slots__ = ("account", "project", "action", "login")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    LOGIN_FIELD_NUMBER: _ClassVar[int]
    account: str
    project: str
    action: str
    login: str
    def __init__(self, account: _Optional[str] = ..., project: _Optional[str] = ..., action: _Optional[str] = ..., login: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("allowed", "member", "group", "parameter", "threshold", "active")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    member: bool
    group: str
    parameter: int
    threshold: int
    active: bool
    def __init__(self, allowed: _Optional[bool] = ..., member: _Optional[bool] = ..., group: _Optional[str] = ..., parameter: _Optional[int] = ..., threshold: _Optional[int] = ..., active: _Optional[bool] = ...) -> None: ...

class AuthorizeResponse(_message.Message):
    __slots__ = ("decision", "revision")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    revision: int
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class WhyDeniedRequest(_message.Message):
    __slots__ = ("account", "project", "action")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    account: str
    project: str
    action: str
    def __init__(self, account: _Optional[str] = ..., project: _Optional[str] = ..., action: _Optional[str] = ...) -> None: ...

class WhyDeniedResponse(_message.Message):
    __slots__ = ("decision", "explanation")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    explanation: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., explanation: _Optional[str] = ...) -> None: ...

class WatchPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchPolicyResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class EnsureProjectRequest(_message.Message):
    __slots__ = ("project", "project_uid", "owner")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_UID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    project: str
    project_uid: str
    owner: str
    def __init__(self, project: _Optional[str] = ..., project_uid: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class EnsureProjectResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMembershipsRequest(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: str
    def __init__(self, account: _Optional[str] = ...) -> None: ...

class ListMembershipsResponse(_message.Message):
    __slots__ = ("projects",)
    PROJECTS_FIELD_NUMBER: _ClassVar[int]
    projects: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, projects: _Optional[_Iterable[str]] = ...) -> None: ...

class IssueAttemptTokenRequest(_message.Message):
    __slots__ = ("account", "job", "attempt")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    account: str
    job: str
    attempt: int
    def __init__(self, account: _Optional[str] = ..., job: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class IssueAttemptTokenResponse(_message.Message):
    __slots__ = ("token", "lifetime")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    token: str
    lifetime: _duration_pb2.Duration
    def __init__(self, token: _Optional[str] = ..., lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RemoveProjectRequest(_message.Message):
    __slots__ = ("project", "project_uid")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_UID_FIELD_NUMBER: _ClassVar[int]
    project: str
    project_uid: str
    def __init__(self, project: _Optional[str] = ..., project_uid: _Optional[str] = ...) -> None: ...

class RemoveProjectResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
