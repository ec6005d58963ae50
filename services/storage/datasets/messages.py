"""Data sets and their versions as the contract's messages."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from loupe.annotations import NOTHING_THERE, read
from loupe.annotations import Annotation as Region
from loupe.errors import invalid
from loupe.names import AccountName, DatasetName, DatasetVersionName
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.dataset_pb2 import (
    Annotation,
    Dataset,
    DatasetItem,
    DatasetVersion,
    LabelCount,
    Split,
    SplitPolicy,
    SplitUnit,
)
from loupe.timestamps import datetime_of, timestamp
from services.storage.database.messages import with_lifetime
from services.storage.datasets.counts import Counts
from services.storage.datasets.drafts import Draft, NewVersion, VersionFacts
from services.storage.datasets.orders import (
    CreatedVersion,
    Part,
    SentRegion,
    VersionClosing,
    VersionOrder,
    checked_annotations,
    checked_base,
    checked_changes,
    checked_item,
)
from services.storage.datasets.splits import BY_PICTURE, TEST, TRAIN, UNITS, VALIDATION, Policy, proportions
from services.storage.datasets.store import (
    ADDED,
    ANNOTATED,
    MOVED,
    RELABELLED,
    REMOVED,
    DatasetRow,
    Difference,
    DiffSummary,
    ItemPage,
    ItemRow,
    VersionRow,
)
from services.storage.pictures.messages import pack_verdicts, unpack_verdicts
from services.storage.pictures.store import Size

_SPLITS = (Split.SPLIT_UNSPECIFIED, Split.SPLIT_TRAIN, Split.SPLIT_VALIDATION, Split.SPLIT_TEST)
"""The contract's splits, each at its number."""
_UNITS = (SplitUnit.SPLIT_UNIT_UNSPECIFIED, SplitUnit.SPLIT_UNIT_PICTURE, SplitUnit.SPLIT_UNIT_CLASS)
"""The contract's units of a split, each at its number."""

_BYTES_AT_ONCE = 1 << 20

_Message = rpc.CreateDatasetVersionRequest
M = TypeVar("M", DatasetItem, rpc.AnnotatedPicture)


def _unpack_items(items: Sequence[DatasetItem], order: VersionOrder) -> Part:
    return [
        checked_item(
            each.digest, each.label, each.split, each.filename, _unpack_annotations(each, order, "annotations")
        )
        for each in items
    ]


def _unpack_changes(changes: rpc.DatasetChangeBatch, order: VersionOrder) -> Part:
    relabelled = [(each.digest, each.label) for each in changes.relabelled]
    return checked_changes(changes.removed_digests, relabelled, ())


def _unpack_annotated(annotated: Sequence[rpc.AnnotatedPicture], order: VersionOrder) -> Part:
    said = [(each.digest, _unpack_annotations(each, order, "annotated.annotations")) for each in annotated]
    return checked_changes((), (), said)


def _unpack_annotations(said: DatasetItem | rpc.AnnotatedPicture, order: VersionOrder, field: str) -> str:
    if not said.annotations:
        return checked_annotations("", (), said.nothing_there, order, field)
    called = said.filename if isinstance(said, DatasetItem) and said.filename else said.digest[:12]
    return checked_annotations(called, list(map(_unpack_region, said.annotations)), said.nothing_there, order, field)


def _unpack_region(said: Annotation) -> SentRegion:
    box, corners = said.box, said.polygon.coordinates
    is_box = said.WhichOneof("region") == "box"
    return SentRegion(
        said.label,
        is_box,
        (box.x_min, box.y_min, box.x_max, box.y_max) if is_box else corners,
        said.model,
        said.confidence,
        said.verified,
    )


def _pieces(message: _Message) -> Iterator[Callable[[VersionOrder], Part]]:
    """Yield what is to be unpacked of a message, each in a moment: a second where there are large polygons."""
    match message.WhichOneof("part"):
        case "batch":
            yield from (partial(_unpack_items, items) for items in _runs(message.batch.items))
        case "changes":
            yield partial(_unpack_changes, message.changes)
            yield from (partial(_unpack_annotated, annotated) for annotated in _runs(message.changes.annotated))
        case _:
            yield lambda order: VersionClosing(message.closing.item_count, message.closing.change_count)


