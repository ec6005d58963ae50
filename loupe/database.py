"""The database of a service: an async SQLAlchemy engine as durable as the mesh promises, migrated by Alembic."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Table, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.dml import UpdateBase

from loupe.concurrency import shielded

BUSY_TIMEOUT_MS = 10_000
NO_CHANGE: dict[str, bool] = {"no_change": True}
"""The `info` of a table in which a service only remembers what it did: a row in it is no change of its own."""
_CHANGED = "loupe_changed"


def create_engine(url: str) -> AsyncEngine:
    """Return an engine; a SQLite one is in WAL mode with synchronous=FULL and foreign keys.

    Writers of SQLite begin with BEGIN IMMEDIATE, so that they wait for each other instead of failing on upgrade
    of a read lock. With the execution option `outlives_power_cut=False` they commit without waiting for the disk:
    such a transaction outlives every process, and a power cut may take it back, and those after it, as a whole.
    """
    engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    event.listen(engine.sync_engine, "after_execute", _note_change)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def _connect(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # SQLAlchemy's events below emit BEGIN themselves
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

        @event.listens_for(engine.sync_engine, "invalidate")
        def _let_go(connection: Any, _record: object, _error: object) -> None:
            # A cancelled call leaves its cursor behind; until that is collected SQLite would keep the lock.
            connection.rollback()

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            options = connection.get_execution_options()
            if options.get("read_only"):
                connection.exec_driver_sql("BEGIN DEFERRED")
                return
            synchronous = "FULL" if options.get("outlives_power_cut", True) else "NORMAL"
            if connection.info.get("synchronous") != synchronous:
                connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
                connection.info["synchronous"] = synchronous
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _note_change(connection: Connection, statement: object, *rest: Any) -> None:
    # A driver that does not count says -1.
    if isinstance(statement, UpdateBase) and rest[-1].rowcount != 0:
        table = statement.table
        if not (isinstance(table, Table) and NO_CHANGE.items() <= table.info.items()):
            connection.info[_CHANGED] = True


def forget_changes(connection: AsyncConnection) -> None:
    """Begin to look for changes."""
    _connection(connection).info.pop(_CHANGED, None)


def changed(connection: AsyncConnection) -> bool:
    """Say whether statements have changed a row since then, outside of tables that are NO_CHANGE."""
    return _CHANGED in _connection(connection).info


def _connection(connection: AsyncConnection) -> Connection:
    assert connection.sync_connection is not None, "it is open"
    return connection.sync_connection


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection for the length of a block, and leave none behind when it is cancelled meanwhile.

    aiosqlite opens a connection in a thread; whoever is cancelled while that goes on would never hear of either.
    """
    connection = engine.connect()
    try:
        await shielded(connection.start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection that commits at the end of the block and rolls back when it raises."""
    async with connected(engine) as connection, connection.begin():
        yield connection


def disk_full(error: BaseException) -> bool:
    """Say whether a database failed because its disk is full: SQLite's and PostgreSQL's words, and the system's."""
    # SQLAlchemy's own text holds the statement and its values, in which anything may stand.
    cause = getattr(error, "orig", None) or error
    text = str(cause).lower()
    return "disk is full" in text or "no space left" in text or getattr(cause, "errno", None) == errno.ENOSPC


def sqlite_url(state: Path, name: str) -> str:
    """Return the URL of the SQLite file `<state>/<name>.db`."""
    return f"sqlite+aiosqlite:///{(state / f'{name}.db').resolve()}"


async def migrate(engine: AsyncEngine, migrations: Path) -> None:
    """Bring the schema to the newest revision of the Alembic folder `migrations`; idempotent.

    The folder's env.py is `from loupe.database import run_migrations; run_migrations()`.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations))

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with transaction(engine) as connection:
        await connection.run_sync(upgrade)


def run_migrations() -> None:
    """Run the migrations on the connection that migrate() gives: the body of every migrations/env.py."""
    from alembic import context

    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
