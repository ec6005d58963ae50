"""Projects: a row here, groups and an owner in auth; a creation that was cut in between is finished by trying again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from loupe import paging
from loupe.errors import AlreadyExists, invalid, not_found
from loupe.idempotency import Request
from loupe.identity import Caller
from loupe.names import SYSTEM, AccountName, ProjectName, check_id
from services.storage.clients.auth import Memberships
from services.storage.database.lifetimes import list_scope
from services.storage.database.session import Database, Session
from services.storage.projects.messages import encode_project
from services.storage.projects.store import ProjectRow, ProjectTable


class Projects:
    """Creates and lists projects.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, memberships: Memberships, now: Callable[[], float]) -> None:
        self._database = database
        self._memberships = memberships
        self._now = now

    async def create(self, project_id: str, display_name: str, creator: AccountName, request_id: str) -> ProjectRow:
        """Make a project whose owner is its creator. Raises AlreadyExists, InvalidArgument, Unavailable.

        After Unavailable the same call again goes on where it stopped.
        """
        if check_id("project_id", project_id) == SYSTEM:
            raise invalid("project_id", project_id, f'another id; "{SYSTEM}" stands for the whole mesh')
        if len(display_name) > 200:
            raise invalid("project.display_name", display_name, "at most 200 characters")
        row = ProjectRow(project_id, uuid.uuid4().hex, display_name, str(creator), False, self._now())
        request = Request(str(creator), "CreateProject", request_id, repr((project_id, display_name)).encode())
        async with self._database.write() as session:
            if await session.replay(request) is None:
                row = await _begin(session, row)
                await session.record(request, encode_project(row))
            else:
                row = await find_project(session, ProjectName(project_id))
        await self._memberships.ensure_project(ProjectName(project_id), row.uid, creator)
        async with self._database.write() as session:
            await ProjectTable(session).activate(project_id)
        return row

    async def get(self, name: ProjectName, caller: Caller, *, show_deleted: bool = False) -> ProjectRow:
        """Return a project, a deleted one only to a caller who asks for it and may restore it. Raises NotFound."""
        async with self._database.read() as session:
            row = await find_project(session, name, show_deleted=show_deleted)
        if not row.active or (row.deleted and not await self._may_restore(caller, row.project)):
            raise not_found(name)
        return row

    async def page(
        self, caller: Caller, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[ProjectRow], str]:
        """Return a page of the projects that the caller is in, by id, and the next page's token.

        Deleted ones: see get.
        """
        account = _account(caller)
        scope, size = list_scope(f"projects of {account}", show_deleted=show_deleted), paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        mine = {name.project for name in await self._memberships.of(account)}
        if show_deleted:
            async with self._database.read() as session:
                deleted = mine.intersection(await ProjectTable(session).deleted())
            mine -= {project for project in deleted if not await self._may_restore(caller, project)}
        async with self._database.read() as session:
            after, table = str(last[0]) if last else "", ProjectTable(session)
            rows = await table.page(sorted(mine), after, size + 1, show_deleted=show_deleted)
        more = paging.encode(scope, [rows[size - 1].project]) if len(rows) > size else ""
        return rows[:size], more

    async def _may_restore(self, caller: Caller, project: str) -> bool:
        return await self._memberships.may(_account(caller), ProjectName(project), "projects.delete", caller.login)


def _account(caller: Caller) -> AccountName:
    assert caller.account is not None
    return caller.account


async def find_project(
    session: Session, name: ProjectName, wanted: object = None, *, lock: bool = False, show_deleted: bool = False
) -> ProjectRow:
    """Return a project, also one whose groups are still being made; lock: see ProjectTable.find.

    Raises NotFound, naming what is wanted of it, also for a deleted one unless it is asked for.
    """
    row = await ProjectTable(session).find(name.project, lock=lock)
    if row is None or not row.visible(show_deleted=show_deleted):
        raise not_found(wanted or name)
    return row


async def _begin(session: Session, row: ProjectRow) -> ProjectRow:
    """Write the row, or return the one that the same creator began and could not finish."""
    there = await ProjectTable(session).find(row.project)
    if there is None:
        await ProjectTable(session).add(row)
        return row
    if there.active or there.creator != row.creator:
        name = ProjectName(row.project)
        raise AlreadyExists(f"the id of {name} is taken; choose another one", resource=name)
    return there
