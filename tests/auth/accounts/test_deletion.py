"""Deleted accounts: nothing is left to them but their name, until they are restored."""

from __future__ import annotations

import pytest

from loupe.auth.v1 import account_service_pb2 as accounts
from loupe.auth.v1 import policy_service_pb2 as policy
from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.common.v1 import audit_service_pb2 as audit
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceStub
from loupe.errors import (
    AlreadyExists,
    BadCredentials,
    BadPageToken,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    RequestIdReused,
    Unauthenticated,
)
from loupe.idempotency import Request
from loupe.names import AccountName, GroupName, ProjectName
from services.auth.accounts.accounts import Account
from tests.auth.conftest import KEPT_SECONDS, LINE, PASSWORD, Rooms, RunningAuth
from tests.auth.sessions.test_sessions import login_of
from tests.auth.test_service import logged_in, populate

ADMIN, OLGA = AccountName("admin"), AccountName("olga")
OWNERS, VIEWERS = GroupName("line-7", "owners"), GroupName("line-7", "viewers")
STAFF, ADMINISTRATORS = GroupName("system", "staff"), GroupName("system", "administrators")


def asked(by: AccountName = ADMIN, request_id: str = "", body: bytes = b"") -> Request:
    """Return a request by somebody."""
    return Request(str(by), "DeleteAccount", request_id, body)


async def delete(rooms: Rooms, account: AccountName, by: AccountName = ADMIN) -> Account:
    """Delete an account."""
    return await rooms.deletion.delete(by, account, asked(by))


async def restore(rooms: Rooms, account: AccountName, by: AccountName = ADMIN) -> Account:
    """Restore an account."""
    return await rooms.deletion.restore(by, account, asked(by))


async def refused_login(rooms: Rooms, account: str, password: str) -> tuple[str, str]:
    """Return what somebody hears who is not let in."""
    with pytest.raises(BadCredentials) as caught:
        await rooms.sessions.login(AccountName(account), password, "here")
    return caught.value.message, str(caught.value.metadata)


