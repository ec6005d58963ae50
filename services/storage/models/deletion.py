"""Deleting models and their versions, and restoring them for as long as they are not purged."""

from __future__ import annotations

from collections.abc import Callable

from loupe.errors import AlreadyExists, FailedPrecondition
from loupe.idempotency import Request
from loupe.names import ModelName, ModelVersionName
from services.storage.database.lifetimes import Lifetime
from services.storage.database.session import Database
from services.storage.models.library import find_model, find_model_version
from services.storage.models.messages import (
    encode_deleted,
    encode_deleted_version,
    encode_restored,
    encode_restored_version,
)
from services.storage.models.store import ModelTable


class ModelDeletion:
    """Deletes and restores; every call returns its encoded answer, a repeated one the same.

    kept_seconds: how long what is deleted can be restored. now: wall-clock seconds.
    """

    def __init__(self, database: Database, kept_seconds: float, now: Callable[[], float]) -> None:
        self._database = database
        self._kept_seconds = kept_seconds
        self._now = now

    async def delete_version(self, name: ModelVersionName, request: Request) -> bytes:
        """Delete a version; the latest ones are the newest that are left. Raises NotFound."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table = ModelTable(session)
            model = await find_model(session, ModelName(name.project, name.model), lock=True)
            version = await find_model_version(session, name)
            version = await table.set_version_lifetime(version, self._lifetime())
            answer = encode_deleted_version(await table.settle_latest(model), version)
            await session.record(request, answer)
        return answer

    async def restore_version(self, name: ModelVersionName, request: Request) -> bytes:
        """Restore a version.

        Raises NotFound once it is purged, AlreadyExists when it is not deleted, FailedPrecondition while its model is.
        """
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table, parent = ModelTable(session), ModelName(name.project, name.model)
            model = await find_model(session, parent, lock=True, show_deleted=True)
            version = await find_model_version(session, name, show_deleted=True)
            if not version.deleted:
                raise _not_deleted(name)
            if model.deleted:
                message = f"{parent} is deleted, and {name} with it; restore the model"
                raise FailedPrecondition(message, resource=parent, state="DELETED")
            version = await table.set_version_lifetime(version, Lifetime())
            answer = encode_restored_version(await table.settle_latest(model), version)
            await session.record(request, answer)
        return answer

    async def delete(self, name: ModelName, request: Request) -> bytes:
        """Delete a model and all its versions. Raises NotFound."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table, lifetime = ModelTable(session), self._lifetime()
            model = await find_model(session, name, lock=True)
            count = await table.delete_all(model, lifetime)
            model = await table.set_lifetime(await table.settle_latest(model), lifetime)
            answer = encode_deleted(model, count)
            await session.record(request, answer)
        return answer

    async def restore(self, name: ModelName, request: Request) -> bytes:
        """Restore a model and the versions that were deleted with it. Raises NotFound, AlreadyExists."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            table = ModelTable(session)
            model = await find_model(session, name, lock=True, show_deleted=True)
            if not model.deleted:
                raise _not_deleted(name)
            count = await table.restore_all(model)
            model = await table.set_lifetime(await table.settle_latest(model), Lifetime())
            answer = encode_restored(model, count)
            await session.record(request, answer)
        return answer

    def _lifetime(self) -> Lifetime:
        now = self._now()
        return Lifetime(delete_time=now, expire_time=now + self._kept_seconds)


def _not_deleted(name: object) -> AlreadyExists:
    return AlreadyExists(f"{name} is not deleted", resource=name)
