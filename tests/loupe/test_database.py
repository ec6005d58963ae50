"""What a SQLite transaction of a service promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from loupe import database

NORMAL, FULL = 1, 2


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = database.create_engine(database.sqlite_url(tmp_path, "test"))
    yield engine
    await engine.dispose()


async def synchronous(engine: AsyncEngine) -> int:
    async with engine.begin() as connection:
        return (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()


async def test_a_commit_waits_for_the_disk_unless_a_power_cut_may_take_it_back(engine: AsyncEngine) -> None:
    """The same pooled connection goes from one to the other and back."""
    hasty = engine.execution_options(outlives_power_cut=False)
    assert [await synchronous(each) for each in (engine, hasty, engine, hasty)] == [FULL, NORMAL, FULL, NORMAL]
