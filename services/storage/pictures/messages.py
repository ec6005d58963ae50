"""Pictures as the contract's messages."""

from __future__ import annotations

from collections.abc import Iterable

from loupe.storage.v1.blob_service_pb2 import PictureProblem, PictureVerdict
from services.storage.pictures.admission import Problem, Verdict

_PACKED = {
    Problem.NOT_A_PICTURE: PictureProblem.PICTURE_PROBLEM_NOT_A_PICTURE,
    Problem.UNSUPPORTED_FORMAT: PictureProblem.PICTURE_PROBLEM_UNSUPPORTED_FORMAT,
    Problem.TOO_LARGE: PictureProblem.PICTURE_PROBLEM_TOO_LARGE,
    Problem.BROKEN: PictureProblem.PICTURE_PROBLEM_BROKEN,
    Problem.DUPLICATE: PictureProblem.PICTURE_PROBLEM_DUPLICATE,
    Problem.DIGEST_MISMATCH: PictureProblem.PICTURE_PROBLEM_DIGEST_MISMATCH,
    Problem.CONFLICTING_LABEL: PictureProblem.PICTURE_PROBLEM_CONFLICTING_LABEL,
}
_UNPACKED = {packed: problem for problem, packed in _PACKED.items()}


def pack_verdicts(verdicts: Iterable[Verdict]) -> list[PictureVerdict]:
    """Pack verdicts."""
    return [
        PictureVerdict(digest=each.digest, problem=_PACKED[each.problem], message=each.message) for each in verdicts
    ]


def unpack_verdicts(verdicts: Iterable[PictureVerdict]) -> list[Verdict]:
    """Unpack verdicts."""
    return [Verdict(each.digest, _UNPACKED[each.problem], each.message) for each in verdicts]
