"""Deleting data sets and their versions, and restoring them for as long as they are not purged."""

from __future__ import annotations

from collections.abc import Callable

from loupe.errors import AlreadyExists, FailedPrecondition
from loupe.idempotency import Request
from loupe.names import DatasetName, DatasetVersionName
from services.storage.database.lifetimes import Lifetime
from services.storage.database.session import Database, Session
from services.storage.datasets.datasets import find_dataset, find_version
from services.storage.datasets.messages import (
    digest_of,
    encode_deleted,
    encode_deleted_version,
    encode_restored,
    encode_restored_version,
)
from services.storage.datasets.store import DatasetRow, DatasetTable, VersionRow


class DatasetDeletion:
    """Deletes and restores; every call returns its encoded answer, a repeated one the same.

    kept_seconds: how long what is deleted can be restored. now: wall-clock seconds.
    """

    def __init__(self, database: Database, kept_seconds: float, now: Callable[[], float]) -> None:
        self._database = database
        self._kept_seconds = kept_seconds
        self._now = now

    async def delete_version(self, name: DatasetVersionName, request: Request) -> bytes:
        """Delete a version; the latest one is the newest that is left. Raises NotFound."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            dataset = await find_dataset(session, DatasetName(name.project, name.dataset), lock=True)
            version = await _delete(session, await find_version(session, name), self._lifetime())
            answer = encode_deleted_version(await DatasetTable(session).settle_latest(dataset), version)
            await session.record(request, answer)
        return answer

    async def restore_version(self, name: DatasetVersionName, request: Request) -> bytes:
        """Restore a version.

        Raises NotFound once it is purged, AlreadyExists when it is not deleted or another version has its items now,
        FailedPrecondition while its data set is deleted.
        """
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            parent = DatasetName(name.project, name.dataset)
            dataset = await find_dataset(session, parent, lock=True, show_deleted=True)
            version = await find_version(session, name, show_deleted=True)
            if not version.deleted:
                raise _not_deleted(name)
            if dataset.deleted:
                message = f"{parent} is deleted, and {name} with it; restore the data set"
                raise FailedPrecondition(message, resource=parent, state="DELETED")
            version = await _restore(session, version)
            answer = encode_restored_version(await DatasetTable(session).settle_latest(dataset), version)
            await session.record(request, answer)
        return answer

    async def delete(self, name: DatasetName, request: Request) -> bytes:
        """Delete a data set and all its versions. Raises NotFound."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table, lifetime = DatasetTable(session), self._lifetime()
            dataset = await find_dataset(session, name, lock=True)
            there = [each for each in await table.all_versions(name.project, name.dataset) if not each.deleted]
            for version in there:
                await _delete(session, version, lifetime)
            dataset = await table.set_lifetime(await table.settle_latest(dataset), lifetime)
            answer = encode_deleted(dataset, len(there))
            await session.record(request, answer)
        return answer

    async def restore(self, name: DatasetName, request: Request) -> bytes:
        """Restore a data set and the versions that were deleted with it. Raises NotFound, AlreadyExists."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table = DatasetTable(session)
            dataset = await find_dataset(session, name, lock=True, show_deleted=True)
            if not dataset.deleted:
                raise _not_deleted(name)
            with_it = await _deleted_with(table, dataset)
            for version in with_it:
                await _restore(session, version)
            dataset = await table.set_lifetime(await table.settle_latest(dataset), Lifetime())
            answer = encode_restored(dataset, len(with_it))
            await session.record(request, answer)
        return answer

    def _lifetime(self) -> Lifetime:
        now = self._now()
        return Lifetime(delete_time=now, expire_time=now + self._kept_seconds)


async def _deleted_with(table: DatasetTable, dataset: DatasetRow) -> list[VersionRow]:
    versions = await table.all_versions(dataset.project, dataset.dataset)
    return [version for version in versions if version.delete_time == dataset.delete_time]


async def _delete(session: Session, version: VersionRow, lifetime: Lifetime) -> VersionRow:
    # No two versions may have the same digest in the table: this one gives its own up, and its uid is unique.
    return await DatasetTable(session).set_version_lifetime(version, version.uid, lifetime)


async def _restore(session: Session, version: VersionRow) -> VersionRow:
    table, digest = DatasetTable(session), digest_of(version.document)
    same = await table.version_by_digest(version.project, version.dataset, digest)
    if same is not None:
        message = f"{same.name} has exactly the pictures of {version.name}, which stays deleted"
        raise AlreadyExists(message, resource=same.name)
    return await table.set_version_lifetime(version, digest, Lifetime())


def _not_deleted(name: object) -> AlreadyExists:
    return AlreadyExists(f"{name} is not deleted", resource=name)
