"""Data sets, versions and items in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.storage.database.schema import dataset_items, dataset_versions, datasets

_ITEMS_AT_ONCE = 10_000


@dataclass(frozen=True)
class DatasetRow:
    """A data set; latest is its newest version's number, 0 while there is none."""

    project: str
    dataset: str
    uid: str
    display_name: str
    latest: int
    create_time: float


@dataclass(frozen=True)
class ItemRow:
    """A labelled picture of a version; split is the contract's number."""

    digest: str
    label: str
    split: int
    filename: str
    size: int


@dataclass(frozen=True)
class VersionRow:
    """A version without its items; document is the contract's DatasetVersion, encoded."""

    number: int
    uid: str
    digest: str
    document: bytes


class DatasetTable:
    """Reads and writes data sets inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, project: str, dataset: str, *, lock: bool = False) -> DatasetRow | None:
        """Return a data set; with lock, nobody else may add a version before this transaction ends."""
        query = sa.select(datasets).where(datasets.c.project == project, datasets.c.dataset == dataset)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        return DatasetRow(**row._mapping) if row else None

    async def add(self, row: DatasetRow) -> None:
        """Write a new data set."""
        await self._connection.execute(datasets.insert().values(**row.__dict__))

    async def page(self, project: str, after: str, limit: int) -> list[DatasetRow]:
        """Return data sets by id, after one of them."""
        query = (
            sa.select(datasets)
            .where(datasets.c.project == project, datasets.c.dataset > after)
            .order_by(datasets.c.dataset)
            .limit(limit)
        )
        return [DatasetRow(**row._mapping) for row in await self._connection.execute(query)]

    async def add_version(self, dataset: DatasetRow, version: VersionRow, items: Sequence[ItemRow]) -> None:
        """Write a version with its items and make it the newest."""
        key = (datasets.c.project == dataset.project) & (datasets.c.dataset == dataset.dataset)
        await self._connection.execute(datasets.update().where(key).values(latest=version.number))
        await self._connection.execute(
            dataset_versions.insert().values(project=dataset.project, dataset=dataset.dataset, **version.__dict__)
        )
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            values = [
                {"version": version.uid, "position": start + offset, **item.__dict__}
                for offset, item in enumerate(items[start : start + _ITEMS_AT_ONCE])
            ]
            await self._connection.execute(dataset_items.insert(), values)

    async def version(self, project: str, dataset: str, number: int) -> bytes | None:
        """Return a version's document."""
        return await self._document(project, dataset, dataset_versions.c.number == number)

    async def version_by_digest(self, project: str, dataset: str, digest: str) -> bytes | None:
        """Return the document of the version that has exactly these items."""
        return await self._document(project, dataset, dataset_versions.c.digest == digest)

    async def _document(self, project: str, dataset: str, which: sa.ColumnElement[bool]) -> bytes | None:
        query = sa.select(dataset_versions.c.document).where(
            dataset_versions.c.project == project, dataset_versions.c.dataset == dataset, which
        )
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def versions(self, project: str, dataset: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (number, document), newest first, numbers below `before`."""
        query = (
            sa.select(dataset_versions.c.number, dataset_versions.c.document)
            .where(
                dataset_versions.c.project == project,
                dataset_versions.c.dataset == dataset,
                dataset_versions.c.number < before,
            )
            .order_by(dataset_versions.c.number.desc())
            .limit(limit)
        )
        return [(row.number, row.document) for row in await self._connection.execute(query)]

    async def items(self, uid: str, offset: int, limit: int) -> list[ItemRow]:
        """Return a version's items in their order, from an offset on."""
        query = (
            sa.select(
                dataset_items.c.digest,
                dataset_items.c.label,
                dataset_items.c.split,
                dataset_items.c.filename,
                dataset_items.c.size,
            )
            .where(dataset_items.c.version == uid, dataset_items.c.position >= offset)
            .order_by(dataset_items.c.position)
            .limit(limit)
        )
        return [ItemRow(*row) for row in await self._connection.execute(query)]
