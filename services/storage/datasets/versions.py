"""Making dataset versions: gather what was named, wait for its pictures to be decoded, select, and write it once."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from loupe.errors import BadDataset, BlobMissing, ResourceExhausted, SizeMismatch, UploadIncomplete, invalid, not_found
from loupe.names import AccountName, DatasetName, DatasetVersionName, check_sha256
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1.dataset_service_pb2 import CreateDatasetVersionResponse
from services.storage.clock import timestamp
from services.storage.database.session import Database, Session
from services.storage.datasets.labels import check_filename, check_label
from services.storage.datasets.messages import verdict_messages
from services.storage.datasets.selection import Selection, select, version_digest
from services.storage.datasets.splits import TEST, TRAIN, VALIDATION, Fractions, check_fractions
from services.storage.datasets.store import ItemRow, VersionRow
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.store import DAMAGED, IndexRow

MAX_ITEMS = 1_000_000
_DIGESTS_AT_ONCE = 20_000
_VERDICTS_AT_MOST = 1000


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
class Closing:
    """Ends a stream: how many items were sent."""

    item_count: int


Part = Sequence[ItemRow] | Closing


def checked_item(digest: str, label: str, split: int, filename: str) -> ItemRow:
    """Return an item as it is stored. Raises InvalidArgument naming the field."""
    if split not in (0, TRAIN, VALIDATION, TEST):
        raise invalid("split", split, "SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST or none")
    return ItemRow(check_sha256("digest", digest), check_label(label), split, check_filename(filename), 0)


class DatasetVersions:
    """Makes immutable versions of pictures that were uploaded before.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, indexer: Indexer, now: Callable[[], float]) -> None:
        self._database = database
        self._indexer = indexer
        self._now = now

    async def create(self, order: VersionOrder, parts: AsyncIterator[Part]) -> CreateDatasetVersionResponse:
        """Make a version, or return the one that has exactly the same items, labels and splits.

        Raises UploadIncomplete, SizeMismatch, BlobMissing, BadDataset, InvalidArgument, NotFound; nothing is made then.
        """
        fractions = check_fractions(order.fractions)
        async with self._database.read() as session:
            await _require_dataset(session, order.dataset)
        items = await _gather(parts)
        index = await self._index(order.dataset.project, items)
        selection = await asyncio.to_thread(select, items, index, fractions, order.seed)
        if order.strict and selection.refused:
            raise _refused(selection)
        return await self._write(order, fractions, items, selection)

    async def _index(self, project: str, items: Sequence[ItemRow]) -> dict[str, IndexRow]:
        digests = list(dict.fromkeys(item.digest for item in items))
        chunks = [digests[start : start + _DIGESTS_AT_ONCE] for start in range(0, len(digests), _DIGESTS_AT_ONCE)]
        async with self._database.read() as session:
            known = {digest for chunk in chunks for digest in await session.pictures.known(project, chunk)}
        if missing := [digest for digest in digests if digest not in known]:
            raise _missing(missing)
        for chunk in chunks:
            await self._indexer.ensure(project, chunk)
        async with self._database.read() as session:
            index = {row.digest: row for chunk in chunks for row in await session.pictures.index(project, chunk)}
        if damaged := [digest for digest in digests if index[digest].state == DAMAGED]:
            raise _missing(damaged)
        return index

    async def _write(
        self, order: VersionOrder, fractions: Fractions, items: Sequence[ItemRow], selection: Selection
    ) -> CreateDatasetVersionResponse:
        """Write version and answer in one transaction."""
        digest = await asyncio.to_thread(version_digest, selection.items)
        body = await asyncio.to_thread(_fingerprint, order, fractions, items)
        async with self._database.write() as session:

            async def effect() -> bytes:
                version = await self._add(session, order, fractions, digest, selection)
                said = (selection.refused + selection.repeated)[:_VERDICTS_AT_MOST]
                return CreateDatasetVersionResponse(
                    dataset_version=version,
                    verdicts=verdict_messages(said),
                    left_out_count=len(selection.refused) + len(selection.repeated),
                    warnings=selection.warnings,
                ).SerializeToString(deterministic=True)

            caller = str(order.creator)
            answer = await session.once(caller, "CreateDatasetVersion", order.request_id, body, effect)
        return CreateDatasetVersionResponse.FromString(answer)

    async def _add(
        self, session: Session, order: VersionOrder, fractions: Fractions, digest: str, selection: Selection
    ) -> dataset_pb2.DatasetVersion:
        project, dataset = order.dataset.project, order.dataset.dataset
        row = await session.datasets.find(project, dataset, lock=True)
        if row is None:
            raise not_found(order.dataset)
        known = await session.datasets.version_by_digest(project, dataset, digest)
        if known is not None:
            return dataset_pb2.DatasetVersion.FromString(known)
        number, uid = row.latest + 1, uuid.uuid4().hex
        version = dataset_pb2.DatasetVersion(
            name=str(DatasetVersionName(project, dataset, str(number))),
            uid=uid,
            digest=digest,
            labels=_label_counts(selection.items),
            picture_count=len(selection.items),
            byte_count=sum(item.size for item in selection.items),
            near_duplicate_clusters=selection.near_duplicate_clusters,
            split=_split_policy(selection.given, fractions, order.seed),
            creator=str(order.creator),
            create_time=timestamp(self._now()),
        )
        document = version.SerializeToString(deterministic=True)
        await session.datasets.add_version(row, VersionRow(number, uid, digest, document), selection.items)
        return version


