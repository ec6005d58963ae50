"""What storage checks of a picture at the door: digest, size, format and header; no pixel is decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from loupe import picture
from loupe.picture import BadPicture
from loupe.storage.v1.blob_service_pb2 import PictureProblem

PROBLEMS: dict[str, PictureProblem.ValueType] = {
    "not_a_picture": PictureProblem.PICTURE_PROBLEM_NOT_A_PICTURE,
    "unsupported_format": PictureProblem.PICTURE_PROBLEM_UNSUPPORTED_FORMAT,
    "too_large": PictureProblem.PICTURE_PROBLEM_TOO_LARGE,
    "broken": PictureProblem.PICTURE_PROBLEM_BROKEN,
}


@dataclass(frozen=True)
class UploadedPicture:
    """A file as it came: the announced digest and the bytes."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class Verdict:
    """Says why a picture was not stored, or not taken into a version."""

    digest: str
    problem: PictureProblem.ValueType
    message: str


def check(pictures: Sequence[UploadedPicture]) -> list[Verdict | None]:
    """Look at digest, size, format and header of each picture; None where it can be stored. Decodes nothing."""
    return [_check(each) for each in pictures]


def _check(uploaded: UploadedPicture) -> Verdict | None:
    actual = hashlib.sha256(uploaded.data).hexdigest()
    if actual != uploaded.digest:
        message = f"the bytes have the sha256 {actual}, not the announced one"
        return Verdict(uploaded.digest[:64], PictureProblem.PICTURE_PROBLEM_DIGEST_MISMATCH, message)
    try:
        picture.check_header(uploaded.data)
    except BadPicture as error:
        return Verdict(uploaded.digest, PROBLEMS[error.kind], str(error))
    return None
