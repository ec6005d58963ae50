"""What projects hold, and the quotas that administrators set."""

from __future__ import annotations

from typing import Protocol

from loupe.errors import invalid
from loupe.names import ProjectName
from services.storage.database.session import Database, Session
from services.storage.projects.projects import find_project
from services.storage.projects.quotas import Parts, Quota, Room
from services.storage.projects.store import ProjectTable

_MOST = 2**63 - 1


class PartsOf(Protocol):
    """Asks the other rooms, inside one transaction."""

    async def __call__(self, session: Session, project: str) -> Parts: ...


class Quotas:
    """Tells how much room projects have. defaults: the quota of those that have none of their own."""

    def __init__(self, defaults: Quota) -> None:
        self._defaults = defaults

    async def room(self, session: Session, project: str, *, lock: bool = False) -> Room:
        """Return what a project holds and may hold. Raises NotFound.

        lock: nobody else changes either before this transaction ends.
        """
        usage, pictures, size = await ProjectTable(session).usage(project, lock=lock)
        await find_project(session, ProjectName(project))
        defaults = self._defaults
        quota = Quota(defaults.pictures if pictures is None else pictures, defaults.bytes if size is None else size)
        return Room(project, usage, quota)


class Usages:
    """Reports what projects hold, and limits it."""

    def __init__(self, database: Database, quotas: Quotas, parts: PartsOf) -> None:
        self._database = database
        self._quotas = quotas
        self._parts = parts

    async def report(self, name: ProjectName) -> tuple[Room, Parts]:
        """Return what a project holds, all of one moment. Raises NotFound."""
        async with self._database.read() as session:
            await find_project(session, name)
            return await self._quotas.room(session, name.project), await self._parts(session, name.project)

    async def set_quota(self, name: ProjectName, pictures: int | None, size: int | None) -> Quota:
        """Give a project a quota of its own and return what holds now; None: that one stays, 0: no limit.

        A quota below what is there takes nothing away. Raises NotFound, InvalidArgument.
        """
        new = {"max_pictures": pictures, "max_bytes": size}
        for key, value in new.items():
            if value is not None and not 0 <= value <= _MOST:
                raise invalid(key, value, f"0, for no limit, to {_MOST}")
        async with self._database.write() as session:
            await find_project(session, name)
            if given := {key: value for key, value in new.items() if value is not None}:
                await ProjectTable(session).set_quota(name.project, given)
            return (await self._quotas.room(session, name.project)).quota
