"""Projects: a row here, groups and an owner in auth; a creation that was cut in between is finished by trying again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from loupe import paging
from loupe.errors import AlreadyExists, invalid, not_found
from loupe.names import SYSTEM, AccountName, ProjectName, check_id
from loupe.storage.v1 import project_pb2
from services.storage.clock import timestamp
from services.storage.database.session import Database, Session
from services.storage.projects.store import ProjectRow


class Memberships(Protocol):
    """What storage asks of auth."""

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Make the project's groups and put the owner into "owners"; once per uid."""

    async def of(self, account: AccountName) -> list[ProjectName]:
        """Return the projects that an account is in."""


class Projects:
    """Creates and lists projects.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, memberships: Memberships, now: Callable[[], float]) -> None:
        self._database = database
        self._memberships = memberships
        self._now = now

    async def create(
        self, project_id: str, display_name: str, creator: AccountName, request_id: str
    ) -> project_pb2.Project:
        """Make a project whose owner is its creator. Raises AlreadyExists, InvalidArgument, Unavailable.

        After Unavailable the same call again goes on where it stopped.
        """
        if check_id("project_id", project_id) == SYSTEM:
            raise invalid("project_id", project_id, f'another id; "{SYSTEM}" stands for the whole mesh')
        if len(display_name) > 200:
            raise invalid("project.display_name", display_name, "at most 200 characters")
        row = ProjectRow(project_id, uuid.uuid4().hex, display_name, str(creator), False, self._now())
        async with self._database.write() as session:

            async def effect() -> bytes:
                return _project(await _begin(session, row)).SerializeToString(deterministic=True)

            body = repr((project_id, display_name)).encode()
            answer = await session.once(str(creator), "CreateProject", request_id, body, effect)
        project = project_pb2.Project.FromString(answer)
        await self._memberships.ensure_project(ProjectName(project_id), project.uid, creator)
        async with self._database.write() as session:
            await session.projects.activate(project_id)
        return project

    async def get(self, name: ProjectName) -> project_pb2.Project:
        """Return a project. Raises NotFound."""
        async with self._database.read() as session:
            row = await session.projects.find(name.project)
        if row is None or not row.active:
            raise not_found(name)
        return _project(row)

    async def list(
        self, account: AccountName, page_size: int, page_token: str
    ) -> tuple[Sequence[project_pb2.Project], str]:
        """Return a page of the projects that an account is in, by id, and the next page's token."""
        scope, size = f"projects of {account}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        mine = [name.project for name in await self._memberships.of(account)]
        async with self._database.read() as session:
            rows = await session.projects.page(mine, str(last[0]) if last else "", size + 1)
        more = paging.encode(scope, [rows[size - 1].project]) if len(rows) > size else ""
        return [_project(row) for row in rows[:size]], more


async def _begin(session: Session, row: ProjectRow) -> ProjectRow:
    """Write the row, or return the one that the same creator began and could not finish."""
    there = await session.projects.find(row.project)
    if there is None:
        await session.projects.add(row)
        return row
    if there.active or there.creator != row.creator:
        name = ProjectName(row.project)
        raise AlreadyExists(f"the id of {name} is taken; choose another one", resource=name)
    return there


def _project(row: ProjectRow) -> project_pb2.Project:
    return project_pb2.Project(
        name=f"projects/{row.project}",
        uid=row.uid,
        display_name=row.display_name,
        create_time=timestamp(row.create_time),
    )
