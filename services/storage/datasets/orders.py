"""What a terminal asks for when it makes a version, checked as it comes in, and what it is told."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from loupe import labels
from loupe.errors import invalid
from loupe.names import AccountName, DatasetName, check_sha256
from services.storage.datasets.splits import SPLITS, Fractions
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import Verdict


@dataclass(frozen=True)
class VersionOrder:
    """What a version is to be made for, and by whom."""

    dataset: DatasetName
    fractions: Fractions
    seed: int
    strict: bool
    request_id: str
    creator: AccountName


@dataclass(frozen=True)
class VersionClosing:
    """Ends a stream: how many items were sent."""

    item_count: int


Part = Sequence[ItemRow] | VersionClosing


@dataclass(frozen=True)
class CreatedVersion:
    """The answer to an order: the version's document, and what is said of the items that are not in it.

    verdicts are the first of `left_out_count`.
    """

    document: bytes
    verdicts: Sequence[Verdict]
    left_out_count: int
    warnings: Sequence[str]


def checked_item(digest: str, label: str, split: int, filename: str) -> ItemRow:
    """Return an item as it is stored. Raises InvalidArgument naming the field."""
    if split not in (0, *SPLITS):
        raise invalid("split", split, "SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST or none")
    return ItemRow(check_sha256("digest", digest), _checked_label(label), split, _checked_filename(filename), 0)


def _checked_label(label: str) -> str:
    """Return a label in Unicode's composed form."""
    try:
        return labels.normalise_label(label)
    except ValueError as error:
        raise invalid("label", label, labels.RULE) from error


def _checked_filename(filename: str) -> str:
    """Return what the terminal called a picture."""
    if len(filename) > 1024 or any(unicodedata.category(each) in ("Cc", "Cs") for each in filename):
        raise invalid("filename", filename, "at most 1024 characters, no control characters")
    return filename
