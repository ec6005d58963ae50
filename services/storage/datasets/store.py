"""Data sets, versions and items in the database."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, SmallInteger, String, Text
from sqlalchemy.dialects import postgresql, sqlite

from loupe.annotations import UNLABELLED, identity
from loupe.lifetimes import THERE
from loupe.names import DatasetVersionName
from services.storage.database.lifetimes import Lifetime, lifetime_columns, visible
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.pictures.store import Size
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
    *lifetime_columns(),
    # test_classes are those that are in test for good where whole classes are divided, a JSON list; empty for none.
    Column("test_classes", Text, nullable=False, default="", server_default=""),
)

versions = sa.Table(
    "dataset_versions",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    # document is the loupe.storage.v1.DatasetVersion, encoded; it never changes. A deleted version's digest stands only
    # there: others may have the same items meanwhile.
    Column("document", LargeBinary, nullable=False),
    *lifetime_columns(),
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
    # annotation is the id of what it is annotated with; none for a picture that nobody annotated.
    Column("annotation", BigInteger),
    sqlite_with_rowid=False,
)

annotation_texts = sa.Table(
    "annotation_texts",
    metadata,
    # id is counted by the positions of the version that was the first to have the text, from a number of its uid on.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("project", String(63), nullable=False),
    Column("dataset", String(63), nullable=False),
    # text is what loupe.annotations.write gives. Versions that are derived refer to it: to copy five boxes in each of
    # 100,000 pictures takes longer than to copy all the rest.
    Column("text", Text, nullable=False),
    sa.ForeignKeyConstraint(["project", "dataset"], [datasets.c.project, datasets.c.dataset]),
    sa.Index("annotation_texts_of_dataset", "project", "dataset"),
)

version_hashes = sa.Table(
    "dataset_version_hashes",
    metadata,
    Column("version", ForeignKey(versions.c.uid), primary_key=True),
    # hashes are the pictures' perceptual hashes in the order of the items, 8 bytes each: reading those of 100,000
    # pictures one by one takes longer than all the rest of deriving a version.
    Column("hashes", LargeBinary, nullable=False),
)

tested_pictures = sa.Table(
    "dataset_tested_pictures",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    # label and annotations are those that the picture had in the newest version that had it in test.
    Column("label", Text, nullable=False),
    Column("annotations", Text, nullable=False, default="", server_default=""),
    sa.ForeignKeyConstraint(["project", "dataset"], [datasets.c.project, datasets.c.dataset]),
    sqlite_with_rowid=False,
)

ADDED, REMOVED, RELABELLED, MOVED, ANNOTATED = "added", "removed", "relabelled", "moved", "annotated"
"""How a picture may differ between two versions."""

_TEST = 3
_ITEMS_AT_ONCE = 10_000
_COMPARED_AT_ONCE = 200
_COLUMNS = ("digest", "label", "split", "filename", "size")


@dataclass(frozen=True)
class DatasetRow(Lifetime):
    """A data set; latest is its newest version's number, 0 while there is none."""

    project: str
    dataset: str
    uid: str
    display_name: str
    latest: int
    create_time: float
    test_classes: str = ""

    @property
    def classes_in_test(self) -> frozenset[str]:
        """The classes that were ever in test since whole classes are divided."""
        return frozenset(json.loads(self.test_classes or "[]"))


class ItemRow(NamedTuple):
    """A picture of a version. label: empty where the picture as a whole has no class.

    split: the contract's number; 0 for an unlabelled picture, and for one that is not divided yet. annotations: what
    loupe.annotations.write gives; empty where nobody said what is to be seen. A tuple, since a hundred thousand of them
    are made to derive a version.
    """

    digest: str
    label: str
    split: int
    filename: str
    size: int
    annotations: str = UNLABELLED

    @property
    def unlabelled(self) -> bool:
        """Whether it has neither a class nor annotations."""
        return not self.label and not self.annotations


@dataclass(frozen=True)
class ItemPage:
    """Items of a version in their order.

    offset: the first one's position. sizes: of their pictures, as far as they are known.
    """

    offset: int
    items: Sequence[ItemRow]
    sizes: Mapping[str, Size]


