"""Sessions: what happens to the database's own errors."""

from __future__ import annotations

import asyncio
import threading

import pytest

from loupe import database
from loupe.errors import Unavailable
from services.auth.database.session import Database


async def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path):
    """The driver's error does not get out."""
    engine = database.create_engine(database.sqlite_url(tmp_path / "absent", "auth"))
    with pytest.raises(Unavailable):
        async with Database(engine).read():
            pass
    await engine.dispose()
    # The driver's thread still has something to tell to this event loop, which ends with the test.
    for thread in threading.enumerate():
        if "connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 5)
