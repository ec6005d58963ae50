"""Transactions: everything that is read or written between two commits goes through one Session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe.audit_log import audited
from loupe.database import connected, disk_full, migrate, transaction
from loupe.errors import ResourceExhausted
from loupe.idempotency import Request, RequestLog

MIGRATIONS = Path(__file__).parent / "migrations"


class Session:
    """One transaction over the tables; it commits when its block ends and rolls back on any error.

    connection: what the tables of the rooms run their statements on.
    """

    def __init__(self, connection: AsyncConnection, requests: RequestLog) -> None:
        self.connection = connection
        self._requests = requests

    async def replay(self, request: Request) -> bytes | None:
        """Return the answer that this request had before; None: it is new. Raises RequestIdReused, InvalidArgument."""
        return await self._requests.replay(self.connection, request)

    async def record(self, request: Request, answer: bytes) -> None:
        """Remember, in this very transaction, the answer of a request that replay() called new."""
        await self._requests.record(self.connection, request, answer)


class Database:
    """Opens sessions.

    A full disk surfaces as ResourceExhausted, with nothing written.
    """

    def __init__(self, engine: AsyncEngine, requests: RequestLog) -> None:
        self._engine = engine
        self._requests = requests
        # SQLite has one writer. Those who wait for it wait here: inside SQLite they would poll, and one that is
        # cancelled there would get the lock later, for nobody.
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    async def migrate(self) -> None:
        """Bring the schema to its newest revision."""
        await migrate(self._engine, MIGRATIONS)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """Open a session that commits; when the block has ended without error, it is durable."""
        try:
            async with self._turn, audited(transaction(self._engine)) as connection:
                yield Session(connection, self._requests)
        except OperationalError as error:
            if disk_full(error):
                raise ResourceExhausted("the disk of the database is full; nothing was stored", limit="disk") from error
            raise

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """Open a session that sees one state of the tables and writes nothing."""
        async with connected(self._engine) as connection:
            await connection.execution_options(read_only=True)
            yield Session(connection, self._requests)

    async def close(self) -> None:
        """Give all connections back."""
        await self._engine.dispose()
