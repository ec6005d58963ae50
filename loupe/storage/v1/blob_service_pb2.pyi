from loupe.common.v1 import access_pb2 as _access_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PictureProblem(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PICTURE_PROBLEM_UNSPECIFIED: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_NOT_A_PICTURE: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_UNSUPPORTED_FORMAT: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_TOO_LARGE: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_BROKEN: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_DUPLICATE: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_DIGEST_MISMATCH: _ClassVar[PictureProblem]
    PICTURE_PROBLEM_CONFLICTING_LABEL: _ClassVar[PictureProblem]
PICTURE_PROBLEM_UNSPECIFIED: PictureProblem
PICTURE_PROBLEM_NOT_A_PICTURE: PictureProblem
PICTURE_PROBLEM_UNSUPPORTED_FORMAT: PictureProblem
PICTURE_PROBLEM_TOO_LARGE: PictureProblem
PICTURE_PROBLEM_BROKEN: PictureProblem
PICTURE_PROBLEM_DUPLICATE: PictureProblem
PICTURE_PROBLEM_DIGEST_MISMATCH: PictureProblem
PICTURE_PROBLEM_CONFLICTING_LABEL: PictureProblem

class FindMissingBlobsRequest(_message.Message):
    __slots__ = ("parent", "digests")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parent: _Optional[str] = ..., digests: _Optional[_Iterable[str]] = ...) -> None: ...

class FindMissingBlobsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class UploadPicturesRequest(_message.Message):
    __slots__ = ("header", "batch", "closing")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    header: UploadPicturesHeader
    batch: PictureBatch
    closing: UploadPicturesClosing
    def __init__(self, header: _Optional[_Union[UploadPicturesHeader, _Mapping]] = ..., batch: _Optional[_Union[PictureBatch, _Mapping]] = ..., closing: _Optional[_Union[UploadPicturesClosing, _Mapping]] = ...) -> None: ...

class UploadPicturesHeader(_message.Message):
    __slots__ = ("parent",)
    PARENT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    def __init__(self, parent: _Optional[str] = ...) -> None: ...

class PictureBatch(_message.Message):
    __slots__ = ("pictures",)
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedCompositeFieldContainer[PictureData]
    def __init__(self, pictures: _Optional[_Iterable[_Union[PictureData, _Mapping]]] = ...) -> None: ...

class PictureData(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadPicturesClosing(_message.Message):
    __slots__ = ("picture_count", "byte_count")
    PICTURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    picture_count: int
    byte_count: int
    def __init__(self, picture_count: _Optional[int] = ..., byte_count: _Optional[int] = ...) -> None: ...

class UploadPicturesResponse(_message.Message):
    __slots__ = ("stored_count", "verdicts", "complete")
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    stored_count: int
    verdicts: _containers.RepeatedCompositeFieldContainer[PictureVerdict]
    complete: bool
    def __init__(self, stored_count: _Optional[int] = ..., verdicts: _Optional[_Iterable[_Union[PictureVerdict, _Mapping]]] = ..., complete: _Optional[bool] = ...) -> None: ...

class PictureVerdict(_message.Message):
    __slots__ = ("digest", "problem", "message")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    problem: PictureProblem
    message: str
    def __init__(self, digest: _Optional[str] = ..., problem: _Optional[_Union[PictureProblem, str]] = ..., message: _Optional[str] = ...) -> None: ...

class UploadBlobRequest(_message.Message):
    __slots__ = ("header", "chunk", "closing")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    header: UploadBlobHeader
    chunk: bytes
    closing: UploadBlobClosing
    def __init__(self, header: _Optional[_Union[UploadBlobHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., closing: _Optional[_Union[UploadBlobClosing, _Mapping]] = ...) -> None: ...

class UploadBlobHeader(_message.Message):
    __slots__ = ("parent", "digest", "size", "offset")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digest: str
    size: int
    offset: int
    def __init__(self, parent: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadBlobClosing(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class UploadBlobResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class QueryUploadRequest(_message.Message):
    __slots__ = ("parent", "digest")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digest: str
    def __init__(self, parent: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class QueryUploadResponse(_message.Message):
    __slots__ = ("committed_size", "complete")
    COMMITTED_SIZE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    committed_size: int
    complete: bool
    def __init__(self, committed_size: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class DownloadBlobsRequest(_message.Message):
    __slots__ = ("parent", "digests", "offset")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digests: _containers.RepeatedScalarFieldContainer[str]
    offset: int
    def __init__(self, parent: _Optional[str] = ..., digests: _Optional[_Iterable[str]] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadBlobsResponse(_message.Message):
    __slots__ = ("pieces",)
    PIECES_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[BlobPiece]
    def __init__(self, pieces: _Optional[_Iterable[_Union[BlobPiece, _Mapping]]] = ...) -> None: ...

class BlobPiece(_message.Message):
    __slots__ = ("digest", "offset", "size", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    size: int
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
