"""Transactions: everything that is read or written between two commits goes through one Session."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import cached_property
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe.database import connected, migrate, transaction
from loupe.errors import ResourceExhausted
from loupe.idempotency import RequestLog
from services.storage.algorithms.store import AlgorithmTable
from services.storage.blobs.store import BlobTable
from services.storage.datasets.store import DatasetTable
from services.storage.models.store import ModelTable
from services.storage.pictures.store import PictureTable
from services.storage.projects.store import ProjectTable

MIGRATIONS = Path(__file__).parent / "migrations"


class Session:
    """One transaction over the tables; it commits when its block ends and rolls back on any error."""

    def __init__(self, connection: AsyncConnection, requests: RequestLog) -> None:
        self._connection = connection
        self._requests = requests

    @cached_property
    def projects(self) -> ProjectTable:
        """The projects."""
        return ProjectTable(self._connection)

    @cached_property
    def pictures(self) -> PictureTable:
        """The small files in packs, and the packs."""
        return PictureTable(self._connection)

    @cached_property
    def blobs(self) -> BlobTable:
        """The files that stand alone, what holds them, and the fences of the jobs that write them."""
        return BlobTable(self._connection)

    @cached_property
    def datasets(self) -> DatasetTable:
        """The data sets, their versions and items."""
        return DatasetTable(self._connection)

    @cached_property
    def algorithms(self) -> AlgorithmTable:
        """The versions in the algorithm image library."""
        return AlgorithmTable(self._connection)

    @cached_property
    def models(self) -> ModelTable:
        """The models, their versions, and checkpoints."""
        return ModelTable(self._connection)

    async def once(
        self, caller: str, method: str, request_id: str, body: bytes, effect: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Run the effect, or return the answer that this request had before; see loupe.idempotency."""
        return await self._requests.run(
            self._connection, caller=caller, method=method, request_id=request_id, body=body, effect=effect
        )


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
            async with self._turn, transaction(self._engine) as connection:
                yield Session(connection, self._requests)
        except OperationalError as error:
            if _disk_full(error):
                raise ResourceExhausted("the disk of the database is full; nothing was stored", limit="disk") from error
            raise

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """Open a session that sees one state of the tables and write nothing."""
        async with connected(self._engine) as connection:
            await connection.execution_options(read_only=True)
            yield Session(connection, self._requests)

    async def close(self) -> None:
        """Give all connections back."""
        await self._engine.dispose()


def _disk_full(error: OperationalError) -> bool:
    text = str(error.orig).lower()
    return "disk is full" in text or "no space left" in text or getattr(error.orig, "errno", None) == errno.ENOSPC
