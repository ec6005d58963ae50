"""Pictures and packs in the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, SmallInteger, String, Text
from sqlalchemy.dialects import postgresql, sqlite

from loupe.limits import MAX_DIGESTS
from services.storage.database.array_parameter import ArrayParameter
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.marks.store import picture_marks
from services.storage.projects.store import ProjectTable, projects

TO_DECODE, WHOLE, BROKEN, DAMAGED = 0, 1, 2, 3
"""States of a picture: not decoded yet, whole, broken as it came, damaged here."""

packs = sa.Table(
    "packs",
    metadata,
    Column("pack", String(32), primary_key=True),
    Column("project", ForeignKey(projects.c.project), nullable=False, index=True),
    # length is where the last indexed picture ends; what lies behind it in the file was never acknowledged.
    Column("length", BigInteger, nullable=False),
    Column("sealed", Boolean, nullable=False),
    # dead is how many bytes belong to pictures that were removed; compaction gives them back.
    Column("dead", BigInteger, nullable=False, server_default="0"),
)

pictures = sa.Table(
    "pictures",
    metadata,
    Column("project", ForeignKey(projects.c.project), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("pack", ForeignKey(packs.c.pack), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("problem", Text, nullable=False, default=""),
    Column("perceptual_hash", LargeBinary(8)),
    Column("thumbnail", LargeBinary(256)),
    # width and height are those of the upright picture; null until it is decoded, and of pictures that an earlier Loupe
    # decoded until they are measured.
    Column("width", Integer),
    Column("height", Integer),
    sa.Index(
        "pictures_to_decode",
        "project",
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    ),
    sa.Index(
        "pictures_to_measure",
        "project",
        sqlite_where=sa.text("state = 1 AND width IS NULL"),
        postgresql_where=sa.text("state = 1 AND width IS NULL"),
    ),
)


@dataclass(frozen=True)
class PackRow:
    """A pack file; `length` bytes of it are indexed."""

    pack: str
    project: str
    length: int
    sealed: bool


@dataclass(frozen=True)
class WastefulPack:
    """A pack with many dead bytes; `live` bytes are not."""

    pack: str
    live: int
    sealed: bool


@dataclass(frozen=True)
class PictureRow:
    """Says where a picture's bytes stand: `size` bytes at `position` of its project's `pack`."""

    digest: str
    size: int
    pack: str
    position: int
    sealed: bool = False


@dataclass(frozen=True)
class IndexRow:
    """What decoding told of a picture; a broken one has no hash (8 bytes) or thumbnail (256 bytes).

    problem: why it is broken, or what is to be said of a whole one. width, height: of the upright picture in pixels;
    None where they are not known yet.
    """

    digest: str
    size: int
    state: int
    problem: str
    perceptual_hash: bytes | None
    thumbnail: bytes | None
    width: int | None = None
    height: int | None = None


Size = tuple[int, int]
"""Width and height of an upright picture in pixels."""

# Spelt out, and not with parameters: so the databases see that they have an index for just these.
_UNDECODED, _UNMEASURED = sa.text("state = 0"), sa.text("state = 1 AND width IS NULL")


class PictureTable:
    """Reads and writes pictures and packs inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection

    async def known(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the digests that the project has as pictures; damaged ones do not count."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(pictures.c.digest).where(
            pictures.c.project == project,
            pictures.c.state != DAMAGED,
            pictures.c.digest.in_(array.values),
        )
        return set((await self._connection.execute(query, array.parameters)).scalars())

    async def present(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the digests that count as pictures of the project, damaged ones too."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(pictures.c.digest).where(pictures.c.project == project, pictures.c.digest.in_(array.values))
        return set((await self._connection.execute(query, array.parameters)).scalars())

    async def add(self, project: str, rows: Sequence[PictureRow], pack: PackRow) -> None:
        """Write pictures and how far their pack is indexed, and count those that are new.

        A picture that is there already stays as it is, unless its bytes are known to be damaged.
        """
        await self._count(project, rows)
        insert = sqlite.insert if self._connection.dialect.name == "sqlite" else postgresql.insert
        added = insert(packs).values(**pack.__dict__)
        longer = sa.case((packs.c.length > added.excluded.length, packs.c.length), else_=added.excluded.length)
        await self._connection.execute(added.on_conflict_do_update(index_elements=["pack"], set_={"length": longer}))
        new = {"project": project, "state": TO_DECODE, "problem": ""}
        values = [
            {**new, "digest": row.digest, "size": row.size, "pack": row.pack, "position": row.position} for row in rows
        ]
        added = insert(pictures)
        replaced = {name: added.excluded[name] for name in ("size", "pack", "position", "state", "problem")}
        healed = added.on_conflict_do_update(
            index_elements=["project", "digest"], set_=replaced, where=pictures.c.state == DAMAGED
        )
        await self._connection.execute(healed, values)

    async def _count(self, project: str, rows: Sequence[PictureRow]) -> None:
        await ProjectTable(self._session).usage(project, lock=True)  # what is there must not change meanwhile
        there = await self.present(project, [row.digest for row in rows])
        new = {row.digest: row.size for row in rows if row.digest not in there}
        await ProjectTable(self._session).count(project, pictures=len(new), picture_bytes=sum(new.values()))

    async def locate(self, project: str, digests: Sequence[str]) -> dict[str, PictureRow]:
        """Say where these pictures stand; those that are not there are left out."""
        array = ArrayParameter(self._session, digests)
        query = (
            sa.select(pictures.c.digest, pictures.c.size, pictures.c.pack, pictures.c.position, packs.c.sealed)
            .join(packs, packs.c.pack == pictures.c.pack)
            .where(pictures.c.project == project, pictures.c.digest.in_(array.values))
        )
        return {row[0]: PictureRow(*row) for row in await self._connection.execute(query, array.parameters)}

    async def projects_to_decode(self) -> list[str]:
        """Return the projects that have pictures that nobody decoded, or measured, yet."""
        undecoded, unmeasured = (sa.select(pictures.c.project).where(each) for each in (_UNDECODED, _UNMEASURED))
        return list((await self._connection.execute(undecoded.union(unmeasured))).scalars())

    async def to_decode(self, project: str, limit: int) -> list[str]:
        """Return digests of a project's pictures that nobody decoded yet."""
        query = sa.select(pictures.c.digest).where(pictures.c.project == project, pictures.c.state == TO_DECODE)
        return list((await self._connection.execute(query.limit(limit))).scalars())

    async def to_measure(self, project: str, limit: int) -> list[str]:
        """Return digests of a project's whole pictures whose width and height nobody knows yet."""
        query = sa.select(pictures.c.digest).where(pictures.c.project == project, _UNMEASURED)
        return list((await self._connection.execute(query.limit(limit))).scalars())

    async def set_sizes(self, project: str, sizes: Mapping[str, Size]) -> None:
        """Write width and height of pictures, by digest; all else that is known of them stays."""
        update = (
            pictures.update()
            .where(pictures.c.project == project, pictures.c.digest == sa.bindparam("key"))
            .values(width=sa.bindparam("new_width"), height=sa.bindparam("new_height"))
        )
        values = [
            {"key": digest, "new_width": width, "new_height": height} for digest, (width, height) in sizes.items()
        ]
        await self._connection.execute(update, values)

    async def sizes(self, project: str, digests: Sequence[str]) -> dict[str, Size]:
        """Return width and height of these pictures; those that are not known yet are left out."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(*pictures.c["digest", "width", "height"]).where(
            pictures.c.project == project, pictures.c.width > 0, pictures.c.digest.in_(array.values)
        )
        rows = await self._connection.execute(query, array.parameters)
        return {digest: (width, height) for digest, width, height in rows}

    async def undecoded(self, project: str, digests: Sequence[str]) -> list[str]:
        """Return those of the digests that nobody decoded yet."""
        array = ArrayParameter(self._session, digests)
        query = sa.select(pictures.c.digest).where(
            pictures.c.project == project,
            pictures.c.state == TO_DECODE,
            pictures.c.digest.in_(array.values),
        )
        return list((await self._connection.execute(query, array.parameters)).scalars())

    async def set_index(self, project: str, rows: Sequence[IndexRow]) -> None:
        """Write what decoding told; what was found to be damaged meanwhile stays so."""
        update = (
            pictures.update()
            .where(
                pictures.c.project == project,
                pictures.c.digest == sa.bindparam("key"),
                pictures.c.state != DAMAGED,
            )
            .values(
                state=sa.bindparam("new_state"),
                problem=sa.bindparam("new_problem"),
                perceptual_hash=sa.bindparam("new_hash"),
                thumbnail=sa.bindparam("new_thumbnail"),
                width=sa.bindparam("new_width"),
                height=sa.bindparam("new_height"),
            )
        )
        values = [
            {
                "key": row.digest,
                "new_state": row.state,
                "new_problem": row.problem,
                "new_hash": row.perceptual_hash,
                "new_thumbnail": row.thumbnail,
                "new_width": row.width,
                "new_height": row.height,
            }
            for row in rows
        ]
        await self._connection.execute(update, values)

    async def set_damaged(self, project: str, digests: Sequence[str]) -> None:
        """Say that the stored bytes of these pictures are no longer right, so that they can come again."""
        array = ArrayParameter(self._session, digests)
        key = (pictures.c.project == project) & pictures.c.digest.in_(array.values)
        await self._connection.execute(pictures.update().where(key).values(state=DAMAGED), array.parameters)

    async def index(self, project: str, digests: Sequence[str]) -> list[IndexRow]:
        """Return what is known of these pictures; those that are not there are left out."""
        array = ArrayParameter(self._session, digests)
        columns = pictures.c["digest", "size", "state", "problem", "perceptual_hash", "thumbnail", "width", "height"]
        query = sa.select(*columns).where(pictures.c.project == project, pictures.c.digest.in_(array.values))
        return [IndexRow(*row) for row in await self._connection.execute(query, array.parameters)]

    async def open_packs(self) -> list[PackRow]:
        """Return the packs that are not sealed."""
        query = sa.select(*packs.c["pack", "project", "length", "sealed"]).where(~packs.c.sealed)
        return [PackRow(*row) for row in await self._connection.execute(query)]

    async def packs_in_use(self, names: Sequence[str] | None = None) -> list[str]:
        """Return the packs, of these or of all, in which pictures stand, or stood and still take room."""
        query = sa.select(packs.c.pack).where(packs.c.length > 0)
        query = query if names is None else query.where(packs.c.pack.in_(names))
        return list((await self._connection.execute(query)).scalars())

    async def wasteful_packs(self, project: str, limit: int) -> list[WastefulPack]:
        """Return packs of which more than half of the bytes are dead, those that are dead altogether first."""
        live = packs.c.length - packs.c.dead
        query = (
            sa.select(packs.c.pack, live, packs.c.sealed)
            .where(packs.c.project == project, packs.c.dead * 2 > packs.c.length)
            .order_by(live)
            .limit(limit)
        )
        return [WastefulPack(*row) for row in await self._connection.execute(query)]

    async def pack_bytes(self, names: Sequence[str]) -> int:
        """Return how many bytes the packs have together."""
        query = sa.select(sa.func.coalesce(sa.func.sum(packs.c.length), 0)).where(packs.c.pack.in_(names))
        return int((await self._connection.execute(query)).scalar_one())

    async def pack_projects(self) -> list[str]:
        """Return the projects that have packs."""
        query = sa.select(packs.c.project).where(packs.c.length > 0).distinct().order_by(packs.c.project)
        return list((await self._connection.execute(query)).scalars())

    async def of_packs(self, project: str, names: Sequence[str]) -> list[PictureRow]:
        """Return the pictures that stand in the packs, in their order there; it reads all rows of the project."""
        query = (
            sa.select(*pictures.c["digest", "size", "pack", "position"])
            .where(pictures.c.project == project, pictures.c.pack.in_(names))
            .order_by(pictures.c.pack, pictures.c.position)
        )
        rows = await self._connection.execute(query)
        return [PictureRow(row.digest, row.size, row.pack, row.position, sealed=True) for row in rows]

    async def move(
        self, project: str, emptied: Sequence[str], new: PackRow, moves: Sequence[tuple[PictureRow, int]]
    ) -> int:
        """Let pictures stand in a new pack, each at a position, and return how many bytes of them that are.

        One that does not stand where it stood stays as it is. emptied: the packs in which none is left then.
        """
        there: dict[str, PictureRow] = {}
        for start in range(0, len(moves), MAX_DIGESTS):
            there |= await self.locate(project, [row.digest for row, _ in moves[start : start + MAX_DIGESTS]])
        left = [
            (row, position)
            for row, position in moves
            if row.digest in there and (there[row.digest].pack, there[row.digest].position) == (row.pack, row.position)
        ]
        size = sum(row.size for row, _ in left)
        if left:
            await self._connection.execute(packs.insert().values(**new.__dict__, dead=max(0, new.length - size)))
            key = (pictures.c.project == project) & (pictures.c.digest == sa.bindparam("key"))
            update = pictures.update().where(key, pictures.c.pack == sa.bindparam("old"))
            values = [{"key": row.digest, "old": row.pack, "place": position} for row, position in left]
            await self._connection.execute(update.values(pack=new.pack, position=sa.bindparam("place")), values)
        # The rows stay: to see that no picture refers to one, all pictures would have to be read.
        old = packs.update().where(packs.c.project == project, packs.c.pack.in_(emptied))
        await self._connection.execute(old.values(length=0, dead=0))
        return size

    async def remove(self, project: str, digests: Sequence[str]) -> tuple[int, int]:
        """Remove pictures and uncount them; return how many that were, and their bytes, which are dead in packs now."""
        array = ArrayParameter(self._session, digests)
        key = (pictures.c.project == project) & pictures.c.digest.in_(array.values)
        query = pictures.delete().where(key).returning(pictures.c.pack, pictures.c.size)
        gone: Counter[str] = Counter()
        count = 0
        for pack, size in await self._connection.execute(query, array.parameters):
            gone[pack] += size
            count += 1
        for pack, size in sorted(gone.items()):
            update = packs.update().where(packs.c.pack == pack).values(dead=packs.c.dead + size)
            await self._connection.execute(update)
        total = gone.total()
        await ProjectTable(self._session).count(project, pictures=-count, picture_bytes=-total)
        return count, total

    async def dead_bytes(self, project: str) -> int:
        """Return how many bytes of the project's packs belong to no picture any more."""
        query = sa.select(sa.func.coalesce(sa.func.sum(packs.c.dead), 0)).where(packs.c.project == project)
        return int((await self._connection.execute(query)).scalar_one())

    async def marked(self, project: str) -> tuple[int, int]:
        """Return how many pictures of the project are marked for removal, and their bytes."""
        same = (pictures.c.project == picture_marks.c.project) & (pictures.c.digest == picture_marks.c.digest)
        query = (
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(pictures.c.size), 0))
            .select_from(picture_marks.join(pictures, same))
            .where(picture_marks.c.project == project)
        )
        count, size = (await self._connection.execute(query)).one()
        return count, int(size)

    async def seal(self, pack: str) -> None:
        """Say that the pack is finished and lies among the finished files."""
        await self._connection.execute(packs.update().where(packs.c.pack == pack).values(sealed=True))
