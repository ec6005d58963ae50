from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class JobKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_KIND_UNSPECIFIED: _ClassVar[JobKind]
    JOB_KIND_TRAIN: _ClassVar[JobKind]
    JOB_KIND_EVALUATE: _ClassVar[JobKind]
    JOB_KIND_PREDICT: _ClassVar[JobKind]

class PictureSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PICTURE_SELECTION_UNSPECIFIED: _ClassVar[PictureSelection]
    PICTURE_SELECTION_TEST: _ClassVar[PictureSelection]
    PICTURE_SELECTION_VALIDATION: _ClassVar[PictureSelection]
    PICTURE_SELECTION_TRAIN: _ClassVar[PictureSelection]
    PICTURE_SELECTION_LABELLED: _ClassVar[PictureSelection]
    PICTURE_SELECTION_UNLABELLED: _ClassVar[PictureSelection]
    PICTURE_SELECTION_ALL: _ClassVar[PictureSelection]
JOB_KIND_UNSPECIFIED: JobKind
JOB_KIND_TRAIN: JobKind
JOB_KIND_EVALUATE: JobKind
JOB_KIND_PREDICT: JobKind
PICTURE_SELECTION_UNSPECIFIED: PictureSelection
PICTURE_SELECTION_TEST: PictureSelection
PICTURE_SELECTION_VALIDATION: PictureSelection
PICTURE_SELECTION_TRAIN: PictureSelection
PICTURE_SELECTION_LABELLED: PictureSelection
PICTURE_SELECTION_UNLABELLED: PictureSelection
PICTURE_SELECTION_ALL: PictureSelection
