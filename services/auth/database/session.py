"""Transactions: what is read or written in one goes through one session."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe.audit_log import audited
from loupe.database import connected, disk_full, migrate, transaction
from loupe.errors import ResourceExhausted, Unavailable
from loupe.idempotency import Request, RequestLog
from services.auth.database.metadata import policy_revision

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class Session:
    """What is inside one transaction.

    now: seconds since 1970 when it began. revision: the policy's, as it was then.
    """

    connection: AsyncConnection
    now: float
    revision: int
    _requests: RequestLog

    async def replay(self, request: Request) -> bytes | None:
        """Return the answer that this request had before; None: it is new. Raises RequestIdReused."""
        return await self._requests.replay(self.connection, request)

    async def record(self, request: Request, answer: bytes) -> None:
        """Remember the answer of a new request."""
        await self._requests.record(self.connection, request, answer)

    async def prune_requests(self) -> None:
        """Forget answers that are too old to be given again."""
        await self._requests.prune(self.connection)


class Database:
    """Opens sessions; a database that cannot be reached is Unavailable, a full one ResourceExhausted."""

    def __init__(self, engine: AsyncEngine, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now
        self._requests = RequestLog(now)

    async def migrate(self) -> None:
        """Bring the schema to its newest revision."""
        await migrate(self._engine, MIGRATIONS)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """Open a session that sees one state of the tables and writes nothing."""
        snapshot = (
            {"read_only": True} if self._engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        )
        with _translated():
            async with connected(self._engine) as connection:
                await connection.execution_options(**snapshot)
                yield await self._session(connection, sa.select(policy_revision.c.revision))

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """Open a session that commits at the end of the block, and leaves nothing behind when it raises.

        Writers come one after the other: they hold the lock on the policy's revision.
        """
        with _translated():
            async with audited(transaction(self._engine), self._now) as connection:
                yield await self._session(connection, sa.select(policy_revision.c.revision).with_for_update())

    async def _session(self, connection: AsyncConnection, revision: sa.Select[int]) -> Session:
        found = (await connection.execute(revision)).scalar_one()
        return Session(connection, self._now(), found, self._requests)  # the time of after waiting for the lock

    async def close(self) -> None:
        """Give all connections back."""
        await self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # never the database's fault: a rule let something through
    except (DBAPIError, PoolTimeout, OSError) as error:
        if disk_full(error):
            raise ResourceExhausted("there is no space left for the database of auth", limit="disk") from error
        raise Unavailable("the database of auth cannot be reached now", dependency="database") from error