def _runs(messages: Sequence[M]) -> Iterator[Sequence[M]]:
    """Divide messages into runs of about _BYTES_AT_ONCE."""
    begin = size = 0
    for place, each in enumerate(messages):
        size += each.ByteSize()
        if size >= _BYTES_AT_ONCE:
            yield messages[begin : place + 1]
            begin, size = place + 1, 0
    if begin < len(messages):
        yield messages[begin:]


PARTS: Mapping[str, Callable[[_Message], _Message]] = dict.fromkeys(
    ("batch", "changes", "closing"), lambda message: message
)
"""What may come in the stream of a new version after its header; unpack_parts() takes it."""


async def unpack_parts(
    messages: AsyncGenerator[_Message], order: VersionOrder, checks: asyncio.Semaphore
) -> AsyncIterator[Part]:
    """Unpack and check what comes, in threads: polygons take long to check, and other calls go on meanwhile.

    checks: how many may be checked at a time; streams take turns. Raises InvalidArgument.
    """
    async with aclosing(messages):
        async for message in messages:
            for unpack in _pieces(message):
                async with checks:
                    part = await asyncio.to_thread(unpack, order)
                yield part


def pack_dataset(row: DatasetRow) -> Dataset:
    """Pack a data set."""
    name = DatasetName(row.project, row.dataset)
    dataset = Dataset(
        name=str(name),
        uid=row.uid,
        display_name=row.display_name,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        create_time=timestamp(row.create_time),
    )
    return with_lifetime(dataset, row)


def encode_dataset(row: DatasetRow) -> bytes:
    """Encode a data set as the answer to the request that made it is remembered."""
    return pack_dataset(row).SerializeToString(deterministic=True)


def decode_dataset(answer: bytes) -> DatasetRow:
    """Read a remembered answer: a data set as it was when it was made, without versions."""
    made = Dataset.FromString(answer)
    name, created = DatasetName.parse(made.name), datetime_of(made.create_time).timestamp()
    return DatasetRow(name.project, name.dataset, made.uid, made.display_name, 0, created)


def unpack_order(header: rpc.DatasetVersionHeader, creator: AccountName) -> VersionOrder:
    """Unpack what a version is to be made for. Raises InvalidArgument."""
    dataset = DatasetName.parse(header.parent, "header.parent")
    return VersionOrder(
        dataset=dataset,
        base=checked_base(dataset, header.base),
        policy=_asked_split(header.split) if header.HasField("split") else None,
        strict=header.strict,
        force=header.force,
        resplit=header.resplit,
        request_id=header.request_id,
        creator=creator,
    )


def _asked_split(split: SplitPolicy) -> Policy:
    if split.unit not in UNITS:
        raise invalid("header.split.unit", split.unit, "SPLIT_UNIT_PICTURE, SPLIT_UNIT_CLASS or none")
    return Policy((split.train_fraction, split.validation_fraction, split.test_fraction), split.seed, split.unit)


def _unpack_split(split: SplitPolicy) -> Policy:
    asked = _asked_split(split)
    return replace(asked, unit=asked.unit or BY_PICTURE)


def decode_facts(document: bytes, items: Iterable[ItemRow]) -> VersionFacts:
    """Read what a version's document says of it; its items say in which splits those without a class are."""
    said = DatasetVersion.FromString(document)
    pictures: dict[str, Mapping[int, int]] = {
        each.label: {TRAIN: each.train_count, VALIDATION: each.validation_count, TEST: each.test_count}
        for each in said.labels
    }
    regions = {
        each.label: {TRAIN: each.train_regions, VALIDATION: each.validation_regions, TEST: each.test_regions}
        for each in said.labels
        if each.train_regions or each.validation_regions or each.test_regions
    }
    classless = Counter(item.split for item in items if not item.label)
    if classless:
        pictures[""] = classless
    counts = Counts(pictures, regions, said.nothing_there_count, said.unlabelled_count)
    return VersionFacts(
        name=said.name,
        counts=counts,
        byte_count=said.byte_count,
        near_duplicate_clusters=said.near_duplicate_clusters,
        policy=Policy(proportions(counts.splits)) if said.split.given else _unpack_split(said.split),
        given=said.split.given,
    )


