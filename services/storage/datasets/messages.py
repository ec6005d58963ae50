"""Domain values as the contract's messages."""

from __future__ import annotations

from collections.abc import Iterable

from loupe.storage.v1 import blob_service_pb2, dataset_pb2
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import Verdict


def verdict_messages(verdicts: Iterable[Verdict]) -> list[blob_service_pb2.PictureVerdict]:
    """Pack verdicts."""
    return [
        blob_service_pb2.PictureVerdict(digest=each.digest, problem=each.problem, message=each.message)
        for each in verdicts
    ]


def item_messages(items: Iterable[ItemRow]) -> list[dataset_pb2.DatasetItem]:
    """Pack items."""
    return [
        dataset_pb2.DatasetItem(
            digest=each.digest, label=each.label, split=each.split, filename=each.filename, size=each.size
        )
        for each in items
    ]
