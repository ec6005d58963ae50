"""What storage checks of a picture at the door: digest, size, format and header; no pixel is decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from loupe import picture
from loupe.picture import BadPicture


class Problem(Enum):
    """What may be said of a picture; the values of the first four are BadPicture's kinds."""

    NOT_A_PICTURE = "not_a_picture"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_LARGE = "too_large"
    BROKEN = "broken"
    DUPLICATE = "duplicate"
    DIGEST_MISMATCH = "digest_mismatch"
    CONFLICTING_LABEL = "conflicting_label"


@dataclass(frozen=True)
class UploadedPicture:
    """A file as it came: the announced digest and the bytes."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class Verdict:
    """Says why a picture was not stored, or not taken into a version."""

    digest: str
    problem: Problem
    message: str


def check(pictures: Sequence[UploadedPicture]) -> list[Verdict | None]:
    """Check digest, size, format and header of each picture; None where it can be stored. Decodes nothing."""
    return [_check(each) for each in pictures]


def _check(uploaded: UploadedPicture) -> Verdict | None:
    actual = hashlib.sha256(uploaded.data).hexdigest()
    if actual != uploaded.digest:
        message = f"the bytes have the sha256 {actual}, not the announced one"
        return Verdict(uploaded.digest[:64], Problem.DIGEST_MISMATCH, message)
    try:
        picture.check_header(uploaded.data)
    except BadPicture as error:
        return Verdict(uploaded.digest, Problem(error.kind), str(error))
    return None
