"""Data sets and their versions as the contract's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from loupe.errors import invalid
from loupe.names import AccountName, DatasetName, DatasetVersionName
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.dataset_pb2 import Dataset, DatasetItem, DatasetVersion, LabelCount, Split, SplitPolicy
from loupe.timestamps import datetime_of, timestamp
from services.storage.datasets.drafts import Draft, NewVersion, VersionFacts
from services.storage.datasets.orders import (
    CreatedVersion,
    Part,
    VersionClosing,
    VersionOrder,
    checked_base,
    checked_changes,
    checked_item,
)
from services.storage.datasets.splits import TEST, TRAIN, VALIDATION, Policy, proportions
from services.storage.datasets.store import (
    ADDED,
    MOVED,
    RELABELLED,
    REMOVED,
    DatasetRow,
    Difference,
    DiffSummary,
    ItemRow,
)
from services.storage.pictures.messages import pack_verdicts, unpack_verdicts

_SPLITS = (Split.SPLIT_UNSPECIFIED, Split.SPLIT_TRAIN, Split.SPLIT_VALIDATION, Split.SPLIT_TEST)
"""The contract's splits, each at its number."""

PARTS: Mapping[str, Callable[[rpc.CreateDatasetVersionRequest], Part]] = {
    "batch": lambda part: [
        checked_item(each.digest, each.label, each.split, each.filename) for each in part.batch.items
    ],
    "changes": lambda part: checked_changes(
        part.changes.removed_digests, [(each.digest, each.label) for each in part.changes.relabelled]
    ),
    "closing": lambda part: VersionClosing(part.closing.item_count, part.closing.change_count),
}
"""What may come in the stream of a new version after its header."""


def pack_dataset(row: DatasetRow) -> Dataset:
    """Pack a data set."""
    name = DatasetName(row.project, row.dataset)
    return Dataset(
        name=str(name),
        uid=row.uid,
        display_name=row.display_name,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        create_time=timestamp(row.create_time),
    )


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
        policy=_unpack_split(header.split) if header.HasField("split") else None,
        strict=header.strict,
        force=header.force,
        resplit=header.resplit,
        request_id=header.request_id,
        creator=creator,
    )


def _unpack_split(split: SplitPolicy) -> Policy:
    return Policy((split.train_fraction, split.validation_fraction, split.test_fraction), split.seed)


def decode_facts(document: bytes) -> VersionFacts:
    """Read what a version's document says of it."""
    said = DatasetVersion.FromString(document)
    counts = {
        each.label: {TRAIN: each.train_count, VALIDATION: each.validation_count, TEST: each.test_count}
        for each in said.labels
    }
    return VersionFacts(
        name=said.name,
        label_counts=counts,
        byte_count=said.byte_count,
        near_duplicate_clusters=said.near_duplicate_clusters,
        policy=Policy(proportions(counts)) if said.split.given else _unpack_split(said.split),
        given=said.split.given,
    )


def encode_version(version: NewVersion) -> bytes:
    """Encode a version as its document."""
    draft = version.draft
    return DatasetVersion(
        name=str(version.name),
        uid=version.uid,
        digest=draft.digest,
        labels=[
            LabelCount(label=label, train_count=each[TRAIN], validation_count=each[VALIDATION], test_count=each[TEST])
            for label, each in draft.label_counts.items()
        ],
        picture_count=draft.picture_count,
        byte_count=draft.byte_count,
        near_duplicate_clusters=draft.near_duplicate_clusters,
        split=_pack_split(draft),
        creator=str(version.creator),
        create_time=timestamp(version.create_time),
        base=draft.base,
        added_count=draft.added,
        removed_count=draft.removed,
        relabelled_count=draft.relabelled,
    ).SerializeToString(deterministic=True)


def _pack_split(draft: Draft) -> SplitPolicy:
    if draft.given:
        return SplitPolicy(given=True)
    train, validation, test = draft.policy.fractions
    return SplitPolicy(train_fraction=train, validation_fraction=validation, test_fraction=test, seed=draft.policy.seed)


def pack_version(document: bytes) -> DatasetVersion:
    """Pack a version: its document is the message already."""
    return DatasetVersion.FromString(document)


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


def pack_items(items: Iterable[ItemRow]) -> rpc.ReadDatasetItemsResponse:
    """Pack items of a version."""
    return rpc.ReadDatasetItemsResponse(
        items=[
            DatasetItem(
                digest=each.digest, label=each.label, split=_SPLITS[each.split], filename=each.filename, size=each.size
            )
            for each in items
        ]
    )


_KINDS = {
    ADDED: rpc.DATASET_DIFFERENCE_KIND_ADDED,
    REMOVED: rpc.DATASET_DIFFERENCE_KIND_REMOVED,
    RELABELLED: rpc.DATASET_DIFFERENCE_KIND_RELABELLED,
    MOVED: rpc.DATASET_DIFFERENCE_KIND_MOVED,
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
