"""What auth's audit log says of real calls, and who may read it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
import sqlalchemy as sa

from loupe.auth.v1 import account_service_pb2 as accounts
from loupe.auth.v1 import group_service_pb2 as groups
from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceStub
from loupe.errors import (
    BadCredentials,
    BadPageToken,
    InvalidArgument,
    LoupeError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from services.auth.database.metadata import audit_log
from tests.auth.conftest import PASSWORD, Doors, Rooms, RunningAuth
from tests.auth.test_service import logged_in, populate

LINE, SYSTEM = "projects/line-7", "projects/system"
VIEWERS = f"{LINE}/groups/viewers"


async def listed(doors: Doors, parent: str, **fields: Any) -> list[audit_pb2.AuditEntry]:
    """Return a project's rows, newest first."""
    request = rpc.ListAuditEntriesRequest(parent=parent, **fields)
    return list((await AuditServiceStub(doors.channel).ListAuditEntries(request)).entries)


def told(entry: audit_pb2.AuditEntry) -> tuple[str, str, str, str]:
    return entry.caller, entry.method, entry.resource, entry.outcome


async def refused(call: Awaitable[object], kind: type[LoupeError]) -> None:
    with pytest.raises(kind):
        await call


async def test_every_change_in_a_project_leaves_a_row(auth: RunningAuth) -> None:
    """Who, on what, with which result, newest first; looking leaves none."""
    await populate(auth)
    olga = await logged_in(auth, "olga")
    await olga.groups.CreateGroup(
        groups.CreateGroupRequest(parent=LINE, group_id="night", group={"permission_parameter": 25}, request_id="r-1")
    )
    night = f"{LINE}/groups/night"
    await olga.groups.UpdateGroup(groups.UpdateGroupRequest(group={"name": night, "permission_parameter": 15}))
    await olga.groups.AddMember(groups.AddMemberRequest(name=night, account="accounts/sam"))
    await olga.groups.RemoveMember(groups.RemoveMemberRequest(name=night, account="accounts/sam"))
    await olga.groups.DeleteGroup(groups.DeleteGroupRequest(name=night))
    await olga.groups.ListGroups(groups.ListGroupsRequest(parent=LINE))
    await olga.accounts.CreateAccount(accounts.CreateAccountRequest(account_id="bob", password=PASSWORD, group=VIEWERS))
    found = await listed(olga, LINE)
    assert [told(entry) for entry in found] == [
        ("accounts/olga", "CreateAccount", VIEWERS, "OK"),
        ("accounts/olga", "DeleteGroup", night, "OK"),
        ("accounts/olga", "RemoveMember", night, "OK"),
        ("accounts/olga", "AddMember", night, "OK"),
        ("accounts/olga", "UpdateGroup", night, "OK"),
        ("accounts/olga", "CreateGroup", LINE, "OK"),
        ("accounts/olga", "AddMember", VIEWERS, "OK"),
        ("services/storage", "EnsureProject", LINE, "OK"),
    ]
    made = found[5]
    assert (made.action, made.request_id, made.peer, made.project) == ("groups.write", "r-1", "ipv4:127.0.0.1", LINE)
    assert made.summary == 'group_id="night", group.permission_parameter=25'
    assert found[3].summary == 'account="accounts/sam"'
    await olga.groups.CreateGroup(
        groups.CreateGroupRequest(parent=LINE, group_id="night", group={"permission_parameter": 25}, request_id="r-1")
    )
    assert len(await listed(olga, LINE)) == 8, "an answer that was remembered changed nothing"


async def test_changes_of_the_system_are_read_by_its_administrators(auth: RunningAuth) -> None:
    """Logins, accounts, thresholds; no password and no token is in any row."""
    await populate(auth)
    admin = await auth.administrator()
    tokens = await auth.login("vera")
    vera = auth.terminal(tokens.access_token)
    change = accounts.SetPasswordRequest(name="accounts/vera", old_password=PASSWORD, new_password="another secret 1")
    await vera.accounts.SetPassword(change)
    await admin.accounts.DisableAccount(accounts.DisableAccountRequest(name="accounts/vera"))
    await admin.accounts.EnableAccount(accounts.EnableAccountRequest(name="accounts/vera"))
    await admin.groups.SetThreshold(
        groups.SetThresholdRequest(threshold={"name": "thresholds/jobs.cancel", "value": 35})
    )
    again = await auth.login("vera", "another secret 1")
    await auth.terminal().sessions.Logout(sessions.LogoutRequest(refresh_token=again.refresh_token))
    found = await listed(admin, SYSTEM)
    assert [told(entry) for entry in found[:7]] == [
        ("accounts/vera", "Logout", "", "OK"),
        ("accounts/vera", "Login", "accounts/vera", "OK"),
        ("accounts/admin", "SetThreshold", "", "OK"),
        ("accounts/admin", "EnableAccount", "accounts/vera", "OK"),
        ("accounts/admin", "DisableAccount", "accounts/vera", "OK"),
        ("accounts/vera", "SetPassword", "accounts/vera", "OK"),
        ("accounts/vera", "Login", "accounts/vera", "OK"),
    ]
    assert found[2].summary == 'threshold.name="thresholds/jobs.cancel", threshold.value=35'
    everything = "".join(map(str, found + await listed(await logged_in(auth, "olga"), LINE)))
    for secret in (PASSWORD, "another secret 1", tokens.access_token, again.refresh_token, auth.admin_password):
        assert secret not in everything


