from loupe.common.v1 import access_pb2 as _access_pb2
from loupe.storage.v1 import algorithm_pb2 as _algorithm_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishAlgorithmVersionRequest(_message.Message):
    __slots__ = ("header", "chunk", "closing")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    header: AlgorithmVersionHeader
    chunk: bytes
    closing: AlgorithmVersionClosing
    def __init__(self, header: _Optional[_Union[AlgorithmVersionHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., closing: _Optional[_Union[AlgorithmVersionClosing, _Mapping]] = ...) -> None: ...

class AlgorithmVersionHeader(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class AlgorithmVersionClosing(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class PublishAlgorithmVersionResponse(_message.Message):
    __slots__ = ("algorithm_version",)
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    algorithm_version: _algorithm_pb2.AlgorithmVersion
    def __init__(self, algorithm_version: _Optional[_Union[_algorithm_pb2.AlgorithmVersion, _Mapping]] = ...) -> None: ...

class GetAlgorithmVersionRequest(_message.Message):
    __slots__ = ("name", "show_deleted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    name: str
    show_deleted: bool
    def __init__(self, name: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class GetAlgorithmVersionResponse(_message.Message):
    __slots__ = ("algorithm_version",)
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    algorithm_version: _algorithm_pb2.AlgorithmVersion
    def __init__(self, algorithm_version: _Optional[_Union[_algorithm_pb2.AlgorithmVersion, _Mapping]] = ...) -> None: ...

class ListAlgorithmVersionsRequest(_message.Message):
    __slots__ = ("algorithm", "page_size", "page_token", "show_deleted")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    page_size: int
    page_token: str
    show_deleted: bool
    def __init__(self, algorithm: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class ListAlgorithmVersionsResponse(_message.Message):
    __slots__ = ("algorithm_versions", "next_page_token")
    ALGORITHM_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    algorithm_versions: _containers.RepeatedCompositeFieldContainer[_algorithm_pb2.AlgorithmVersion]
    next_page_token: str
    def __init__(self, algorithm_versions: _Optional[_Iterable[_Union[_algorithm_pb2.AlgorithmVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DownloadAlgorithmVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DownloadAlgorithmVersionResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class DeleteAlgorithmVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteAlgorithmVersionResponse(_message.Message):
    __slots__ = ("algorithm_version",)
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    algorithm_version: _algorithm_pb2.AlgorithmVersion
    def __init__(self, algorithm_version: _Optional[_Union[_algorithm_pb2.AlgorithmVersion, _Mapping]] = ...) -> None: ...

class UndeleteAlgorithmVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class UndeleteAlgorithmVersionResponse(_message.Message):
    __slots__ = ("algorithm_version",)
    ALGORITHM_VERSION_FIELD_NUMBER: _ClassVar[int]
    algorithm_version: _algorithm_pb2.AlgorithmVersion
    def __init__(self, algorithm_version: _Optional[_Union[_algorithm_pb2.AlgorithmVersion, _Mapping]] = ...) -> None: ...
