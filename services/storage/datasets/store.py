"""Data sets, versions and items in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Column, Float, ForeignKey, Integer, LargeBinary, SmallInteger, String, Text

from loupe.names import AccountName, DatasetVersionName
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.projects.store import projects

datasets = sa.Table(
    "datasets",
    metadata,
    Column("project", ForeignKey(projects.c.project), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("latest", Integer, nullable=False, default=0),
    Column("create_time", Float, nullable=False),
)

versions = sa.Table(
    "dataset_versions",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    # document is the loupe.storage.v1.DatasetVersion, encoded; it never changes.
    Column("document", LargeBinary, nullable=False),
    sa.UniqueConstraint("project", "dataset", "digest"),
    sa.ForeignKeyConstraint(["project", "dataset"], [datasets.c.project, datasets.c.dataset]),
)

dataset_items = sa.Table(
    "dataset_items",
    metadata,
    Column("version", ForeignKey(versions.c.uid), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("label", Text, nullable=False),
    Column("split", SmallInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", Integer, nullable=False),
    sqlite_with_rowid=False,
)

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
class NewVersion:
    """What is said of a version in its document.

    label_counts: of each class, sorted, how many pictures are in which split. fractions: None where the items came
    with their splits.
    """

    name: DatasetVersionName
    uid: str
    digest: str
    label_counts: Mapping[str, Mapping[int, int]]
    picture_count: int
    byte_count: int
    near_duplicate_clusters: int
    fractions: tuple[float, float, float] | None
    seed: int
    creator: AccountName
    create_time: float


@dataclass(frozen=True)
class VersionRow:
    """A version without its items; document is the contract's DatasetVersion, encoded."""

    project: str
    dataset: str
    number: int
    uid: str
    digest: str
    document: bytes

    @property
    def name(self) -> DatasetVersionName:
        """Its resource name."""
        return DatasetVersionName(self.project, self.dataset, str(self.number))


class DatasetTable:
    """Reads and writes data sets inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection

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

    async def add_version(self, version: VersionRow, items: Sequence[ItemRow]) -> None:
        """Write a version with its items and make it the newest."""
        key = (datasets.c.project == version.project) & (datasets.c.dataset == version.dataset)
        await self._connection.execute(datasets.update().where(key).values(latest=version.number))
        await self._connection.execute(versions.insert().values(**version.__dict__))
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            values = [
                {"version": version.uid, "position": start + offset, **item.__dict__}
                for offset, item in enumerate(items[start : start + _ITEMS_AT_ONCE])
            ]
            await self._connection.execute(dataset_items.insert(), values)

    async def version(self, project: str, dataset: str, number: int) -> VersionRow | None:
        """Return a version."""
        return await self._version(project, dataset, versions.c.number == number)

    async def version_by_digest(self, project: str, dataset: str, digest: str) -> VersionRow | None:
        """Return the version that has exactly these items."""
        return await self._version(project, dataset, versions.c.digest == digest)

    async def _version(self, project: str, dataset: str, which: sa.ColumnElement[bool]) -> VersionRow | None:
        query = sa.select(versions).where(versions.c.project == project, versions.c.dataset == dataset, which)
        row = (await self._connection.execute(query)).one_or_none()
        return VersionRow(**row._mapping) if row else None

    async def versions(self, project: str, dataset: str, before: int, limit: int) -> list[VersionRow]:
        """Return versions, newest first, numbers below `before`."""
        query = (
            sa.select(versions)
            .where(versions.c.project == project, versions.c.dataset == dataset, versions.c.number < before)
            .order_by(versions.c.number.desc())
            .limit(limit)
        )
        return [VersionRow(**row._mapping) for row in await self._connection.execute(query)]

    async def version_count(self, project: str) -> int:
        """Return how many versions all data sets of a project have."""
        query = sa.select(sa.func.count()).select_from(versions).where(versions.c.project == project)
        return (await self._connection.execute(query)).scalar_one()

    async def items(self, uid: str, offset: int, limit: int) -> list[ItemRow]:
        """Return a version's items in their order, from an offset on."""
        query = (
            sa.select(*dataset_items.c["digest", "label", "split", "filename", "size"])
            .where(dataset_items.c.version == uid, dataset_items.c.position >= offset)
            .order_by(dataset_items.c.position)
            .limit(limit)
        )
        return [ItemRow(*row) for row in await self._connection.execute(query)]
