"""Groups, members and thresholds: nobody gives more than they have, and nobody locks everybody out."""

from __future__ import annotations

import pytest

from loupe.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RequestIdReused,
    WeakPassword,
)
from loupe.idempotency import Request
from loupe.names import AccountName, GroupName, ProjectName, ThresholdName
from services.auth.policy.delegation import reach
from services.auth.policy.store import RuleTable
from tests.auth.conftest import LINE, PASSWORD, Rooms

ADMIN, OLGA = AccountName("admin"), AccountName("olga")
OWNERS, ENGINEERS = GroupName("line-7", "owners"), GroupName("line-7", "engineers")
ADMINISTRATORS = GroupName("system", "administrators")


def asked(by: AccountName, request_id: str = "", body: bytes = b"") -> Request:
    """Return a request by somebody."""
    return Request(str(by), "Create", request_id, body)


@pytest.mark.parametrize(
    ("own", "system", "groups_admin", "may"),
    [(40, 0, 90, 40), (40, 100, 90, 100), (0, 100, 90, 100), (40, 89, 90, 40), (0, 30, 30, 30), (0, 0, 90, 0)],
)
def test_reach_is_the_own_parameter_or_the_systems_from_groups_admin_on(own, system, groups_admin, may):
    """A high system-wide parameter counts in projects only from groups.admin on."""
    assert reach(own, system, groups_admin) == may


async def test_a_new_project_has_its_groups_and_its_owner(rooms: Rooms):
    """Four groups with their parameters; the creator owns it; asking again changes nothing."""
    for _ in range(2):
        await rooms.groups.ensure_project(LINE, "uid-line-7", OLGA)
    groups, token = await rooms.groups.page(LINE, 0, "")
    assert [(group.name.rpartition("/")[2], group.permission_parameter, group.member_count) for group in groups] == [
        ("engineers", 30, 0),
        ("operators", 20, 0),
        ("owners", 40, 1),
        ("viewers", 10, 0),
    ]
    assert token == ""
    with pytest.raises(AlreadyExists):
        await rooms.groups.ensure_project(LINE, "another-uid", OLGA)
    with pytest.raises(NotFound):
        await rooms.groups.ensure_project(ProjectName("line-8"), "uid-8", AccountName("nobody"))
    assert await rooms.groups.page(ProjectName("line-8"), 0, "") == ([], "")


async def test_of_a_project_that_is_gone_nothing_is_left(rooms: Rooms):
    """Neither groups nor rules, here and in another process; its accounts and other projects stay; once and again."""
    other = rooms.again()
    eva = await rooms.person("eva", str(ENGINEERS))
    line_8 = ProjectName("line-8")
    await rooms.groups.ensure_project(line_8, "uid-8", eva)
    await other.refresh()
    for _ in range(2):
        await rooms.groups.remove_project(LINE, "uid-line-7")
    await other.refresh()
    fresh = rooms.again()
    await fresh.refresh()
    for authority in (rooms.authority, other, fresh):
        decision = await authority.decide(OLGA, LINE, "groups.write", "")
        assert (decision.allowed, decision.member, decision.parameter) == (False, False, 0)
        assert authority.memberships(eva) == [line_8]
        assert (await authority.decide(eva, line_8, "groups.write", "")).allowed
    assert await rooms.groups.page(LINE, 0, "") == ([], "")
    async with rooms.database.read() as session:
        assert [row for row in await RuleTable(session).all() if "line-7" in str(row)] == []
    await rooms.groups.ensure_project(LINE, "another-uid", eva)
    await rooms.groups.remove_project(LINE, "uid-line-7")
    assert (await rooms.accounts.get(eva)).groups == (str(OWNERS), "projects/line-8/groups/owners")
    assert (await rooms.groups.get(ENGINEERS)).member_count == 0


async def test_the_system_is_no_project_that_goes(rooms: Rooms):
    """And a request that names no uid is refused."""
    for project, uid in ((ProjectName("system"), "uid"), (LINE, "")):
        with pytest.raises(InvalidArgument):
            await rooms.groups.remove_project(project, uid)


