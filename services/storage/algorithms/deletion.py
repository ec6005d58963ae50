"""Deleting versions of algorithms, and restoring them for as long as they are not purged."""

from __future__ import annotations

from collections.abc import Callable

from loupe.errors import AlreadyExists, FailedPrecondition
from loupe.idempotency import Request
from loupe.names import AlgorithmVersionName
from services.storage.algorithms.library import find_algorithm_version, settle_newest
from services.storage.algorithms.messages import encode_deleted, encode_restored, is_built_in
from services.storage.algorithms.store import AlgorithmTable
from services.storage.database.lifetimes import Lifetime
from services.storage.database.session import Database


class AlgorithmDeletion:
    """Deletes and restores; every call returns its encoded answer, a repeated one the same.

    kept_seconds: how long what is deleted can be restored. now: wall-clock seconds.
    """

    def __init__(self, database: Database, kept_seconds: float, now: Callable[[], float]) -> None:
        self._database = database
        self._kept_seconds = kept_seconds
        self._now = now

    async def delete(self, name: AlgorithmVersionName, request: Request) -> bytes:
        """Delete a version. Raises NotFound, FailedPrecondition for one that ships with Loupe."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table = AlgorithmTable(session)
            version = await find_algorithm_version(session, name)
            if is_built_in(version.document):
                message = f"{version.name} ships with Loupe and cannot be deleted; only what was published can be"
                raise FailedPrecondition(message, resource=version.name, state="BUILT_IN")
            now = self._now()
            lifetime = Lifetime(delete_time=now, expire_time=now + self._kept_seconds)
            version = await table.set_lifetime(version, lifetime)
            await settle_newest(table, version.algorithm)
            answer = encode_deleted(version)
            await session.record(request, answer)
        return answer

    async def restore(self, name: AlgorithmVersionName, request: Request) -> bytes:
        """Restore a version. Raises NotFound once it is purged, AlreadyExists when it is not deleted."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table = AlgorithmTable(session)
            version = await find_algorithm_version(session, name, show_deleted=True)
            if not version.deleted:
                raise AlreadyExists(f"{version.name} is not deleted", resource=version.name)
            version = await table.set_lifetime(version, Lifetime())
            await settle_newest(table, version.algorithm)
            answer = encode_restored(version)
            await session.record(request, answer)
        return answer
