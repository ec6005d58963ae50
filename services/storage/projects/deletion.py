"""Deleting projects, and restoring them for as long as they are not purged."""

from __future__ import annotations

from collections.abc import Callable

from loupe.errors import AlreadyExists
from loupe.idempotency import Request
from loupe.names import ProjectName
from services.storage.database.lifetimes import Lifetime
from services.storage.database.session import Database
from services.storage.projects.messages import encode_deleted, encode_restored
from services.storage.projects.projects import find_project
from services.storage.projects.store import ProjectTable


class ProjectDeletion:
    """Deletes and restores; every call returns its encoded answer, a repeated one the same.

    What is in a project stays as it is: nobody is let at it meanwhile. kept_seconds: how long a project can be
    restored. now: wall-clock seconds.
    """

    def __init__(self, database: Database, kept_seconds: float, now: Callable[[], float]) -> None:
        self._database = database
        self._kept_seconds = kept_seconds
        self._now = now

    async def delete(self, name: ProjectName, request: Request) -> bytes:
        """Delete a project. Raises NotFound."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            project = await find_project(session, name, lock=True)
            now = self._now()
            lifetime = Lifetime(delete_time=now, expire_time=now + self._kept_seconds)
            answer = encode_deleted(await ProjectTable(session).set_lifetime(project, lifetime))
            await session.record(request, answer)
        return answer

    async def restore(self, name: ProjectName, request: Request) -> bytes:
        """Restore a project. Raises NotFound once it is being purged, AlreadyExists when it is not deleted."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return answer
            project = await find_project(session, name, lock=True, show_deleted=True)
            if not project.deleted:
                raise AlreadyExists(f"{name} is not deleted", resource=name)
            answer = encode_restored(await ProjectTable(session).set_lifetime(project, Lifetime()))
            await session.record(request, answer)
        return answer