async def test_lists_page(rooms: Rooms):
    """Each page goes on after the last; accounts, groups and members alike."""
    names, token = [], ""
    while True:
        page, token = await rooms.groups.page(LINE, 3, token)
        names += [group.name.rpartition("/")[2] for group in page]
        if not token:
            break
    assert names == ["engineers", "operators", "owners", "viewers"]
    for number in range(3):
        await rooms.person(f"eng-{number}", str(ENGINEERS))
    first, token = await rooms.groups.members(ENGINEERS, 2, "")
    rest, end = await rooms.groups.members(ENGINEERS, 2, token)
    assert [one.account for one in first + rest] == ["eng-0", "eng-1", "eng-2"]
    assert end == ""
    accounts, token = await rooms.accounts.page(4, "")
    more, _ = await rooms.accounts.page(4, token)
    assert [one.name for one in accounts + more] == [
        f"accounts/{one}" for one in ("admin", "eng-0", "eng-1", "eng-2", "olga")
    ]


async def test_nobody_gives_more_than_they_have(rooms: Rooms):
    """An owner of 40 makes no group of 41, raises none to it, and touches none that has it; the administrator does."""
    with pytest.raises(PermissionDenied) as caught:
        await rooms.groups.create(OLGA, asked(OLGA), LINE, "chiefs", 41)
    assert (caught.value.metadata["parameter"], caught.value.metadata["threshold"]) == ("40", "41")
    await rooms.groups.create(OLGA, asked(OLGA), LINE, "deputies", 40)
    with pytest.raises(PermissionDenied):
        await rooms.groups.update(OLGA, ENGINEERS, 41)
    chiefs = GroupName("line-7", "chiefs")
    await rooms.groups.create(ADMIN, asked(ADMIN), LINE, "chiefs", 60)
    carl = await rooms.person("carl", str(chiefs))
    with pytest.raises(PermissionDenied):
        await rooms.groups.add_member(OLGA, chiefs, OLGA)
    with pytest.raises(PermissionDenied):
        await rooms.groups.remove_member(OLGA, chiefs, carl)
    with pytest.raises(PermissionDenied):
        await rooms.groups.add_member(OLGA, ENGINEERS, carl)
    with pytest.raises(PermissionDenied):
        await rooms.groups.update(OLGA, chiefs, 5)
    with pytest.raises(PermissionDenied):
        await rooms.accounts.create(OLGA, asked(OLGA), "dina", "", password=PASSWORD, group=str(chiefs))
    with pytest.raises(PermissionDenied):
        await rooms.accounts.create(OLGA, asked(OLGA), "dina", "", password=PASSWORD, group=str(ADMINISTRATORS))
    await rooms.accounts.create(OLGA, asked(OLGA), "dina", "", password=PASSWORD, group=str(ENGINEERS))


async def test_an_account_is_in_one_group_of_a_project(rooms: Rooms):
    """Joining one leaves the other; groups of other projects stay."""
    eva = await rooms.person("eva", str(ENGINEERS))
    await rooms.groups.add_member(OLGA, GroupName("line-7", "viewers"), eva)
    assert (await rooms.accounts.get(eva)).groups == ("projects/line-7/groups/viewers",)
    await rooms.groups.ensure_project(ProjectName("line-8"), "uid-8", eva)
    assert (await rooms.accounts.get(eva)).groups == (
        "projects/line-7/groups/viewers",
        "projects/line-8/groups/owners",
    )
    assert rooms.authority.memberships(eva) == [LINE, ProjectName("line-8")]


async def test_the_last_owner_stays(rooms: Rooms):
    """Neither removed nor moved away, by nobody; once there is another, it goes."""
    for by in (OLGA, ADMIN):
        with pytest.raises(FailedPrecondition):
            await rooms.groups.remove_member(by, OWNERS, OLGA)
        with pytest.raises(FailedPrecondition):
            await rooms.groups.add_member(by, ENGINEERS, OLGA)
    await rooms.person("oskar", str(OWNERS))
    await rooms.groups.remove_member(OLGA, OWNERS, OLGA)


