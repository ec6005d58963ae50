"""The database's promises that more than one room relies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from loupe import database
from loupe.errors import ResourceExhausted
from loupe.idempotency import RequestLog
from services.storage.blobs.store import BlobTable
from services.storage.database.session import Database
from services.storage.pictures.store import PackRow, PictureRow, PictureTable
from services.storage.projects.store import ProjectRow, ProjectTable

DIGESTS = [f"{number:064x}" for number in range(5_000)]


@pytest.fixture
async def tables(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated database with one project."""
    made = Database(database.create_engine(database.sqlite_url(tmp_path, "storage")), RequestLog())
    await made.migrate()
    async with made.write() as session:
        await ProjectTable(session).add(ProjectRow("p", "0" * 32, "", "accounts/anna", True, 0.0))
    yield made
    await made.close()


async def test_writers_that_are_cancelled_while_they_wait_leave_nothing_behind(tables: Database) -> None:
    """They end at once, and neither the next writer nor closing has to wait for them."""
    held, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with tables.write() as session:
            await ProjectTable(session).find("p")
            held.set()
            await release.wait()

    async def write() -> None:
        async with tables.write() as session:
            await ProjectTable(session).activate("p")

    holder = asyncio.create_task(hold())
    await held.wait()
    waiting = [asyncio.create_task(write()) for _ in range(12)]
    await asyncio.sleep(0.3)  # long enough for them to be inside SQLite, if that is where they wait
    for task in waiting:
        task.cancel()
    async with asyncio.timeout(2):
        await asyncio.gather(*waiting, return_exceptions=True)
        release.set()
        await holder
        await write()


async def test_an_error_rolls_everything_back(tables: Database) -> None:
    """Nothing of a failed transaction stays."""
    with pytest.raises(ZeroDivisionError):
        async with tables.write() as session:
            await ProjectTable(session).add(ProjectRow("q", "1" * 32, "", "accounts/anna", True, 0.0))
            _ = 1 / 0
    async with tables.read() as session:
        assert await ProjectTable(session).find("q") is None


async def test_a_full_database_disk_is_resource_exhausted(tables: Database) -> None:
    """What SQLite says when there is no room becomes the error of the contract; other errors stay what they are."""
    full = OperationalError("INSERT", {}, Exception("database or disk is full"))
    with pytest.raises(ResourceExhausted):
        async with tables.write():
            raise full
    with pytest.raises(OperationalError):
        async with tables.write():
            raise OperationalError("INSERT", {}, Exception("no such table"))


async def test_thousands_of_digests_are_asked_for_at_once(tables: Database) -> None:
    """More digests than SQLite takes parameters; missing ones, known ones, and where they stand."""
    pack = PackRow("0" * 32, "p", 10 * 2_500, False)
    rows = [PictureRow(digest, 10, pack.pack, number * 10) for number, digest in enumerate(DIGESTS[::2])]
    async with tables.write() as session:
        await PictureTable(session).add("p", rows, pack)
    async with tables.read() as session:
        assert await BlobTable(session).missing("p", DIGESTS, None) == set(DIGESTS[1::2])
        assert await BlobTable(session).missing("other", DIGESTS[:3], None) == set(DIGESTS[:3])
        assert await PictureTable(session).known("p", DIGESTS) == set(DIGESTS[::2])
        assert await PictureTable(session).locate("p", DIGESTS) == {row.digest: row for row in rows}


async def test_a_packs_indexed_length_never_goes_back(tables: Database) -> None:
    """Batches may commit in another order than they were appended."""
    for length in (20, 10):
        async with tables.write() as session:
            row = PictureRow(DIGESTS[length], 10, "0" * 32, length - 10)
            await PictureTable(session).add("p", [row], PackRow("0" * 32, "p", length, False))
    async with tables.read() as session:
        assert [pack.length for pack in await PictureTable(session).open_packs()] == [20]


async def test_a_fence_never_goes_down(tables: Database) -> None:
    """Raising it to less leaves it where it is."""
    async with tables.write() as session:
        assert [await BlobTable(session).raise_fence("j", attempt) for attempt in (1, 3, 2)] == [1, 3, 3]
        assert await BlobTable(session).fence("j") == 3
        assert await BlobTable(session).fence("other") == 0
