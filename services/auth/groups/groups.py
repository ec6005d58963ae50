"""Account groups of a project with members and permission parameters, and the thresholds these are held against."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass

from loupe import paging
from loupe.access import DEFAULT_THRESHOLDS, SYSTEM_PROJECT
from loupe.errors import AlreadyExists, FailedPrecondition, NotFound, invalid, not_found
from loupe.idempotency import Request
from loupe.names import AccountName, GroupName, ProjectName, ThresholdName, check_id
from services.auth.accounts.store import AccountTable
from services.auth.database.session import Database, Session
from services.auth.groups.store import GroupRow, GroupTable
from services.auth.policy.authority import Authority
from services.auth.policy.delegation import OWNERS, check_lowering, check_not_last, check_parameter, check_reach
from services.auth.policy.store import RuleTable, ThresholdTable

PREDEFINED = {OWNERS: 40, "engineers": 30, "operators": 20, "viewers": 10}
"""The groups of a new project with their permission parameters."""


@dataclass(frozen=True)
class Group:
    """An account group with what its members may do, as a number from 1 to 100."""

    name: str
    uid: str
    permission_parameter: int
    member_count: int
    create_time: float


class Groups:
    """Manages groups and thresholds. Nobody deals with a group whose parameter is above their own reach."""

    def __init__(self, database: Database, authority: Authority) -> None:
        self._database = database
        self._authority = authority

    async def create(
        self, by: AccountName, request: Request, project: ProjectName, group_id: str, parameter: int
    ) -> Group:
        """Make a group.

        Raises AlreadyExists, NotFound for an unknown project, PermissionDenied above one's reach.
        """
        name = GroupName(project.project, check_id("group_id", group_id))
        check_parameter("group.permission_parameter", parameter)
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is None:
                if await GroupTable(session).project_uid(project.project) is None:
                    raise not_found(project)
                await check_reach(session, by, name, parameter)
                row = GroupRow(name.project, name.group, str(uuid.uuid4()), session.now)
                answer = json.dumps(asdict(await _add(session, row, parameter))).encode()
                await session.record(request, answer)
        await self._authority.refresh()
        return Group(**json.loads(answer))

    async def get(self, name: GroupName) -> Group:
        """Return a group. Raises NotFound."""
        async with self._database.read() as session:
            return await _existing(session, name)

    async def page(self, project: ProjectName, page_size: int, page_token: str) -> tuple[list[Group], str]:
        """Return a page of a project's groups by id, and the token of the next page."""
        size, scope = paging.page_size(page_size), f"{project}/groups"
        after = paging.decode(scope, page_token)
        async with self._database.read() as session:
            rows = await GroupTable(session).page(project.project, str(after[0]) if after else "", size + 1)
            page = [await _describe(session, row) for row in rows[:size]]
        return page, paging.encode(scope, [rows[size - 1].id]) if len(rows) > size else ""

    async def update(self, by: AccountName, name: GroupName, parameter: int) -> Group:
        """Adjust the permission parameter.

        Raises FailedPrecondition where nobody could manage the project, or the system, any more.
        """
        check_parameter("group.permission_parameter", parameter)
        async with self._database.write() as session:
            group = await _existing(session, name)
            await check_reach(session, by, name, max(parameter, group.permission_parameter))
            await check_lowering(session, name, group.permission_parameter, parameter)
            await RuleTable(session).set_level(name.project, name.group, parameter)
            changed = await _existing(session, name)
        await self._authority.refresh()
        return changed

    async def delete(self, by: AccountName, name: GroupName) -> None:
        """Remove a group without members. Raises FailedPrecondition for one that has members."""
        async with self._database.write() as session:
            group = await _existing(session, name)
            await check_reach(session, by, name, group.permission_parameter)
            if group.member_count:
                raise FailedPrecondition(
                    f"{name} has {group.member_count} members; take them out first", resource=name, state="has_members"
                )
            await GroupTable(session).delete(name.project, name.group)
        await self._authority.refresh()

    async def add_member(self, by: AccountName, name: GroupName, account: AccountName) -> Group:
        """Put an account into a group; it leaves its other group of that project."""
        async with self._database.write() as session:
            rules, accounts = RuleTable(session), AccountTable(session)
            group = await _existing(session, name)
            if await accounts.find(account.account) is None:
                raise not_found(account)
            leaving = await rules.parameter_of(name.project, account.account)
            await check_reach(session, by, name, max(group.permission_parameter, leaving))
            if await rules.group_of(name.project, account.account) != name.group:
                await check_not_last(session, accounts, name.project, account)
                await rules.set_member(name.project, account.account, name.group)
            changed = await _existing(session, name)
        await self._authority.refresh()
        return changed

    async def remove_member(self, by: AccountName, name: GroupName, account: AccountName) -> Group:
        """Take an account out; NotFound when it is not in, FailedPrecondition for the last owner."""
        async with self._database.write() as session:
            group, rules = await _existing(session, name), RuleTable(session)
            if await rules.group_of(name.project, account.account) != name.group:
                raise NotFound(f"{account} is not in {name}", resource=account)
            await check_reach(session, by, name, group.permission_parameter)
            await check_not_last(session, AccountTable(session), name.project, account)
            await rules.set_member(name.project, account.account, None)
            changed = await _existing(session, name)
        await self._authority.refresh()
        return changed

    async def members(self, name: GroupName, page_size: int, page_token: str) -> tuple[list[AccountName], str]:
        """Return a page of a group's accounts by id, and the token of the next page."""
        size, scope = paging.page_size(page_size), f"{name}/members"
        after = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await _existing(session, name)
            found = await RuleTable(session).members(name.project, name.group, str(after[0]) if after else "", size + 1)
        token = paging.encode(scope, [found[size - 1]]) if len(found) > size else ""
        return [AccountName(account) for account in found[:size]], token

    def thresholds(self) -> list[tuple[ThresholdName, int]]:
        """Return every action with what it needs, by name."""
        return [(ThresholdName(action), value) for action, value in sorted(self._authority.thresholds.items())]

    async def set_threshold(self, name: ThresholdName, value: int) -> int:
        """Change what an action needs in all projects. Raises InvalidArgument for an unknown action."""
        check_parameter("threshold.value", value)
        if name.action not in DEFAULT_THRESHOLDS:
            raise invalid("threshold.name", str(name), f"one of {', '.join(sorted(DEFAULT_THRESHOLDS))}")
        async with self._database.write() as session:
            await ThresholdTable(session).put(name.action, value)
        await self._authority.refresh()
        return value

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Make the predefined groups of a new project with its creator as owner; idempotent per uid.

        Raises NotFound for an unknown owner, AlreadyExists when the project's id belongs to another uid.
        """
        _check_uid(uid)
        async with self._database.write() as session:
            known = await GroupTable(session).project_uid(project.project)
            if known not in (None, uid):
                raise AlreadyExists(f"{project} exists with another uid", resource=project)
            if known is None:
                if await AccountTable(session).find(owner.account) is None:
                    raise not_found(owner)
                await add_project(session, project.project, uid, PREDEFINED)
                await RuleTable(session).set_member(project.project, owner.account, OWNERS)
        await self._authority.refresh()

    async def remove_project(self, project: ProjectName, uid: str) -> None:
        """Forget a project that is gone, with its groups; idempotent per uid.

        Another project that has the name by now keeps everything. Raises InvalidArgument for the system.
        """
        if project == SYSTEM_PROJECT:
            raise invalid("project", str(project), "a project that storage has removed")
        _check_uid(uid)
        async with self._database.write() as session:
            if await GroupTable(session).project_uid(project.project) == uid:
                await GroupTable(session).remove_project(project.project)
        await self._authority.refresh()


async def add_project(session: Session, project: str, uid: str, groups: dict[str, int]) -> None:
    """Make a project known to auth, with its first groups."""
    await GroupTable(session).add_project(project, uid)
    for group, parameter in groups.items():
        await GroupTable(session).add(GroupRow(project, group, str(uuid.uuid4()), session.now), parameter)


async def _add(session: Session, row: GroupRow, parameter: int) -> Group:
    name = GroupName(row.project, row.id)
    if await GroupTable(session).find(row.project, row.id) is not None:
        raise AlreadyExists(f"{name} exists; choose another id", resource=name)
    await GroupTable(session).add(row, parameter)
    return await _describe(session, row)


async def _describe(session: Session, row: GroupRow) -> Group:
    level = await RuleTable(session).level(row.project, row.id)
    count = await RuleTable(session).member_count(row.project, row.id)
    return Group(str(GroupName(row.project, row.id)), row.uid, level or 0, count, row.create_time)


async def _existing(session: Session, name: GroupName) -> Group:
    row = await GroupTable(session).find(name.project, name.group)
    if row is None:
        raise not_found(name)
    return await _describe(session, row)


def _check_uid(uid: str) -> None:
    if not uid or len(uid) > 64:
        raise invalid("project_uid", uid, "1 to 64 characters")