async def test_a_deleted_account_logs_in_like_one_that_never_was(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    """The right password and a wrong one: the same words after one check of a hash, also once it is purged."""
    checked: list[str] = []
    verify = rooms.passwords._verify
    monkeypatch.setattr(rooms.passwords, "_verify", lambda known, given: checked.append(known) or verify(known, given))
    heard = {await refused_login(rooms, "nobody", PASSWORD)}
    await delete(rooms, OLGA)
    heard |= {await refused_login(rooms, "olga", password) for password in (PASSWORD, "wrong password")}
    rooms.clock.now += KEPT_SECONDS + 1
    assert await rooms.collector.collect() == 1
    heard |= {await refused_login(rooms, "olga", password) for password in (PASSWORD, "")}
    assert len(heard) == 1
    assert [one.rpartition("$")[0][:20] for one in checked] == [checked[0][:20]] * 5


async def test_its_logins_end_and_do_not_come_back(rooms: Rooms):
    """Access and refresh tokens, in this process and in another on the database; the password is as it was."""
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    login = login_of(pair.access_token)
    other = rooms.again()
    await other.refresh()
    await delete(rooms, OLGA)
    await other.refresh()
    for authority in (rooms.authority, other):
        assert not authority.is_active(OLGA, login) and not authority.is_active(OLGA, "")
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await rooms.sessions.refresh(pair.refresh_token)
        if not rooms.authority.is_active(OLGA, ""):
            await restore(rooms, OLGA)
    assert rooms.authority.is_active(OLGA, "") and not rooms.authority.is_active(OLGA, login)
    await rooms.sessions.login(OLGA, PASSWORD, "here")


async def test_its_memberships_do_nothing_and_come_back(rooms: Rooms):
    """In no list, no count and no decision meanwhile; with the group's own parameter of then."""
    vera = await rooms.person("vera", str(VIEWERS))
    await rooms.groups.add_member(ADMIN, STAFF, vera)
    gone = await delete(rooms, vera)
    assert gone.groups == (str(VIEWERS), str(STAFF)), "those that it comes back into"
    assert (gone.delete_time, gone.expire_time) == (rooms.clock.now, rooms.clock.now + KEPT_SECONDS)
    assert await rooms.groups.members(VIEWERS, 0, "") == ([], "")
    assert (await rooms.groups.get(VIEWERS)).member_count == 0
    decision = await rooms.authority.decide(vera, LINE, "datasets.read", "")
    assert not (decision.allowed or decision.member or decision.active)
    assert rooms.authority.memberships(vera) == []
    await rooms.groups.update(ADMIN, VIEWERS, 15)
    back = await restore(rooms, vera)
    assert (back.groups, back.delete_time, back.expire_time) == (gone.groups, None, None)
    decision = await rooms.authority.decide(vera, LINE, "datasets.read", "")
    assert (decision.allowed, decision.parameter) == (True, 15)
    assert back == await rooms.accounts.get(vera)


async def test_it_does_not_come_back_into_a_group_that_was_deleted(rooms: Rooms):
    """Not even when there is another group of that name, which may do more; nor into a project that is gone."""
    vera = await rooms.person("vera", str(VIEWERS))
    await rooms.groups.ensure_project(ProjectName("line-8"), "uid-8", vera)
    await delete(rooms, vera)
    await rooms.groups.delete(OLGA, VIEWERS)
    await rooms.groups.create(OLGA, asked(OLGA), LINE, "viewers", 40)
    await rooms.groups.remove_project(ProjectName("line-8"), "uid-8")
    await rooms.groups.ensure_project(ProjectName("line-8"), "uid-9", OLGA)
    assert (await restore(rooms, vera)).groups == ()
    assert rooms.authority.memberships(vera) == []


async def test_nobody_does_anything_with_it(rooms: Rooms):
    """As if it were not there; whoever asks for deleted ones sees it."""
    await delete(rooms, OLGA)
    calls = [
        lambda: rooms.accounts.get(OLGA),
        lambda: rooms.accounts.set_disabled(ADMIN, OLGA, True),
        lambda: rooms.accounts.set_disabled(ADMIN, OLGA, False),
        lambda: rooms.groups.add_member(ADMIN, VIEWERS, OLGA),
        lambda: rooms.groups.remove_member(ADMIN, OWNERS, OLGA),
        lambda: rooms.groups.ensure_project(ProjectName("line-8"), "uid-8", OLGA),
        lambda: rooms.accounts.set_password(
            ADMIN, OLGA, login="", old_password="", new_password="another password", peer="here"
        ),
        lambda: delete(rooms, OLGA),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            await call()
    assert [one.name for one in (await rooms.accounts.page(0, ""))[0]] == ["accounts/admin"]
    both, _ = await rooms.accounts.page(0, "", show_deleted=True)
    assert [(one.name, one.delete_time) for one in both] == [
        ("accounts/admin", None),
        ("accounts/olga", rooms.clock.now),
    ]
    assert await rooms.accounts.get(OLGA, show_deleted=True) == both[1]
    _, token = await rooms.accounts.page(1, "", show_deleted=True)
    with pytest.raises(BadPageToken):
        await rooms.accounts.page(1, token)


async def test_its_name_is_never_given_again(rooms: Rooms):
    """While it can be restored, and when nothing but the name is left."""
    for _ in range(2):
        if (await rooms.accounts.page(0, ""))[0][-1].name == str(OLGA):
            await delete(rooms, OLGA)
        with pytest.raises(AlreadyExists, match="choose another id"):
            await rooms.accounts.create(ADMIN, asked(), "olga", "", password=PASSWORD, group=str(STAFF))
        rooms.clock.now += KEPT_SECONDS + 1
        await rooms.authority.refresh()
        await rooms.collector.collect()
    with pytest.raises(NotFound):
        await rooms.accounts.get(OLGA, show_deleted=True)
    with pytest.raises(NotFound):
        await restore(rooms, OLGA)


async def test_what_was_disabled_comes_back_disabled(rooms: Rooms):
    """Deleting is no way around an administrator's word."""
    await rooms.accounts.set_disabled(ADMIN, OLGA, True)
    await delete(rooms, OLGA)
    assert (await restore(rooms, OLGA)).disabled
    await refused_login(rooms, "olga", PASSWORD)


async def test_somebody_who_may_administer_the_mesh_stays(rooms: Rooms):
    """Nobody deletes themselves, nor the last enabled administrator; a deleted one does not count as another."""
    root = GroupName("system", "root")
    await rooms.groups.create(ADMIN, asked(), ProjectName("system"), "root", 100)
    rita, adam = await rooms.person("rita", str(root)), await rooms.person("adam", str(ADMINISTRATORS))
    with pytest.raises(FailedPrecondition) as caught:
        await delete(rooms, ADMIN)
    assert caught.value.state == "oneself"
    await delete(rooms, adam)
    with pytest.raises(FailedPrecondition) as caught:
        await delete(rooms, ADMIN, by=rita)
    assert caught.value.state == "last_member"
    with pytest.raises(FailedPrecondition):
        await rooms.accounts.set_disabled(rita, ADMIN, True)
    await restore(rooms, adam)
    await delete(rooms, ADMIN, by=rita)


async def test_nobody_deletes_or_restores_who_is_above_them(rooms: Rooms):
    """An administrator who was deleted is above, too: whoever restores gives the rights back."""
    await rooms.groups.create(ADMIN, asked(), ProjectName("system"), "helpdesk", 90)
    heidi = await rooms.person("heidi", "projects/system/groups/helpdesk")
    adam = await rooms.person("adam", str(ADMINISTRATORS))
    with pytest.raises(PermissionDenied) as caught:
        await delete(rooms, adam, by=heidi)
    assert caught.value.action == "accounts.delete"
    await delete(rooms, adam)
    with pytest.raises(PermissionDenied):
        await restore(rooms, adam, by=heidi)
    assert not rooms.authority.is_active(adam, "")
    await delete(rooms, OLGA, by=heidi)
    await restore(rooms, OLGA, by=heidi)


async def test_a_request_id_has_one_effect(rooms: Rooms):
    """A repeated call gets the same answer, and does not delete what was restored since."""
    first = await rooms.deletion.delete(ADMIN, OLGA, asked(request_id="r1"))
    rooms.clock.now += 5
    await rooms.authority.refresh()
    await restore(rooms, OLGA)
    assert await rooms.deletion.delete(ADMIN, OLGA, asked(request_id="r1")) == first
    assert rooms.authority.is_active(OLGA, "")
    with pytest.raises(RequestIdReused):
        await rooms.deletion.delete(ADMIN, OLGA, asked(request_id="r1", body=b"another"))
    with pytest.raises(AlreadyExists):
        await restore(rooms, OLGA)


async def test_over_the_wire_it_takes_the_right_and_leaves_its_rows(auth: RunningAuth):
    """An owner is refused; tokens end at once, a job gets none; the log names who did it, and what it had done."""
    await populate(auth)
    admin, vera = await auth.administrator(), await logged_in(auth, "vera")
    tokens = await auth.login("olga")
    olga = auth.terminal(tokens.access_token)
    name, me = "accounts/olga", sessions.WhoAmIRequest()
    for door in (vera, olga):
        with pytest.raises(PermissionDenied):
            await door.accounts.DeleteAccount(accounts.DeleteAccountRequest(name="accounts/vera"))
        with pytest.raises(PermissionDenied):
            await door.accounts.UndeleteAccount(accounts.UndeleteAccountRequest(name="accounts/vera"))
    gone = (await admin.accounts.DeleteAccount(accounts.DeleteAccountRequest(name=name, request_id="r-1"))).account
    assert gone.expire_time.seconds - gone.delete_time.seconds == KEPT_SECONDS
    with pytest.raises(Unauthenticated):
        await olga.sessions.WhoAmI(me)
    with pytest.raises(Unauthenticated):
        await auth.terminal().sessions.Refresh(sessions.RefreshRequest(refresh_token=tokens.refresh_token))
    with pytest.raises(BadCredentials):
        await auth.login("olga")
    job = policy.IssueAttemptTokenRequest(account=name, job="projects/line-7/jobs/j1", attempt=1)
    with pytest.raises(FailedPrecondition):
        await auth.service("scheduler").policy.IssueAttemptToken(job)
    with pytest.raises(NotFound):
        await admin.accounts.GetAccount(accounts.GetAccountRequest(name=name))
    shown = await admin.accounts.GetAccount(accounts.GetAccountRequest(name=name, show_deleted=True))
    assert shown.account == gone
    listed = [
        await admin.accounts.ListAccounts(accounts.ListAccountsRequest(show_deleted=show)) for show in (False, True)
    ]
    assert [name in [one.name for one in page.accounts] for page in listed] == [False, True]
    back = (await admin.accounts.UndeleteAccount(accounts.UndeleteAccountRequest(name=name))).account
    assert not back.HasField("delete_time") and list(back.groups) == list(gone.groups)
    with pytest.raises(Unauthenticated):
        await olga.sessions.WhoAmI(me)
    await (await logged_in(auth, "olga")).sessions.WhoAmI(me)
    log = AuditServiceStub(admin.channel)
    request = audit.ListAuditEntriesRequest(parent="projects/system", action_prefix="accounts.delete")
    rows = (await log.ListAuditEntries(request)).entries
    assert [(row.caller, row.method, row.resource, row.outcome, row.request_id) for row in rows[:2]] == [
        ("accounts/admin", "UndeleteAccount", name, "OK", ""),
        ("accounts/admin", "DeleteAccount", name, "OK", "r-1"),
    ]
    assert {row.outcome for row in rows[2:]} == {"PERMISSION_DENIED"}
