"""What a terminal asks for when it makes a version, checked as it comes in, and what it is told."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loupe import labels
from loupe.errors import invalid
from loupe.names import AccountName, DatasetName, DatasetVersionName, check_sha256, check_sha256s
from services.storage.datasets.splits import SPLITS, Policy
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import Verdict


@dataclass(frozen=True)
class VersionOrder:
    """What a version is to be made for, and by whom.

    base: what it is derived from; None for a full list. policy: how pictures are to be divided; None where that is not
    said. force: take pictures out of the test split. resplit: divide all pictures anew.
    """

    dataset: DatasetName
    base: DatasetVersionName | None
    policy: Policy | None
    strict: bool
    force: bool
    resplit: bool
    request_id: str
    creator: AccountName


@dataclass(frozen=True)
class VersionClosing:
    """Ends a stream: how many items and changes were sent."""

    item_count: int
    change_count: int


@dataclass(frozen=True)
class Changes:
    """Changes of a base: digests that are left out, and those that get another label."""

    removed: Sequence[str] = ()
    relabelled: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChangePart:
    """The next changes of a stream as they came; one digest may stand in several."""

    removed: Sequence[str]
    relabelled: Sequence[tuple[str, str]]


Part = Sequence[ItemRow] | ChangePart | VersionClosing


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


def checked_changes(removed: Sequence[str], relabelled: Sequence[tuple[str, str]]) -> ChangePart:
    """Return changes with their labels as they are stored. Raises InvalidArgument naming the field."""
    check_sha256s("removed_digests", removed)
    return ChangePart(
        removed, [(check_sha256("relabelled.digest", digest), _checked_label(label)) for digest, label in relabelled]
    )


def checked_base(dataset: DatasetName, base: str) -> DatasetVersionName | None:
    """Return the version that another one of `dataset` is derived from. Raises InvalidArgument."""
    if not base:
        return None
    name = DatasetVersionName.parse(base, "header.base")
    if (name.project, name.dataset) != (dataset.project, dataset.dataset):
        raise invalid("header.base", base, f"a version of {dataset}")
    return name


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