def encode_version(version: NewVersion) -> bytes:
    """Encode a version as its document."""
    draft = version.draft
    return DatasetVersion(
        name=str(version.name),
        uid=version.uid,
        digest=draft.digest,
        labels=[_pack_label(label, draft.counts) for label in draft.counts.classes],
        picture_count=draft.counts.total,
        unlabelled_count=draft.counts.unlabelled,
        nothing_there_count=draft.counts.nothing_there,
        byte_count=draft.byte_count,
        near_duplicate_clusters=draft.near_duplicate_clusters,
        split=_pack_split(draft),
        creator=str(version.creator),
        create_time=timestamp(version.create_time),
        base=draft.base,
        added_count=draft.added,
        removed_count=draft.removed,
        relabelled_count=draft.relabelled,
        annotated_count=draft.annotated,
    ).SerializeToString(deterministic=True)


def _pack_label(label: str, counts: Counts) -> LabelCount:
    pictures, regions = Counter(counts.pictures.get(label, {})), Counter(counts.regions.get(label, {}))
    return LabelCount(
        label=label,
        train_count=pictures[TRAIN],
        validation_count=pictures[VALIDATION],
        test_count=pictures[TEST],
        train_regions=regions[TRAIN],
        validation_regions=regions[VALIDATION],
        test_regions=regions[TEST],
    )


def _pack_split(draft: Draft) -> SplitPolicy:
    if draft.given:
        return SplitPolicy(given=True)
    train, validation, test = draft.policy.fractions
    return SplitPolicy(
        train_fraction=train,
        validation_fraction=validation,
        test_fraction=test,
        seed=draft.policy.seed,
        unit=_UNITS[draft.policy.unit],
    )


def pack_version(document: bytes) -> DatasetVersion:
    """Pack a version: its document is the message already."""
    return DatasetVersion.FromString(document)


def pack_row(row: VersionRow) -> DatasetVersion:
    """Pack a version with when it was deleted."""
    return with_lifetime(pack_version(row.document), row)


def digest_of(document: bytes) -> str:
    """Return the digest over a version's items, of a deleted one too."""
    return DatasetVersion.FromString(document).digest


def encode_deleted(dataset: DatasetRow, version_count: int) -> bytes:
    """Encode the answer to who deleted a data set."""
    answer = rpc.DeleteDatasetResponse(dataset=pack_dataset(dataset), version_count=version_count)
    return answer.SerializeToString(deterministic=True)


def encode_restored(dataset: DatasetRow, version_count: int) -> bytes:
    """Encode the answer to who restored a data set."""
    answer = rpc.UndeleteDatasetResponse(dataset=pack_dataset(dataset), version_count=version_count)
    return answer.SerializeToString(deterministic=True)


def encode_deleted_version(dataset: DatasetRow, version: VersionRow) -> bytes:
    """Encode the answer to who deleted a version."""
    answer = rpc.DeleteDatasetVersionResponse(dataset_version=pack_row(version), dataset=pack_dataset(dataset))
    return answer.SerializeToString(deterministic=True)


def encode_restored_version(dataset: DatasetRow, version: VersionRow) -> bytes:
    """Encode the answer to who restored a version."""
    answer = rpc.UndeleteDatasetVersionResponse(dataset_version=pack_row(version), dataset=pack_dataset(dataset))
    return answer.SerializeToString(deterministic=True)


