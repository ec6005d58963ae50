"""Transactions: what is read or written in one goes through one session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe.audit_log import audited
from loupe.database import connected, disk_full, migrate, transaction
from loupe.errors import ResourceExhausted, Unavailable

Session = AsyncConnection
"""What is inside one transaction."""

MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Opens sessions. A database that fails is Unavailable, a full one ResourceExhausted; then nothing was written.

    turn: held by whoever writes. Writers of this process wait for each other here, because SQLite's own waiting is in
    steps of up to 100 ms.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.turn = asyncio.Lock()
        self._engine = engine
        self._hasty = engine.execution_options(outlives_power_cut=False)

    async def migrate(self) -> None:
        """Bring the schema to its newest revision."""
        await migrate(self._engine, MIGRATIONS)

    @asynccontextmanager
    async def write(self, *, outlives_power_cut: bool = True) -> AsyncIterator[Session]:
        """Wait for the turn and open a session that commits when its block ends without error."""
        async with self.turn, audited(self.transaction(outlives_power_cut=outlives_power_cut)) as session:
            yield session

    @asynccontextmanager
    async def transaction(self, *, outlives_power_cut: bool) -> AsyncIterator[Session]:
        """Open a session for whoever has the turn; rows of the audit log, and IntegrityError, are theirs to tell."""
        try:
            async with transaction(self._engine if outlives_power_cut else self._hasty) as session:
                yield session
        except IntegrityError:
            raise
        except DBAPIError as error:
            if disk_full(error):
                message = "the disk of the scheduler's database is full; nothing was stored, and what runs goes on"
                raise ResourceExhausted(message, limit="disk") from error
            raise Unavailable(f"the database did not take a change: {error.orig}", dependency="database") from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """Open a session that sees one state of the tables and writes nothing."""
        try:
            async with connected(self._engine) as session:
                # Of SQLite's, only a transaction that does not write begins without waiting for the writers.
                await session.execution_options(read_only=True)
                yield session
        except DBAPIError as error:
            raise Unavailable(f"the database cannot be read: {error.orig}", dependency="database") from error

    async def close(self) -> None:
        """Give all connections back."""
        await self._engine.dispose()
