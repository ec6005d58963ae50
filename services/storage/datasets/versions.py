"""Making dataset versions: gather what was named, wait for its pictures to be decoded, select, and write it once."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

from loupe.errors import BadDataset, BlobMissing, ResourceExhausted, SizeMismatch, UploadIncomplete
from loupe.idempotency import Request
from loupe.limits import MAX_DIGESTS
from loupe.names import DatasetVersionName
from services.storage.database.session import Database, Session
from services.storage.datasets.datasets import find_dataset
from services.storage.datasets.digest import version_digest
from services.storage.datasets.messages import decode_created, encode_created, encode_version
from services.storage.datasets.orders import CreatedVersion, Part, VersionClosing, VersionOrder
from services.storage.datasets.selection import Selection, label_counts, select
from services.storage.datasets.splits import Fractions, check_fractions
from services.storage.datasets.store import DatasetTable, ItemRow, NewVersion, VersionRow
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.store import DAMAGED, IndexRow, PictureTable

MAX_ITEMS = 1_000_000
_VERDICTS_AT_MOST = 1000


class DatasetVersions:
    """Makes immutable versions of pictures that were uploaded before.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, indexer: Indexer, now: Callable[[], float]) -> None:
        self._database = database
        self._indexer = indexer
        self._now = now

    async def create(self, order: VersionOrder, parts: AsyncIterator[Part]) -> CreatedVersion:
        """Make a version, or return the one that has exactly the same items, labels and splits.

        Raises UploadIncomplete, SizeMismatch, BlobMissing, BadDataset, InvalidArgument, NotFound; nothing is made then.
        """
        fractions = check_fractions(order.fractions)
        async with self._database.read() as session:
            await find_dataset(session, order.dataset)
        items = await _gather(parts)
        index = await self._index(order.dataset.project, items)
        selection = await asyncio.to_thread(select, items, index, fractions, order.seed)
        if order.strict and selection.refused:
            raise _refused(selection)
        return await self._write(order, fractions, items, selection)

    async def _index(self, project: str, items: Sequence[ItemRow]) -> dict[str, IndexRow]:
        digests = list(dict.fromkeys(item.digest for item in items))
        chunks = [digests[start : start + MAX_DIGESTS] for start in range(0, len(digests), MAX_DIGESTS)]
        async with self._database.read() as session:
            known = {digest for chunk in chunks for digest in await PictureTable(session).known(project, chunk)}
        if missing := [digest for digest in digests if digest not in known]:
            raise _missing(missing)
        for chunk in chunks:
            await self._indexer.ensure(project, chunk)
        async with self._database.read() as session:
            index = {row.digest: row for chunk in chunks for row in await PictureTable(session).index(project, chunk)}
        if damaged := [digest for digest in digests if index[digest].state == DAMAGED]:
            raise _missing(damaged)
        return index

    async def _write(
        self, order: VersionOrder, fractions: Fractions, items: Sequence[ItemRow], selection: Selection
    ) -> CreatedVersion:
        """Write version and answer in one transaction."""
        digest = await asyncio.to_thread(version_digest, selection.items)
        body = await asyncio.to_thread(_fingerprint, order, fractions, items)
        request = Request(str(order.creator), "CreateDatasetVersion", order.request_id, body)
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return decode_created(answer)
            document = await self._add(session, order, fractions, digest, selection)
            left_out = selection.refused + selection.repeated
            created = CreatedVersion(document, left_out[:_VERDICTS_AT_MOST], len(left_out), selection.warnings)
            await session.record(request, encode_created(created))
        return created

    async def _add(
        self, session: Session, order: VersionOrder, fractions: Fractions, digest: str, selection: Selection
    ) -> bytes:
        """Write the version unless there is one with the same items; return its document."""
        project, dataset = order.dataset.project, order.dataset.dataset
        row = await find_dataset(session, order.dataset, lock=True)
        known = await DatasetTable(session).version_by_digest(project, dataset, digest)
        if known is not None:
            return known.document
        number, uid = row.latest + 1, uuid.uuid4().hex
        version = NewVersion(
            name=DatasetVersionName(project, dataset, str(number)),
            uid=uid,
            digest=digest,
            label_counts=label_counts(selection.items),
            picture_count=len(selection.items),
            byte_count=sum(item.size for item in selection.items),
            near_duplicate_clusters=selection.near_duplicate_clusters,
            fractions=None if selection.given else fractions,
            seed=order.seed,
            creator=order.creator,
            create_time=self._now(),
        )
        stored = VersionRow(project, dataset, number, uid, digest, encode_version(version))
        await DatasetTable(session).add_version(stored, selection.items)
        return stored.document


async def _gather(parts: AsyncIterator[Part]) -> list[ItemRow]:
    items: list[ItemRow] = []
    async for part in parts:
        if isinstance(part, VersionClosing):
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
