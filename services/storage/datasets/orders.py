"""What a terminal asks for when it makes a version, checked as it comes in, and what it is told."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loupe import labels
from loupe.annotations import (
    MAX_REGIONS,
    NOTHING_THERE,
    UNLABELLED,
    Annotation,
    BadAnnotation,
    Provenance,
    box,
    polygon,
    write,
)
from loupe.errors import InvalidArgument, invalid
from loupe.names import (
    AccountName,
    DatasetName,
    DatasetVersionName,
    ModelVersionName,
    check_sha256,
    check_sha256s,
)
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

    @functools.cached_property
    def author(self) -> str:
        """The name of who asks, as it stands beside each region that comes."""
        return str(self.creator)


@dataclass(frozen=True)
class VersionClosing:
    """Ends a stream: how many items and changes were sent."""

    item_count: int
    change_count: int


@dataclass(frozen=True)
class Changes:
    """Changes of a base: digests that are left out, and those that get another label or other annotations."""

    removed: Sequence[str] = ()
    relabelled: Mapping[str, str] = field(default_factory=dict)
    annotated: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChangePart:
    """The next changes of a stream as they came; one digest may stand in several."""

    removed: Sequence[str]
    relabelled: Sequence[tuple[str, str]]
    annotated: Sequence[tuple[str, str]] = ()


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


def checked_item(digest: str, label: str, split: int, filename: str, annotations: str) -> ItemRow:
    """Return an item as it is stored. Raises InvalidArgument naming the field.

    annotations: as of checked_annotations.
    """
    if split not in (0, *SPLITS):
        raise invalid("split", split, "SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST or none")
    return ItemRow(
        check_sha256("digest", digest), _checked_label(label), split, _checked_filename(filename), 0, annotations
    )


def checked_changes(
    removed: Sequence[str], relabelled: Sequence[tuple[str, str]], annotated: Sequence[tuple[str, str]]
) -> ChangePart:
    """Return changes with their labels as they are stored. Raises InvalidArgument naming the field."""
    check_sha256s("removed_digests", removed)
    check_sha256s("annotated.digest", [digest for digest, _ in annotated])
    return ChangePart(
        removed,
        [(check_sha256("relabelled.digest", digest), _checked_label(label)) for digest, label in relabelled],
        annotated,
    )


@dataclass(frozen=True)
class SentRegion:
    """A region as it came. corners: of a box x_min, y_min, x_max and y_max, of a polygon x and y in turns."""

    label: str
    is_box: bool
    corners: Sequence[float]
    model: str
    confidence: float
    verified: bool


def checked_annotations(
    picture: str, regions: Sequence[SentRegion], nothing_there: bool, order: VersionOrder, field: str
) -> str:
    """Return the annotations of a picture as they are stored; who verifies them is in it, and not yet when.

    picture: what it is called. Raises InvalidArgument naming `field`, the region and what would be right.
    """
    if regions and nothing_there:
        raise invalid(f"{field}.nothing_there", True, "no annotations beside it")
    if not regions:
        return NOTHING_THERE if nothing_there else UNLABELLED
    if len(regions) > MAX_REGIONS:
        raise invalid(field, f"{len(regions)} annotations of {picture[:40]}", f"at most {MAX_REGIONS}")
    checked = []
    for number, region in enumerate(regions):
        try:
            checked.append(_checked_region(region, order))
        except BadAnnotation as error:
            raise _bad_annotation(f"{field}[{number}]", picture, error) from error
    try:
        return write(checked)
    except BadAnnotation as error:
        raise _bad_annotation(field, picture, error) from error


def _bad_annotation(field: str, picture: str, error: BadAnnotation) -> InvalidArgument:
    return InvalidArgument(f"{field} of the picture {picture[:120]!r}: {error}", field=field)


def _checked_region(region: SentRegion, order: VersionOrder) -> Annotation:
    provenance = _checked_provenance(region, order)
    if region.is_box:
        return box(region.label, region.corners, provenance)
    if len(region.corners) % 2:
        raise BadAnnotation(f"{len(region.corners)} coordinates; a box, or a polygon with x and y of each corner")
    points = list(zip(region.corners[::2], region.corners[1::2], strict=True))
    return polygon(region.label, points, provenance)


def _checked_provenance(region: SentRegion, order: VersionOrder) -> Provenance:
    """Return where a region comes from: the caller, and the model of the same project that it names."""
    author = order.author
    verifier = author if region.verified else ""
    if not region.model:
        if region.confidence:
            raise BadAnnotation(f"the confidence {region.confidence:g} without a model; 0 would be right")
        return Provenance(author, verifier=verifier)
    if not 0 < region.confidence <= 1:
        raise BadAnnotation(f"the confidence {region.confidence:g} of a model; above 0, and at most 1 would be right")
    try:
        model = ModelVersionName.parse(region.model)
    except InvalidArgument as error:
        raise BadAnnotation(f'the model {region.model[:120]!r}; "{ModelVersionName.pattern}" would be right') from error
    if model.project != order.dataset.project or model.number == "latest":
        right = f"a version of projects/{order.dataset.project} with its number"
        raise BadAnnotation(f"the model {region.model!r}; {right} would be right")
    return Provenance(author, region.model, region.confidence, verifier)


def checked_base(dataset: DatasetName, base: str) -> DatasetVersionName | None:
    """Return the version that another one of `dataset` is derived from. Raises InvalidArgument."""
    if not base:
        return None
    name = DatasetVersionName.parse(base, "header.base")
    if (name.project, name.dataset) != (dataset.project, dataset.dataset):
        raise invalid("header.base", base, f"a version of {dataset}")
    return name


def _checked_label(label: str) -> str:
    """Return a label in Unicode's composed form; an empty one says that a picture as a whole has no class."""
    if not label:
        return label
    try:
        return labels.normalise_label(label)
    except ValueError as error:
        raise invalid("label", label, labels.RULE) from error


def _checked_filename(filename: str) -> str:
    """Return what the terminal called a picture."""
    if len(filename) > 1024 or any(unicodedata.category(each) in ("Cc", "Cs") for each in filename):
        raise invalid("filename", filename, "at most 1024 characters, no control characters")
    return filename
