"""Data sets and their versions as the contract's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from loupe.names import AccountName, DatasetName
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.dataset_pb2 import Dataset, DatasetItem, DatasetVersion, LabelCount, Split, SplitPolicy
from loupe.timestamps import datetime_of, timestamp
from services.storage.datasets.orders import CreatedVersion, Part, VersionClosing, VersionOrder, checked_item
from services.storage.datasets.splits import TEST, TRAIN, VALIDATION
from services.storage.datasets.store import DatasetRow, ItemRow, NewVersion
from services.storage.pictures.messages import pack_verdicts, unpack_verdicts

_SPLITS = (Split.SPLIT_UNSPECIFIED, Split.SPLIT_TRAIN, Split.SPLIT_VALIDATION, Split.SPLIT_TEST)
"""The contract's splits, each at its number."""

PARTS: Mapping[str, Callable[[rpc.CreateDatasetVersionRequest], Part]] = {
    "batch": lambda part: [
        checked_item(each.digest, each.label, each.split, each.filename) for each in part.batch.items
    ],
    "closing": lambda part: VersionClosing(part.closing.item_count),
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
    split = header.split
    return VersionOrder(
        dataset=DatasetName.parse(header.parent, "header.parent"),
        fractions=(split.train_fraction, split.validation_fraction, split.test_fraction),
        seed=split.seed,
        strict=header.strict,
        request_id=header.request_id,
        creator=creator,
    )


def encode_version(version: NewVersion) -> bytes:
    """Encode a version as its document."""
    return DatasetVersion(
        name=str(version.name),
        uid=version.uid,
        digest=version.digest,
        labels=[
            LabelCount(label=label, train_count=each[TRAIN], validation_count=each[VALIDATION], test_count=each[TEST])
            for label, each in version.label_counts.items()
        ],
        picture_count=version.picture_count,
        byte_count=version.byte_count,
        near_duplicate_clusters=version.near_duplicate_clusters,
        split=_pack_split(version),
        creator=str(version.creator),
        create_time=timestamp(version.create_time),
    ).SerializeToString(deterministic=True)


def _pack_split(version: NewVersion) -> SplitPolicy:
    if version.fractions is None:
        return SplitPolicy(given=True)
    train, validation, test = version.fractions
    return SplitPolicy(train_fraction=train, validation_fraction=validation, test_fraction=test, seed=version.seed)


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
