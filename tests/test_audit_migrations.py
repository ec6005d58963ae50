"""The audit log comes into meshes that are there: their tables stay as they are."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from loupe import database
from loupe.idempotency import request_log_table
from services.auth.database import session as auth
from services.scheduler.database import session as scheduler
from services.storage.database import session as storage

ANSWER = {
    "caller": "accounts/anna",
    "method": "M",
    "request_id": "r",
    "body_digest": "",
    "answer": b"a",
    "created": 1.0,
}


@pytest.mark.parametrize(("service", "before"), [(auth, "0002"), (storage, "0001"), (scheduler, "0001")])
async def test_a_mesh_of_before_keeps_its_rows_and_gets_the_log(
    service: ModuleType, before: str, tmp_path: Path
) -> None:
    """An upgrade from the revision before makes one table more, empty; later ones have made theirs."""
    engine = database.create_engine(database.sqlite_url(tmp_path, "service"))
    config = Config()
    config.set_main_option("script_location", str(service.MIGRATIONS))

    def first(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
        connection.execute(request_log_table(sa.MetaData()).insert(), ANSWER)

    def names(connection: sa.Connection) -> set[str]:
        return set(sa.inspect(connection).get_table_names())

    async def run(work: Any) -> Any:
        async with database.transaction(engine) as connection:
            return await connection.run_sync(work)

    await run(first)
    there = await run(names)
    await database.migrate(engine, service.MIGRATIONS)
    assert await run(names) >= there | {"audit_log"}
    kept = await run(lambda connection: connection.execute(sa.select(request_log_table(sa.MetaData()))).all())
    assert [row._asdict() for row in kept] == [ANSWER]
    await engine.dispose()
