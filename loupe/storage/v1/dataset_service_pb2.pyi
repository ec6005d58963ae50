from loupe.common.v1 import access_pb2 as _access_pb2
from loupe.storage.v1 import blob_service_pb2 as _blob_service_pb2
from loupe.storage.v1 import dataset_pb2 as _dataset_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetDifferenceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_DIFFERENCE_KIND_UNSPECIFIED: _ClassVar[DatasetDifferenceKind]
    DATASET_DIFFERENCE_KIND_ADDED: _ClassVar[DatasetDifferenceKind]
    DATASET_DIFFERENCE_KIND_REMOVED: _ClassVar[DatasetDifferenceKind]
    DATASET_DIFFERENCE_KIND_RELABELLED: _ClassVar[DatasetDifferenceKind]
    DATASET_DIFFERENCE_KIND_MOVED: _ClassVar[DatasetDifferenceKind]
    DATASET_DIFFERENCE_KIND_ANNOTATED: _ClassVar[DatasetDifferenceKind]
DATASET_DIFFERENCE_KIND_UNSPECIFIED: DatasetDifferenceKind
DATASET_DIFFERENCE_KIND_ADDED: DatasetDifferenceKind
DATASET_DIFFERENCE_KIND_REMOVED: DatasetDifferenceKind
DATASET_DIFFERENCE_KIND_RELABELLED: DatasetDifferenceKind
DATASET_DIFFERENCE_KIND_MOVED: DatasetDifferenceKind
DATASET_DIFFERENCE_KIND_ANNOTATED: DatasetDifferenceKind