async def test_refused_calls_leave_a_row_where_they_were_tried(auth: RunningAuth) -> None:
    """By what was wrong; strangers leave none."""
    await populate(auth)
    olga, vera, sam = [await logged_in(auth, name) for name in ("olga", "vera", "sam")]
    create = groups.CreateGroupRequest(parent=LINE, group_id="night", group={"permission_parameter": 25})
    await refused(vera.groups.CreateGroup(create), PermissionDenied)
    await refused(sam.groups.CreateGroup(create), NotFound)
    create.group_id = "Not an id \x1b[2J" + "x" * 70_000
    await refused(olga.groups.CreateGroup(create), InvalidArgument)
    await refused(
        olga.groups.DeleteGroup(groups.DeleteGroupRequest(name=f"{LINE}/groups/{'y' * 60_000}")), InvalidArgument
    )
    await refused(auth.terminal().groups.DeleteGroup(groups.DeleteGroupRequest(name=VIEWERS)), Unauthenticated)
    await refused(auth.login("olga", "wrong password"), BadCredentials)
    found = await listed(olga, LINE)
    assert [(entry.caller, entry.outcome) for entry in found[:4]] == [
        ("accounts/olga", "INVALID_ARGUMENT"),
        ("accounts/olga", "INVALID_ARGUMENT"),
        ("accounts/sam", "NOT_FOUND"),
        ("accounts/vera", "PERMISSION_DENIED"),
    ]
    assert len(found[0].resource) == 240 and "\x1b" not in found[1].summary and len(found[1].summary) < 240
    system = await listed(await auth.administrator(), SYSTEM, caller="accounts/olga")
    assert [told(entry)[1:] for entry in system] == [("Login", "accounts/olga", "OK")] * 2


async def test_a_flood_of_refusals_is_bounded(auth: RunningAuth) -> None:
    """The next row of the account would say how many were left out."""
    await populate(auth)
    vera = await logged_in(auth, "vera")
    for _ in range(40):
        await refused(vera.groups.DeleteGroup(groups.DeleteGroupRequest(name=VIEWERS)), PermissionDenied)
    found = await listed(await logged_in(auth, "olga"), LINE, caller="accounts/vera")
    assert len(found) == 20


async def test_only_who_may_reads_and_only_that_project(auth: RunningAuth) -> None:
    """audit.read needs 40: a viewer is told so, a stranger to the project nothing, and a token fits its list only."""
    await populate(auth)
    olga, vera, sam = [await logged_in(auth, name) for name in ("olga", "vera", "sam")]
    with pytest.raises(PermissionDenied) as caught:
        await listed(vera, LINE)
    assert (caught.value.action, caught.value.threshold, caught.value.parameter) == ("audit.read", 40, 10)
    await refused(listed(sam, LINE), NotFound)
    await refused(listed(olga, SYSTEM), PermissionDenied)
    await refused(listed(auth.terminal(), LINE), Unauthenticated)
    await refused(listed(olga, "line-7"), InvalidArgument)
    await refused(listed(olga, ""), InvalidArgument)
    await refused(listed(auth.service("storage"), LINE), Unauthenticated)
    stub = AuditServiceStub(olga.channel)
    page = await stub.ListAuditEntries(rpc.ListAuditEntriesRequest(parent=LINE, page_size=1))
    assert len(page.entries) == 1 and page.next_page_token
    other = rpc.ListAuditEntriesRequest(parent=LINE, action_prefix="groups", page_token=page.next_page_token)
    await refused(stub.ListAuditEntries(other), BadPageToken)
    far = rpc.ListAuditEntriesRequest(parent=LINE, since={"seconds": -(1 << 62)}, until={"seconds": 1 << 62})
    assert (await stub.ListAuditEntries(far)).entries


async def test_a_log_that_cannot_be_written_keeps_the_change_back(auth: RunningAuth) -> None:
    """A change without its row is not made; the refusal of another call is answered as ever."""
    await populate(auth)
    olga, vera = await logged_in(auth, "olga"), await logged_in(auth, "vera")
    async with auth.app._engine.begin() as connection:
        await connection.run_sync(audit_log.drop)
    create = groups.CreateGroupRequest(parent=LINE, group_id="night", group={"permission_parameter": 25})
    with pytest.raises(LoupeError):
        await olga.groups.CreateGroup(create)
    await refused(vera.groups.CreateGroup(create), PermissionDenied)
    names = [group.name for group in (await olga.groups.ListGroups(groups.ListGroupsRequest(parent=LINE))).groups]
    assert f"{LINE}/groups/night" not in names


async def test_the_migration_keeps_what_is_there_and_makes_the_log(rooms: Rooms) -> None:
    """Column by column as the code has it, on each database."""

    def compare(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        columns = {each["name"]: each["nullable"] for each in inspector.get_columns("audit_log")}
        assert columns == {each.name: each.nullable for each in audit_log.columns}
        indexes = {each["name"] for each in inspector.get_indexes("audit_log")}
        assert indexes == {each.name for each in audit_log.indexes}

    async with rooms.engine.connect() as connection:
        await connection.run_sync(compare)