def pack_created(created: CreatedVersion) -> rpc.CreateDatasetVersionResponse:
    """Pack the answer to an order."""
    return rpc.CreateDatasetVersionResponse(
        dataset_version=pack_version(created.document),
        verdicts=pack_verdicts(created.verdicts),
        left_out_count=created.left_out_count,
        warnings=created.warnings,
    )


def encode_created(created: CreatedVersion) -> bytes:
    """Encode the answer to an order as it is remembered."""
    return pack_created(created).SerializeToString(deterministic=True)


def decode_created(answer: bytes) -> CreatedVersion:
    """Read a remembered answer."""
    said = rpc.CreateDatasetVersionResponse.FromString(answer)
    return CreatedVersion(
        said.dataset_version.SerializeToString(deterministic=True),
        unpack_verdicts(said.verdicts),
        said.left_out_count,
        list(said.warnings),
    )


def pack_items(page: ItemPage) -> rpc.ReadDatasetItemsResponse:
    """Pack items of a version."""
    return rpc.ReadDatasetItemsResponse(items=[_pack_item(each, page.sizes) for each in page.items])


def _pack_item(item: ItemRow, sizes: Mapping[str, Size]) -> DatasetItem:
    width, height = sizes.get(item.digest, (0, 0))
    return DatasetItem(
        digest=item.digest,
        label=item.label,
        split=_SPLITS[item.split],
        filename=item.filename,
        size=item.size,
        annotations=map(_pack_annotation, read(item.annotations)),
        nothing_there=item.annotations == NOTHING_THERE,
        width=width,
        height=height,
    )


def _pack_annotation(annotation: Region) -> Annotation:
    said = annotation.provenance
    packed = Annotation(
        label=annotation.label,
        author=said.author,
        model=said.model,
        confidence=said.confidence,
        verifier=said.verifier,
        verify_time=timestamp(said.verified_at) if said.verifier else None,
    )
    if annotation.is_box:
        packed.box.x_min, packed.box.y_min, packed.box.x_max, packed.box.y_max = annotation.bounds
    else:
        packed.polygon.coordinates.extend(itertools.chain.from_iterable(annotation.points))
    return packed


_KINDS = {
    ADDED: rpc.DATASET_DIFFERENCE_KIND_ADDED,
    REMOVED: rpc.DATASET_DIFFERENCE_KIND_REMOVED,
    RELABELLED: rpc.DATASET_DIFFERENCE_KIND_RELABELLED,
    MOVED: rpc.DATASET_DIFFERENCE_KIND_MOVED,
    ANNOTATED: rpc.DATASET_DIFFERENCE_KIND_ANNOTATED,
}


def unpack_diff(request: rpc.DiffDatasetVersionsRequest) -> tuple[DatasetVersionName, DatasetVersionName, int]:
    """Unpack which versions to compare, the base first, and how many differences of a kind to name at most.

    Raises InvalidArgument.
    """
    if request.most < 0:
        raise invalid("most", request.most, "0 or more")
    return DatasetVersionName.parse(request.base, "base"), DatasetVersionName.parse(request.name), request.most


def pack_summary(summary: DiffSummary) -> rpc.DiffDatasetVersionsResponse:
    """Pack how many differences of each kind there are."""
    counts = summary.counts
    return rpc.DiffDatasetVersionsResponse(
        summary=rpc.DatasetDiffSummary(
            base=str(summary.base),
            name=str(summary.name),
            added_count=counts[ADDED],
            removed_count=counts[REMOVED],
            relabelled_count=counts[RELABELLED],
            moved_count=counts[MOVED],
            annotated_count=counts[ANNOTATED],
        )
    )


def pack_differences(differences: Iterable[Difference]) -> rpc.DiffDatasetVersionsResponse:
    """Pack the next differences."""
    return rpc.DiffDatasetVersionsResponse(
        differences=[
            rpc.DatasetDifference(
                kind=_KINDS[each.kind],
                digest=each.digest,
                filename=each.filename,
                base_label=each.base_label,
                label=each.label,
                base_split=_SPLITS[each.base_split],
                split=_SPLITS[each.split],
            )
            for each in differences
        ]
    )