@dataclass(frozen=True)
class Copied:
    """Items that are copied from another version: those at first to last, to their positions plus shift."""

    first: int
    last: int
    shift: int


@dataclass(frozen=True)
class Content:
    """The items of a version that is to be written.

    placed: items with their positions. base: uid of the version that `copied` are copied from. hashes: the perceptual
    hashes of all pictures in their order, 8 bytes each.
    """

    placed: Sequence[tuple[int, ItemRow]]
    base: str = ""
    copied: Sequence[Copied] = ()
    hashes: bytes = b""


@dataclass(frozen=True)
class Difference:
    """A picture that two versions do not have alike; labels are empty and splits 0 where a version does not have it."""

    kind: str
    digest: str
    filename: str
    base_label: str
    label: str
    base_split: int
    split: int


@dataclass(frozen=True)
class VersionRow(Lifetime):
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


_ANNOTATED_ITEMS = dataset_items.outerjoin(annotation_texts, annotation_texts.c.id == dataset_items.c.annotation)
_ANNOTATIONS = sa.func.coalesce(annotation_texts.c.text, UNLABELLED).label("annotations")
_ITEMS = sa.select(*dataset_items.c[_COLUMNS], _ANNOTATIONS).select_from(_ANNOTATED_ITEMS)
"""The items of all versions, with the columns of an ItemRow."""

_COPY = dataset_items.insert().from_select(
    dataset_items.c.keys(),
    sa.select(
        sa.bindparam("uid", type_=String),
        dataset_items.c.position + sa.bindparam("shift", type_=Integer),
        *dataset_items.c[(*_COLUMNS, "annotation")],
    ).where(
        dataset_items.c.version == sa.bindparam("base"),
        dataset_items.c.position.between(sa.bindparam("first"), sa.bindparam("last")),
    ),
)


def _compare() -> dict[str, sa.Select[tuple[str, str, str, str, int, int]]]:
    """Build for each kind the query over the versions `base` and `version`, with the columns of a Difference.

    That of ANNOTATED has those of both annotations behind them: they may say the same in other words.
    """
    columns = dataset_items.c["digest", "label", "split", "filename", "annotation"]
    old = sa.select(*columns).where(dataset_items.c.version == sa.bindparam("base")).cte("old")
    new = sa.select(*columns).where(dataset_items.c.version == sa.bindparam("version")).cte("new")
    nothing, nowhere = sa.literal("", Text), sa.literal(0, SmallInteger)
    same = new.c.digest == old.c.digest
    changed = sa.select(
        new.c.digest,
        new.c.filename,
        old.c.label.label("base_label"),
        new.c.label,
        old.c.split.label("base_split"),
        new.c.split,
    )
    both = changed.select_from(new.join(old, same))
    before, after = annotation_texts.alias("before"), annotation_texts.alias("after")
    said_before, said_after = (sa.func.coalesce(each.c.text, UNLABELLED) for each in (before, after))
    annotated = changed.add_columns(said_before.label("base_annotations"), said_after.label("annotations")).select_from(
        new.join(old, same)
        .outerjoin(before, before.c.id == old.c.annotation)
        .outerjoin(after, after.c.id == new.c.annotation)
    )
    added = sa.select(new.c.digest, new.c.filename, nothing, new.c.label, nowhere, new.c.split)
    removed = sa.select(old.c.digest, old.c.filename, old.c.label, nothing, old.c.split, nowhere)
    return {
        ADDED: added.select_from(new.outerjoin(old, same)).where(old.c.digest.is_(None)),
        REMOVED: removed.select_from(old.outerjoin(new, same)).where(new.c.digest.is_(None)),
        RELABELLED: both.where(new.c.label != old.c.label),
        MOVED: both.where(new.c.split != old.c.split),
        ANNOTATED: annotated.where(new.c.annotation.is_distinct_from(old.c.annotation), said_before != said_after),
    }


_DIFFERENCES = _compare()


def _difference(kind: str, row: Sequence[Any]) -> Difference:
    digest, filename, base_label, label, base_split, split = row[:6]
    return Difference(kind, digest, filename, base_label, label, base_split, split)


def _annotated_otherwise(rows: Sequence[sa.Row[Any]]) -> list[Difference]:
    return [_difference(ANNOTATED, row) for row in rows if identity(row.base_annotations) != identity(row.annotations)]


