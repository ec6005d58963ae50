"""Between the kinds of jobs and their enums in the contract."""

from __future__ import annotations

from loupe.common.v1 import job_kind_pb2
from loupe.errors import invalid
from loupe.job_kinds import JobKind, PictureSelection

_KIND, _SELECTION = "JOB_KIND_", "PICTURE_SELECTION_"


def pack_kind(kind: JobKind) -> str:
    """Return a kind's name in the contract."""
    return _KIND + kind.name


def unpack_kind(field: str, number: int) -> JobKind:
    """Return a kind by its number; 0 is TRAIN. Raises InvalidArgument."""
    if number == job_kind_pb2.JOB_KIND_UNSPECIFIED:
        return JobKind.TRAIN
    try:
        return JobKind[job_kind_pb2.JobKind.Name(number).removeprefix(_KIND)]
    except (ValueError, KeyError) as error:
        raise invalid(field, number, f"one of {', '.join(JobKind)}") from error


def pack_selection(selection: PictureSelection | None) -> str:
    """Return a selection's name in the contract; None is unspecified."""
    return _SELECTION + ("UNSPECIFIED" if selection is None else selection.name)


def unpack_selection(field: str, number: int) -> PictureSelection | None:
    """Return a selection by its number; 0 is None. Raises InvalidArgument."""
    if number == job_kind_pb2.PICTURE_SELECTION_UNSPECIFIED:
        return None
    try:
        name = job_kind_pb2.PictureSelection.Name(number)
        return PictureSelection[name.removeprefix(_SELECTION)]
    except (ValueError, KeyError) as error:
        raise invalid(field, number, f"one of {', '.join(PictureSelection)}") from error