class CreateDatasetRequest(_message.Message):
    __slots__ = ("parent", "dataset_id", "dataset", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset_id: str
    dataset: _dataset_pb2.Dataset
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., dataset_id: _Optional[str] = ..., dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.Dataset
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name", "show_deleted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    name: str
    show_deleted: bool
    def __init__(self, name: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.Dataset
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "show_deleted")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    show_deleted: bool
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[_dataset_pb2.Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[_dataset_pb2.Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateDatasetVersionRequest(_message.Message):
    __slots__ = ("header", "batch", "closing", "changes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    header: DatasetVersionHeader
    batch: DatasetItemBatch
    closing: DatasetVersionClosing
    changes: DatasetChangeBatch
    def __init__(self, header: _Optional[_Union[DatasetVersionHeader, _Mapping]] = ..., batch: _Optional[_Union[DatasetItemBatch, _Mapping]] = ..., closing: _Optional[_Union[DatasetVersionClosing, _Mapping]] = ..., changes: _Optional[_Union[DatasetChangeBatch, _Mapping]] = ...) -> None: ...

class DatasetVersionHeader(_message.Message):
    __slots__ = ("parent", "split", "strict", "request_id", "base", "force", "resplit")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    RESPLIT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    split: _dataset_pb2.SplitPolicy
    strict: bool
    request_id: str
    base: str
    force: bool
    resplit: bool
    def __init__(self, parent: _Optional[str] = ..., split: _Optional[_Union[_dataset_pb2.SplitPolicy, _Mapping]] = ..., strict: _Optional[bool] = ..., request_id: _Optional[str] = ..., base: _Optional[str] = ..., force: _Optional[bool] = ..., resplit: _Optional[bool] = ...) -> None: ...

class DatasetItemBatch(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_dataset_pb2.DatasetItem]
    def __init__(self, items: _Optional[_Iterable[_Union[_dataset_pb2.DatasetItem, _Mapping]]] = ...) -> None: ...

class DatasetChangeBatch(_message.Message):
    __slots__ = ("removed_digests", "relabelled", "annotated")
    REMOVED_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RELABELLED_FIELD_NUMBER: _ClassVar[int]
    ANNOTATED_FIELD_NUMBER: _ClassVar[int]
    removed_digests: _containers.RepeatedScalarFieldContainer[str]
    relabelled: _containers.RepeatedCompositeFieldContainer[RelabelledPicture]
    annotated: _containers.RepeatedCompositeFieldContainer[AnnotatedPicture]
    def __init__(self, removed_digests: _Optional[_Iterable[str]] = ..., relabelled: _Optional[_Iterable[_Union[RelabelledPicture, _Mapping]]] = ..., annotated: _Optional[_Iterable[_Union[AnnotatedPicture, _Mapping]]] = ...) -> None: ...

class AnnotatedPicture(_message.Message):
    __slots__ = ("digest", "annotations", "nothing_there")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    NOTHING_THERE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    annotations: _containers.RepeatedCompositeFieldContainer[_dataset_pb2.Annotation]
    nothing_there: bool
    def __init__(self, digest: _Optional[str] = ..., annotations: _Optional[_Iterable[_Union[_dataset_pb2.Annotation, _Mapping]]] = ..., nothing_there: _Optional[bool] = ...) -> None: ...

class RelabelledPicture(_message.Message):
    __slots__ = ("digest", "label")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    digest: str
    label: str
    def __init__(self, digest: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class DatasetVersionClosing(_message.Message):
    __slots__ = ("item_count", "change_count")
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    item_count: int
    change_count: int
    def __init__(self, item_count: _Optional[int] = ..., change_count: _Optional[int] = ...) -> None: ...

class CreateDatasetVersionResponse(_message.Message):
    __slots__ = ("dataset_version", "verdicts", "left_out_count", "warnings")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    dataset_version: _dataset_pb2.DatasetVersion
    verdicts: _containers.RepeatedCompositeFieldContainer[_blob_service_pb2.PictureVerdict]
    left_out_count: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dataset_version: _Optional[_Union[_dataset_pb2.DatasetVersion, _Mapping]] = ..., verdicts: _Optional[_Iterable[_Union[_blob_service_pb2.PictureVerdict, _Mapping]]] = ..., left_out_count: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetDatasetVersionRequest(_message.Message):
    __slots__ = ("name", "show_deleted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    name: str
    show_deleted: bool
    def __init__(self, name: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class GetDatasetVersionResponse(_message.Message):
    __slots__ = ("dataset_version",)
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    dataset_version: _dataset_pb2.DatasetVersion
    def __init__(self, dataset_version: _Optional[_Union[_dataset_pb2.DatasetVersion, _Mapping]] = ...) -> None: ...

class ListDatasetVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "show_deleted")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    show_deleted: bool
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class ListDatasetVersionsResponse(_message.Message):
    __slots__ = ("dataset_versions", "next_page_token")
    DATASET_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dataset_versions: _containers.RepeatedCompositeFieldContainer[_dataset_pb2.DatasetVersion]
    next_page_token: str
    def __init__(self, dataset_versions: _Optional[_Iterable[_Union[_dataset_pb2.DatasetVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReadDatasetItemsRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadDatasetItemsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_dataset_pb2.DatasetItem]
    def __init__(self, items: _Optional[_Iterable[_Union[_dataset_pb2.DatasetItem, _Mapping]]] = ...) -> None: ...

class DiffDatasetVersionsRequest(_message.Message):
    __slots__ = ("name", "base", "most")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    name: str
    base: str
    most: int
    def __init__(self, name: _Optional[str] = ..., base: _Optional[str] = ..., most: _Optional[int] = ...) -> None: ...

class DiffDatasetVersionsResponse(_message.Message):
    __slots__ = ("summary", "differences")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    summary: DatasetDiffSummary
    differences: _containers.RepeatedCompositeFieldContainer[DatasetDifference]
    def __init__(self, summary: _Optional[_Union[DatasetDiffSummary, _Mapping]] = ..., differences: _Optional[_Iterable[_Union[DatasetDifference, _Mapping]]] = ...) -> None: ...

class DatasetDiffSummary(_message.Message):
    __slots__ = ("base", "name", "added_count", "removed_count", "relabelled_count", "moved_count", "annotated_count")
    BASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELABELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    MOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANNOTATED_COUNT_FIELD_NUMBER: _ClassVar[int]
    base: str
    name: str
    added_count: int
    removed_count: int
    relabelled_count: int
    moved_count: int
    annotated_count: int
    def __init__(self, base: _Optional[str] = ..., name: _Optional[str] = ..., added_count: _Optional[int] = ..., removed_count: _Optional[int] = ..., relabelled_count: _Optional[int] = ..., moved_count: _Optional[int] = ..., annotated_count: _Optional[int] = ...) -> None: ...

class DatasetDifference(_message.Message):
    __slots__ = ("kind", "digest", "filename", "base_label", "label", "base_split", "split")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    BASE_LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    BASE_SPLIT_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    kind: DatasetDifferenceKind
    digest: str
    filename: str
    base_label: str
    label: str
    base_split: _dataset_pb2.Split
    split: _dataset_pb2.Split
    def __init__(self, kind: _Optional[_Union[DatasetDifferenceKind, str]] = ..., digest: _Optional[str] = ..., filename: _Optional[str] = ..., base_label: _Optional[str] = ..., label: _Optional[str] = ..., base_split: _Optional[_Union[_dataset_pb2.Split, str]] = ..., split: _Optional[_Union[_dataset_pb2.Split, str]] = ...) -> None: ...

class DeleteDatasetVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteDatasetVersionResponse(_message.Message):
    __slots__ = ("dataset_version", "dataset")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset_version: _dataset_pb2.DatasetVersion
    dataset: _dataset_pb2.Dataset
    def __init__(self, dataset_version: _Optional[_Union[_dataset_pb2.DatasetVersion, _Mapping]] = ..., dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ...) -> None: ...

class UndeleteDatasetVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class UndeleteDatasetVersionResponse(_message.Message):
    __slots__ = ("dataset_version", "dataset")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset_version: _dataset_pb2.DatasetVersion
    dataset: _dataset_pb2.Dataset
    def __init__(self, dataset_version: _Optional[_Union[_dataset_pb2.DatasetVersion, _Mapping]] = ..., dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("dataset", "version_count")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VERSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.Dataset
    version_count: int
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ..., version_count: _Optional[int] = ...) -> None: ...

class UndeleteDatasetRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class UndeleteDatasetResponse(_message.Message):
    __slots__ = ("dataset", "version_count")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VERSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.Dataset
    version_count: int
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.Dataset, _Mapping]] = ..., version_count: _Optional[int] = ...) -> None: ...