@dataclass(frozen=True)
class DiffSummary:
    """How many differences of each kind there are between a version and the one that it is compared with."""

    base: DatasetVersionName
    name: DatasetVersionName
    counts: Counter[str]


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

    async def revive(self, row: DatasetRow) -> None:
        """Write a new data set in the place of a purged one; its versions are numbered on."""
        key = (datasets.c.project == row.project) & (datasets.c.dataset == row.dataset)
        await self._connection.execute(datasets.update().where(key).values(**row.__dict__))

    async def set_lifetime(self, row: DatasetRow, lifetime: Lifetime) -> DatasetRow:
        """Delete or restore a data set and return it."""
        key = (datasets.c.project == row.project) & (datasets.c.dataset == row.dataset)
        await self._connection.execute(datasets.update().where(key).values(**lifetime.__dict__))
        return replace(row, **lifetime.__dict__)

    async def page(self, project: str, after: str, limit: int, *, show_deleted: bool = False) -> list[DatasetRow]:
        """Return data sets by id, after one of them; deleted ones only when they are asked for."""
        query = (
            sa.select(datasets)
            .where(datasets.c.project == project, datasets.c.dataset > after)
            .where(visible(datasets, show_deleted=show_deleted))
            .order_by(datasets.c.dataset)
            .limit(limit)
        )
        return [DatasetRow(**row._mapping) for row in await self._connection.execute(query)]

    async def add_version(self, version: VersionRow, content: Content, test_classes: Collection[str] = ()) -> None:
        """Write a version with its items and make it the newest; its test pictures are remembered as tested.

        test_classes: see DatasetRow.classes_in_test.
        """
        key = (datasets.c.project == version.project) & (datasets.c.dataset == version.dataset)
        kept = json.dumps(sorted(test_classes)) if test_classes else ""
        await self._connection.execute(datasets.update().where(key).values(latest=version.number, test_classes=kept))
        await self._connection.execute(versions.insert().values(**version.__dict__))
        for start in range(0, len(content.placed), _ITEMS_AT_ONCE):
            await self._place(version, content.placed[start : start + _ITEMS_AT_ONCE])
        if content.copied:
            copied = [{"uid": version.uid, "base": content.base, **each.__dict__} for each in content.copied]
            await self._connection.execute(_COPY, copied)
        await self._connection.execute(version_hashes.insert().values(version=version.uid, hashes=content.hashes))
        await self._remember_tested(version)

    async def _place(self, version: VersionRow, placed: Sequence[tuple[int, ItemRow]]) -> None:
        first = int(version.uid[:15], 16)  # below 2^60, and ids of no other version are near
        items, texts = [], []
        for position, item in placed:
            values = item._asdict() | {"version": version.uid, "position": position, "annotation": None}
            if text := values.pop("annotations"):
                values["annotation"] = first + position
                key = {"project": version.project, "dataset": version.dataset}
                texts.append({"id": first + position, "text": text, **key})
            items.append(values)
        await self._connection.execute(dataset_items.insert(), items)
        if texts:
            await self._connection.execute(annotation_texts.insert(), texts)

    async def forget_unused_annotations(self, project: str, dataset: str) -> None:
        """Remove the annotations that no item of a data set refers to any more, after items were removed."""
        used = (
            sa.select(dataset_items.c.annotation)
            .join(versions, versions.c.uid == dataset_items.c.version)
            .where(
                versions.c.project == project, versions.c.dataset == dataset, dataset_items.c.annotation.is_not(None)
            )
        )
        await self._connection.execute(
            annotation_texts.delete().where(
                annotation_texts.c.project == project,
                annotation_texts.c.dataset == dataset,
                annotation_texts.c.id.not_in(used),
            )
        )

    async def _remember_tested(self, version: VersionRow) -> None:
        insert = sqlite.insert if self._connection.dialect.name == "sqlite" else postgresql.insert
        chosen = sa.select(
            sa.literal(version.project),
            sa.literal(version.dataset),
            *dataset_items.c["digest", "label"],
            _ANNOTATIONS,
        )
        chosen = chosen.select_from(_ANNOTATED_ITEMS).where(
            dataset_items.c.version == version.uid, dataset_items.c.split == _TEST
        )
        added = insert(tested_pictures).from_select(["project", "dataset", "digest", "label", "annotations"], chosen)
        await self._connection.execute(
            added.on_conflict_do_update(
                index_elements=["project", "dataset", "digest"],
                set_={"label": added.excluded.label, "annotations": added.excluded.annotations},
                where=(tested_pictures.c.label != added.excluded.label)
                | (tested_pictures.c.annotations != added.excluded.annotations),
            )
        )

    async def forget_tested(self, version: VersionRow) -> None:
        """Forget of the pictures that a version has in another split than test that they were ever in it."""
        elsewhere = sa.select(dataset_items.c.digest).where(
            dataset_items.c.version == version.uid, dataset_items.c.split.not_in((0, _TEST))
        )
        await self._connection.execute(
            tested_pictures.delete().where(
                tested_pictures.c.project == version.project,
                tested_pictures.c.dataset == version.dataset,
                tested_pictures.c.digest.in_(elsewhere),
            )
        )

    async def tested(self, project: str, dataset: str) -> dict[str, ItemRow]:
        """Return the pictures that were ever in test, by digest, without what they are called and their size."""
        query = sa.select(*tested_pictures.c["digest", "label", "annotations"]).where(
            tested_pictures.c.project == project, tested_pictures.c.dataset == dataset
        )
        rows = await self._connection.execute(query)
        return {digest: ItemRow(digest, label, _TEST, "", 0, said) for digest, label, said in rows}

    async def hashes(self, uid: str) -> bytes | None:
        """Return the perceptual hashes of a version; None for one that was made before they were kept."""
        query = sa.select(version_hashes.c.hashes).where(version_hashes.c.version == uid)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def difference_counts(self, base: str, version: str) -> Counter[str]:
        """Count the differences of each kind between two versions, given by their uids."""
        counts: Counter[str] = Counter()
        for kind, query in _DIFFERENCES.items():
            if kind == ANNOTATED:
                counts[kind] = await self._annotated_count(base, version)
                continue
            counted = sa.select(sa.func.count()).select_from(query.subquery())
            counts[kind] = (await self._connection.execute(counted, {"base": base, "version": version})).scalar_one()
        return counts

    async def differences(self, kind: str, base: str, version: str, after: str, limit: int) -> list[Difference]:
        """Return differences of a kind between two versions, given by their uids, by digest, after one of them.

        Fewer than `limit` only when there are no more.
        """
        if kind == ANNOTATED:
            return await self._annotated(base, version, after, limit)
        return [_difference(kind, row) for row in await self._compared(kind, base, version, after, limit)]

    async def _compared(self, kind: str, base: str, version: str, after: str, limit: int) -> Sequence[sa.Row[Any]]:
        found = _DIFFERENCES[kind].subquery()
        query = sa.select(found).where(found.c.digest > after).order_by(found.c.digest).limit(limit)
        return (await self._connection.execute(query, {"base": base, "version": version})).all()

    async def _annotated(self, base: str, version: str, after: str, limit: int) -> list[Difference]:
        """Return pictures with other annotations, and not only by other people; see differences()."""
        found: list[Difference] = []
        while len(found) < limit:
            rows = await self._compared(ANNOTATED, base, version, after, _COMPARED_AT_ONCE)
            found += await asyncio.to_thread(_annotated_otherwise, rows)
            if len(rows) < _COMPARED_AT_ONCE:
                break
            after = rows[-1].digest
        return found[:limit]

    async def _annotated_count(self, base: str, version: str) -> int:
        count, after = 0, ""
        while found := await self._annotated(base, version, after, _ITEMS_AT_ONCE):
            count, after = count + len(found), found[-1].digest
        return count

    async def next_number(self, project: str, dataset: str) -> int:
        """Return the number of the version that is made next: no number is given twice."""
        query = sa.select(sa.func.coalesce(sa.func.max(versions.c.number), 0) + 1).where(
            versions.c.project == project, versions.c.dataset == dataset
        )
        number: int = (await self._connection.execute(query)).scalar_one()
        return number

    async def settle_latest(self, row: DatasetRow) -> DatasetRow:
        """Make the newest version that is not deleted the latest, and return the data set."""
        newest = sa.select(sa.func.coalesce(sa.func.max(versions.c.number), 0)).where(
            versions.c.project == row.project, versions.c.dataset == row.dataset, visible(versions, show_deleted=False)
        )
        latest: int = (await self._connection.execute(newest)).scalar_one()
        key = (datasets.c.project == row.project) & (datasets.c.dataset == row.dataset)
        await self._connection.execute(datasets.update().where(key).values(latest=latest))
        return replace(row, latest=latest)

    async def set_version_lifetime(self, row: VersionRow, digest: str, lifetime: Lifetime) -> VersionRow:
        """Delete or restore a version and return it."""
        values = {"digest": digest, **lifetime.__dict__}
        await self._connection.execute(versions.update().where(versions.c.uid == row.uid).values(**values))
        return replace(row, **values)

    async def extend(self, uid: str, expire_time: float) -> None:
        """Let a deleted version expire later."""
        key = (versions.c.uid == uid) & (versions.c.expire_time < expire_time)
        await self._connection.execute(versions.update().where(key).values(expire_time=expire_time))

    async def all_versions(self, project: str, dataset: str) -> list[VersionRow]:
        """Return the versions of a data set that are not purged, deleted ones too, oldest first."""
        query = (
            sa.select(versions)
            .where(versions.c.project == project, versions.c.dataset == dataset, versions.c.purged == THERE)
            .order_by(versions.c.number)
        )
        return [VersionRow(**row._mapping) for row in await self._connection.execute(query)]

    async def version(self, project: str, dataset: str, number: int) -> VersionRow | None:
        """Return a version, deleted or not."""
        return await self._version(project, dataset, versions.c.number == number)

    async def version_by_digest(self, project: str, dataset: str, digest: str) -> VersionRow | None:
        """Return the version that has exactly these items."""
        return await self._version(project, dataset, versions.c.digest == digest)

    async def _version(self, project: str, dataset: str, which: sa.ColumnElement[bool]) -> VersionRow | None:
        query = sa.select(versions).where(versions.c.project == project, versions.c.dataset == dataset, which)
        row = (await self._connection.execute(query)).one_or_none()
        return VersionRow(**row._mapping) if row else None

    async def versions(
        self, project: str, dataset: str, before: int, limit: int, *, show_deleted: bool = False
    ) -> list[VersionRow]:
        """Return versions, newest first, numbers below `before`; deleted ones only when they are asked for."""
        query = (
            sa.select(versions)
            .where(versions.c.project == project, versions.c.dataset == dataset, versions.c.number < before)
            .where(visible(versions, show_deleted=show_deleted))
            .order_by(versions.c.number.desc())
            .limit(limit)
        )
        return [VersionRow(**row._mapping) for row in await self._connection.execute(query)]

    async def version_count(self, project: str) -> tuple[int, int]:
        """Return how many versions all data sets of a project have, and how many of these are deleted."""
        query = sa.select(sa.func.count(), sa.func.count(versions.c.delete_time)).where(
            versions.c.project == project, versions.c.purged == THERE
        )
        count, deleted = (await self._connection.execute(query)).one()
        return count, deleted

    async def items_within(self, uid: str, offset: int, limit: int, characters: int) -> list[ItemRow]:
        """Return the next items as items() does, one at least, with annotations of at most so many characters."""
        query = (
            sa.select(sa.func.length(_ANNOTATIONS.element))
            .select_from(_ANNOTATED_ITEMS)
            .where(dataset_items.c.version == uid, dataset_items.c.position >= offset)
            .order_by(dataset_items.c.position)
            .limit(limit)
        )
        lengths = itertools.accumulate((await self._connection.execute(query)).scalars())
        return await self.items(uid, offset, max(1, sum(total <= characters for total in lengths)))

    async def items(self, uid: str, offset: int, limit: int) -> list[ItemRow]:
        """Return a version's items in their order, from an offset on."""
        query = (
            _ITEMS.where(dataset_items.c.version == uid, dataset_items.c.position >= offset)
            .order_by(dataset_items.c.position)
            .limit(limit)
        )
        return list(map(ItemRow._make, await self._connection.execute(query)))