async def test_a_disabled_owner_does_not_count_as_another(rooms: Rooms):
    """Or the project would be left to somebody who cannot log in; the disabled one may go."""
    oskar = await rooms.person("oskar", str(OWNERS))
    await rooms.accounts.set_disabled(ADMIN, oskar, True)
    with pytest.raises(FailedPrecondition):
        await rooms.groups.remove_member(OLGA, OWNERS, OLGA)
    await rooms.groups.remove_member(OLGA, OWNERS, oskar)


async def test_the_owners_group_stays_what_owning_needs(rooms: Rooms):
    """Neither lowered below what managing groups needs, nor emptied, nor deleted, by nobody; others may be lowered."""
    for by in (OLGA, ADMIN):
        for parameter in (1, 39):
            with pytest.raises(FailedPrecondition, match=r"which needs 40 \(groups\.write\)"):
                await rooms.groups.update(by, OWNERS, parameter)
        with pytest.raises(FailedPrecondition):
            await rooms.groups.delete(by, OWNERS)
    assert (await rooms.authority.decide(OLGA, LINE, "groups.write", "")).allowed
    await rooms.groups.update(ADMIN, OWNERS, 60)
    await rooms.groups.update(OLGA, OWNERS, 40)
    await rooms.groups.update(OLGA, ENGINEERS, 1)


async def test_what_owning_needs_is_what_it_needs_now(rooms: Rooms):
    """A threshold that an administrator lowered lets owners go as low; one that was raised does not keep them there."""
    await rooms.groups.set_threshold(ThresholdName("groups.write"), 35)
    await rooms.groups.update(OLGA, OWNERS, 35)
    with pytest.raises(FailedPrecondition):
        await rooms.groups.update(OLGA, OWNERS, 34)
    await rooms.groups.set_threshold(ThresholdName("groups.write"), 50)
    with pytest.raises(FailedPrecondition):
        await rooms.groups.update(ADMIN, OWNERS, 34)
    await rooms.groups.update(ADMIN, OWNERS, 40)


async def test_the_last_enabled_administrator_stays(rooms: Rooms):
    """Not removed, not disabled, the group's parameter is fixed; a disabled one does not count as another."""
    await rooms.person("adam", str(ADMINISTRATORS))
    await rooms.accounts.set_disabled(ADMIN, AccountName("adam"), True)
    with pytest.raises(FailedPrecondition):
        await rooms.groups.remove_member(ADMIN, ADMINISTRATORS, ADMIN)
    with pytest.raises(FailedPrecondition):
        await rooms.accounts.set_disabled(ADMIN, ADMIN, True)
    with pytest.raises(FailedPrecondition):
        await rooms.groups.update(ADMIN, ADMINISTRATORS, 50)
    await rooms.accounts.set_disabled(ADMIN, AccountName("adam"), False)
    await rooms.accounts.set_disabled(AccountName("adam"), ADMIN, True)


async def test_nobody_takes_over_an_account_above_them(rooms: Rooms):
    """Who may disable accounts may neither disable nor take over an administrator."""
    await rooms.groups.create(ADMIN, asked(ADMIN), ProjectName("system"), "helpdesk", 90)
    heidi = await rooms.person("heidi", "projects/system/groups/helpdesk")
    with pytest.raises(PermissionDenied):
        await rooms.accounts.set_disabled(heidi, ADMIN, True)
    with pytest.raises(PermissionDenied):
        await rooms.accounts.set_password(
            heidi, ADMIN, login="", old_password="", new_password="taken over by me", peer="here"
        )
    await rooms.accounts.set_password(
        heidi, OLGA, login="", old_password="", new_password="a new password", peer="here"
    )
    await rooms.sessions.login(OLGA, "a new password", "here")
    with pytest.raises(PermissionDenied):
        await rooms.accounts.set_password(
            OLGA, heidi, login="", old_password="", new_password="a new password", peer="here"
        )


