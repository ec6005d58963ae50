"""What a SQLite transaction of a service promises."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from loupe import database

NORMAL, FULL = 1, 2


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = database.create_engine(database.sqlite_url(tmp_path, "test"))
    yield engine
    await engine.dispose()


async def test_a_cancelled_caller_leaves_no_lock_and_no_thread_behind(engine: AsyncEngine, tmp_path: Path) -> None:
    """Whenever it is cancelled: the next writer begins at once, and every thread of the driver ends."""
    threads = set(threading.enumerate())
    stages: set[bool] = set()

    async def write() -> None:
        async with database.transaction(engine) as connection:
            await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
            await connection.exec_driver_sql("INSERT INTO t VALUES (1), (2), (3)")
            await connection.exec_driver_sql("SELECT n FROM t")

    gc.disable()  # what only a collection of garbage would free stays
    try:
        for turns in range(80):
            task = asyncio.create_task(write())
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            stages.add(task.done())
            for _ in range(3):  # a caller that is cancelled itself cancels again those that it waits for
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.closing(sqlite3.connect(tmp_path / "test.db", timeout=1)) as other:
                other.execute("BEGIN IMMEDIATE")
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool has it
            await engine.dispose()
    finally:
        gc.enable()
    assert stages == {False, True}, "some are cancelled on the way, some too late"
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


async def synchronous(engine: AsyncEngine) -> int:
    async with engine.begin() as connection:
        return (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()


async def test_a_commit_waits_for_the_disk_unless_a_power_cut_may_take_it_back(engine: AsyncEngine) -> None:
    """The same pooled connection goes from one to the other and back."""
    hasty = engine.execution_options(outlives_power_cut=False)
    assert [await synchronous(each) for each in (engine, hasty, engine, hasty)] == [FULL, NORMAL, FULL, NORMAL]


class _OfDriver(Exception):
    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.errno = number


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OperationalError("INSERT", {}, _OfDriver("database or disk is full")), True),
        (DBAPIError("INSERT", {}, _OfDriver('could not extend file "x": No space left on device')), True),
        (DBAPIError("INSERT", {}, _OfDriver("it did not work", errno.ENOSPC)), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OperationalError("UPDATE t SET text = 'disk is full'", {"a": "disk is full"}, _OfDriver("locked")), False),
        (TimeoutError(), False),
    ],
)
def test_a_full_disk_is_told_by_the_drivers_own_words(error: Exception, full: bool) -> None:
    """Not by the statement, in which anything may stand."""
    assert database.disk_full(error) is full
