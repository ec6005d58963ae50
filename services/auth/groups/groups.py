"""Account groups of a project with members and permission parameters, and the thresholds these are held against."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from loupe import paging
from loupe.access import DEFAULT_THRESHOLDS
from loupe.errors import AlreadyExists, FailedPrecondition, NotFound, invalid, not_found
from loupe.idempotency import RequestLog
from loupe.names import AccountName, GroupName, ProjectName, ThresholdName, check_id
from services.auth.database.idempotent import Request
from services.auth.database.reads import GroupRow, Reads
from services.auth.database.store import Store, Transaction
from services.auth.groups import delegation as ranks
from services.auth.policy.authority import Authority


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

    def __init__(
        self,
        store: Store,
        authority: Authority,
        requests: RequestLog,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._store = store
        self._authority = authority
        self._requests = requests
        self._new_uid = new_uid

    async def create(self, request: Request, project: ProjectName, group_id: str, parameter: int) -> Group:
        """Make a group.

        Raises AlreadyExists, NotFound for an unknown project, PermissionDenied above one's reach.
        """
        name = GroupName(project.project, check_id("group_id", group_id))
        ranks.check_parameter("group.permission_parameter", parameter)

        async with self._store.write() as tx:

            async def effect() -> bytes:
                if await tx.project_uid(project.project) is None:
                    raise not_found(project)
                await self._check_reach(tx, request.by, name, parameter)
                if await tx.group(name.project, name.group) is not None:
                    raise AlreadyExists(f"{name} exists; choose another id", resource=name)
                row = GroupRow(name.project, name.group, self._new_uid(), tx.now)
                await tx.add_group(row, parameter)
                return json.dumps(asdict(await _describe(tx, row))).encode()

            made = Group(**json.loads(await request.once(self._requests, tx, effect)))
        await self._authority.refresh()
        return made

    async def get(self, name: GroupName) -> Group:
        """Return a group. Raises NotFound."""
        async with self._store.read() as reads:
            return await _existing(reads, name)

    async def list(self, project: ProjectName, page_size: int, page_token: str) -> tuple[list[Group], str]:
        """Return a page of a project's groups by id, and the token of the next page."""
        size, scope = paging.page_size(page_size), f"{project}/groups"
        after = paging.decode(scope, page_token)
        async with self._store.read() as reads:
            rows = await reads.groups(project.project, str(after[0]) if after else "", size + 1)
            page = [await _describe(reads, row) for row in rows[:size]]
        return page, paging.encode(scope, [rows[size - 1].id]) if len(rows) > size else ""

    async def update(self, by: AccountName, name: GroupName, parameter: int) -> Group:
        """Adjust the permission parameter; that of the administrators stays, or nobody could repair it."""
        ranks.check_parameter("group.permission_parameter", parameter)
        async with self._store.write() as tx:
            group = await _existing(tx, name)
            await self._check_reach(tx, by, name, max(parameter, group.permission_parameter))
            if name == ranks.ADMINISTRATORS and parameter != group.permission_parameter:
                raise FailedPrecondition(
                    f"the permission parameter of {name} cannot be changed", resource=name, state="fixed"
                )
            await tx.set_level(name.project, name.group, parameter)
            changed = await _existing(tx, name)
        await self._authority.refresh()
        return changed

    async def delete(self, by: AccountName, name: GroupName) -> None:
        """Remove a group without members. Raises FailedPrecondition for one that has members."""
        async with self._store.write() as tx:
            group = await _existing(tx, name)
            await self._check_reach(tx, by, name, group.permission_parameter)
            if group.member_count:
                raise FailedPrecondition(
                    f"{name} has {group.member_count} members; take them out first", resource=name, state="has_members"
                )
            await tx.delete_group(name.project, name.group)
        await self._authority.refresh()

    async def add_member(self, by: AccountName, name: GroupName, account: AccountName) -> Group:
        """Put an account into a group; it leaves its other group of that project."""
        async with self._store.write() as tx:
            group = await _existing(tx, name)
            if await tx.account(account.account) is None:
                raise not_found(account)
            present = await tx.group_of(name.project, account.account)
            leaving = await tx.level(name.project, present) if present else 0
            await self._check_reach(tx, by, name, max(group.permission_parameter, leaving or 0))
            if present != name.group:
                await ranks.check_not_last(tx, name.project, present, account.account)
                await tx.set_member(name.project, account.account, name.group)
            changed = await _existing(tx, name)
        await self._authority.refresh()
        return changed

    async def remove_member(self, by: AccountName, name: GroupName, account: AccountName) -> Group:
        """Take an account out; NotFound when it is not in, FailedPrecondition for the last owner."""
        async with self._store.write() as tx:
            group = await _existing(tx, name)
            if await tx.group_of(name.project, account.account) != name.group:
                raise NotFound(f"{account} is not in {name}", resource=account)
            await self._check_reach(tx, by, name, group.permission_parameter)
            await ranks.check_not_last(tx, name.project, name.group, account.account)
            await tx.set_member(name.project, account.account, None)
            changed = await _existing(tx, name)
        await self._authority.refresh()
        return changed

    async def members(self, name: GroupName, page_size: int, page_token: str) -> tuple[list[AccountName], str]:
        """Return a page of a group's accounts by id, and the token of the next page."""
        size, scope = paging.page_size(page_size), f"{name}/members"
        after = paging.decode(scope, page_token)
        async with self._store.read() as reads:
            await _existing(reads, name)
            found = await reads.members(name.project, name.group, str(after[0]) if after else "", size + 1)
        token = paging.encode(scope, [found[size - 1]]) if len(found) > size else ""
        return [AccountName(account) for account in found[:size]], token

    def thresholds(self) -> list[tuple[ThresholdName, int]]:
        """Return every action with what it needs, by name."""
        return [(ThresholdName(action), value) for action, value in sorted(self._authority.thresholds.items())]

    async def set_threshold(self, name: ThresholdName, value: int) -> int:
        """Change what an action needs in all projects. Raises NotFound for an unknown action."""
        ranks.check_parameter("threshold.value", value)
        if name.action not in DEFAULT_THRESHOLDS:
            raise invalid("threshold.name", str(name), f"one of {', '.join(sorted(DEFAULT_THRESHOLDS))}")
        async with self._store.write() as tx:
            await tx.set_threshold(name.action, value)
        await self._authority.refresh()
        return value

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Make the predefined groups of a new project with its creator as owner; idempotent per uid.

        Raises NotFound for an unknown owner, AlreadyExists when the project's id belongs to another uid.
        """
        if not uid or len(uid) > 64:
            raise invalid("project_uid", uid, "1 to 64 characters")
        async with self._store.write() as tx:
            known = await tx.project_uid(project.project)
            if known not in (None, uid):
                raise AlreadyExists(f"{project} exists with another uid", resource=project)
            if known is None:
                if await tx.account(owner.account) is None:
                    raise not_found(owner)
                await add_project(tx, project.project, uid, ranks.PREDEFINED, self._new_uid)
                await tx.set_member(project.project, owner.account, ranks.OWNERS)
        await self._authority.refresh()

    async def _check_reach(self, tx: Transaction, by: AccountName, name: GroupName, wanted: int) -> None:
        ranks.check_reach(by, name.project, wanted, await ranks.reach_of(tx, by, name.project), str(name))


async def add_project(
    tx: Transaction, project: str, uid: str, groups: dict[str, int], new_uid: Callable[[], str]
) -> None:
    """Make a project known to auth, with its first groups."""
    await tx.add_project(project, uid)
    for group, parameter in groups.items():
        await tx.add_group(GroupRow(project, group, new_uid(), tx.now), parameter)


async def _describe(reads: Reads, row: GroupRow) -> Group:
    level = await reads.level(row.project, row.id)
    count = await reads.member_count(row.project, row.id)
    return Group(str(GroupName(row.project, row.id)), row.uid, level or 0, count, row.create_time)


async def _existing(reads: Reads, name: GroupName) -> Group:
    row = await reads.group(name.project, name.group)
    if row is None:
        raise not_found(name)
    return await _describe(reads, row)