async def test_a_group_with_members_is_not_deleted(rooms: Rooms):
    """Without members it goes, and its name is free again."""
    eva = await rooms.person("eva", str(ENGINEERS))
    with pytest.raises(FailedPrecondition):
        await rooms.groups.delete(OLGA, ENGINEERS)
    await rooms.groups.remove_member(OLGA, ENGINEERS, eva)
    await rooms.groups.delete(OLGA, ENGINEERS)
    with pytest.raises(NotFound):
        await rooms.groups.get(ENGINEERS)
    await rooms.groups.create(OLGA, asked(OLGA), LINE, "engineers", 25)


@pytest.mark.parametrize("parameter", [0, -1, 101, True])
async def test_a_parameter_is_1_to_100(rooms: Rooms, parameter: int):
    """Everything else is refused, for groups and thresholds."""
    with pytest.raises(InvalidArgument):
        await rooms.groups.create(ADMIN, asked(ADMIN), LINE, "new", parameter)
    with pytest.raises(InvalidArgument):
        await rooms.groups.update(ADMIN, ENGINEERS, parameter)
    with pytest.raises(InvalidArgument):
        await rooms.groups.set_threshold(ThresholdName("jobs.submit"), parameter)


async def test_unknown_things_are_said_to_be_unknown(rooms: Rooms):
    """Groups, accounts, projects, actions."""
    with pytest.raises(NotFound):
        await rooms.groups.add_member(ADMIN, GroupName("line-7", "ghosts"), OLGA)
    with pytest.raises(NotFound):
        await rooms.groups.add_member(ADMIN, ENGINEERS, AccountName("nobody"))
    with pytest.raises(NotFound):
        await rooms.groups.remove_member(ADMIN, ENGINEERS, OLGA)
    with pytest.raises(NotFound):
        await rooms.groups.create(ADMIN, asked(ADMIN), ProjectName("line-8"), "new", 10)
    with pytest.raises(NotFound):
        await rooms.accounts.create(
            ADMIN, asked(ADMIN), "eva", "", password=PASSWORD, group="projects/line-7/groups/ghosts"
        )
    with pytest.raises(InvalidArgument):
        await rooms.groups.set_threshold(ThresholdName("no.such"), 10)
    with pytest.raises(WeakPassword):
        await rooms.accounts.create(ADMIN, asked(ADMIN), "eva", "", password="short", group=str(ENGINEERS))
    with pytest.raises(NotFound):
        await rooms.accounts.get(AccountName("eva"))


async def test_a_request_id_has_one_effect(rooms: Rooms):
    """The same request gives the same answer; another body, or another password, is refused."""
    first = await rooms.groups.create(OLGA, asked(OLGA, "r1", b"x"), LINE, "interns", 5)
    assert await rooms.groups.create(OLGA, asked(OLGA, "r1", b"x"), LINE, "interns", 5) == first
    with pytest.raises(RequestIdReused):
        await rooms.groups.create(OLGA, asked(OLGA, "r1", b"y"), LINE, "others", 5)
    with pytest.raises(AlreadyExists):
        await rooms.groups.create(OLGA, asked(OLGA, "r2", b"x"), LINE, "interns", 5)
    made = await rooms.accounts.create(OLGA, asked(OLGA, "r3"), "ina", "Ina", password=PASSWORD, group=str(ENGINEERS))
    assert (
        await rooms.accounts.create(OLGA, asked(OLGA, "r3"), "ina", "Ina", password=PASSWORD, group=str(ENGINEERS))
        == made
    )
    with pytest.raises(RequestIdReused):
        await rooms.accounts.create(
            OLGA, asked(OLGA, "r3"), "ina", "Ina", password=PASSWORD + "!", group=str(ENGINEERS)
        )
    with pytest.raises(AlreadyExists):
        await rooms.accounts.create(OLGA, asked(OLGA, "r4"), "ina", "Ina", password=PASSWORD, group=str(ENGINEERS))


async def test_a_threshold_can_be_given_and_is_listed(rooms: Rooms):
    """Every action of the contract is listed with what it needs now."""
    await rooms.groups.set_threshold(ThresholdName("jobs.submit"), 33)
    thresholds = {name.action: value for name, value in rooms.groups.thresholds()}
    assert thresholds["jobs.submit"] == 33
    assert thresholds["datasets.read"] == 10
    assert list(thresholds) == sorted(thresholds)