async def _require_dataset(session: Session, name: DatasetName) -> None:
    if await session.datasets.find(name.project, name.dataset) is None:
        raise not_found(name)


async def _gather(parts: AsyncIterator[Part]) -> list[ItemRow]:
    items: list[ItemRow] = []
    async for part in parts:
        if isinstance(part, Closing):
            if part.item_count != len(items):
                raise SizeMismatch(
                    f"the closing announces {part.item_count} items, but {len(items)} came",
                    announced=part.item_count,
                    received=len(items),
                )
            if not items:
                raise BadDataset("there are no pictures in this version; name at least two classes", problem="empty")
            return items
        items.extend(part)
        if len(items) > MAX_ITEMS:
            raise ResourceExhausted(f"a version has at most {MAX_ITEMS} items", limit="dataset_items", value=MAX_ITEMS)
    raise UploadIncomplete("the stream ended without its closing message; no version was made", committed=0)


def _missing(digests: Sequence[str]) -> BlobMissing:
    message = f"{len(digests)} of the pictures are not stored in this project; upload them first, then name them"
    return BlobMissing(message, digest=digests[0], count=len(digests))


def _refused(selection: Selection) -> BadDataset:
    first = selection.refused[0]
    message = f"{len(selection.refused)} pictures cannot be taken, and strict was asked for; the first: {first.message}"
    return BadDataset(message, problem="pictures_refused", count=len(selection.refused), digest=first.digest)


def _fingerprint(order: VersionOrder, fractions: Fractions, items: Sequence[ItemRow]) -> bytes:
    total = hashlib.sha256(repr((str(order.dataset), fractions, order.seed, order.strict)).encode())
    for item in items:
        total.update(repr((item.digest, item.label, item.split, item.filename)).encode())
    return total.digest()


def _label_counts(items: Sequence[ItemRow]) -> list[dataset_pb2.LabelCount]:
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for item in items:
        counts[item.label][item.split] += 1
    return [
        dataset_pb2.LabelCount(
            label=label, train_count=each[TRAIN], validation_count=each[VALIDATION], test_count=each[TEST]
        )
        for label, each in sorted(counts.items())
    ]


def _split_policy(given: bool, fractions: Fractions, seed: int) -> dataset_pb2.SplitPolicy:
    if given:
        return dataset_pb2.SplitPolicy(given=True)
    return dataset_pb2.SplitPolicy(
        train_fraction=fractions[0], validation_fraction=fractions[1], test_fraction=fractions[2], seed=seed
    )
