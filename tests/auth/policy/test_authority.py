"""The policy in memory: never behind what was acknowledged, never wrong while it changes, nothing when in doubt."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from loupe.errors import DataLoss, Unavailable
from loupe.names import SYSTEM, AccountName, GroupName, ProjectName
from services.auth.policy.authority import CONFIRMED_SECONDS, Authority
from services.auth.policy.project_policy import domain, role, user
from services.auth.policy.store import ChangeTable, PolicyRule
from tests.auth.conftest import LINE, Rooms

ADMIN = AccountName("admin")
SYSTEM_PROJECT = ProjectName(SYSTEM)


async def allowed(authority: Authority, account: AccountName, action: str, project: ProjectName = LINE) -> bool:
    """Ask without a login."""
    return (await authority.decide(account, project, action, "")).allowed


async def test_a_decision_names_what_it_rests_on(rooms: Rooms):
    """Group, parameter, threshold; and who is in no group is no member."""
    olga = await rooms.authority.decide(AccountName("olga"), LINE, "jobs.submit", "")
    assert (olga.allowed, olga.group, olga.parameter, olga.threshold) == (
        True,
        "projects/line-7/groups/owners",
        40,
        30,
    )
    stranger = await rooms.authority.decide(AccountName("stranger"), LINE, "jobs.submit", "")
    assert (stranger.allowed, stranger.member, stranger.group, stranger.active) == (False, False, "", False)
    unknown = await rooms.authority.decide(AccountName("olga"), LINE, "no.such", "")
    assert (unknown.allowed, unknown.threshold) == (False, 0)


async def test_the_administrator_has_rights_in_the_system_and_over_groups_only(rooms: Rooms):
    """A system-wide parameter of 100 opens no project's data, but its groups."""
    assert await allowed(rooms.authority, ADMIN, "projects.create", SYSTEM_PROJECT)
    assert not await allowed(rooms.authority, ADMIN, "datasets.read")
    assert not await allowed(rooms.authority, ADMIN, "jobs.submit")
    for action in ("groups.read", "groups.write", "accounts.create"):
        assert await allowed(rooms.authority, ADMIN, action)
    staff = await rooms.person("sam", "projects/system/groups/staff")
    assert not await allowed(rooms.authority, staff, "groups.read")


async def test_a_change_holds_when_it_is_acknowledged(rooms: Rooms):
    """Adding, moving, the parameter, the threshold, disabling: the next decision knows."""
    vera = await rooms.person("vera", "projects/line-7/groups/viewers")
    authority = rooms.authority
    assert await allowed(authority, vera, "datasets.read")
    assert not await allowed(authority, vera, "datasets.write")
    await rooms.groups.add_member(ADMIN, GroupName("line-7", "operators"), vera)
    assert await allowed(authority, vera, "datasets.write")
    await rooms.groups.update(ADMIN, GroupName("line-7", "operators"), 15)
    assert not await allowed(authority, vera, "datasets.write")
    threshold = next(name for name, _ in rooms.groups.thresholds() if name.action == "datasets.write")
    await rooms.groups.set_threshold(threshold, 15)
    assert await allowed(authority, vera, "datasets.write")
    await rooms.accounts.set_disabled(ADMIN, vera, True)
    assert not await allowed(authority, vera, "datasets.write")
    await rooms.accounts.set_disabled(ADMIN, vera, False)
    assert await allowed(authority, vera, "datasets.write")
    await rooms.groups.remove_member(ADMIN, GroupName("line-7", "operators"), vera)
    assert not (await authority.decide(vera, LINE, "datasets.read", "")).member


async def test_another_process_on_the_database_follows(rooms: Rooms):
    """Its memory after a refresh is the same as after reading everything anew."""
    other = rooms.again()
    await other.refresh()
    vera = await rooms.person("vera", "projects/line-7/groups/engineers")
    assert not await allowed(other, vera, "jobs.submit")
    changed = other.changed()
    await other.refresh()
    assert changed.is_set()
    assert await allowed(other, vera, "jobs.submit")
    await rooms.groups.remove_member(ADMIN, GroupName("line-7", "engineers"), vera)
    await other.refresh()
    fresh = rooms.again()
    await fresh.refresh()
    assert not await allowed(other, vera, "jobs.submit")
    assert {one: dict(policy.members) for one, policy in other._policies.items()} == {
        one: dict(policy.members) for one, policy in fresh._policies.items()
    }
    assert other.revision == fresh.revision == rooms.authority.revision


async def test_what_cannot_be_confirmed_allows_nothing(rooms: Rooms):
    """Some seconds without the database, and every question is Unavailable; it heals by itself."""
    assert await allowed(rooms.authority, ADMIN, "projects.create", SYSTEM_PROJECT)
    rooms.clock.now += CONFIRMED_SECONDS + 0.1
    assert not rooms.authority.ready
    with pytest.raises(Unavailable):
        await rooms.authority.decide(ADMIN, SYSTEM_PROJECT, "projects.create", "")
    with pytest.raises(Unavailable):
        await anext(rooms.authority.revisions())
    with pytest.raises(Unavailable):
        rooms.authority.memberships(ADMIN)
    await rooms.authority.refresh()
    assert await allowed(rooms.authority, ADMIN, "projects.create", SYSTEM_PROJECT)


@pytest.mark.parametrize(
    "damage",
    [
        sa.delete(PolicyRule),
        sa.delete(PolicyRule).where(PolicyRule.ptype == "p"),
        sa.update(PolicyRule).where(PolicyRule.v0 == "role:line-7:viewers").values(v1="1000"),
        sa.update(PolicyRule).where(PolicyRule.v0 == "role:line-7:viewers").values(v1=""),
        sa.update(PolicyRule).where(PolicyRule.v0 == "user:olga", PolicyRule.v2 == "proj:line-7").values(v2=""),
        sa.update(PolicyRule).where(PolicyRule.v0 == "user:admin").values(v0=""),
    ],
    ids=["empty", "no levels", "level too high", "no level", "no project", "no user"],
)
async def test_an_empty_or_damaged_policy_allows_nothing(rooms: Rooms, damage: sa.Delete):
    """A process that starts on it is not ready; one that is running is not after it looked."""
    async with rooms.database.write() as session:
        await session.connection.execute(damage)
        await ChangeTable(session).note("everything", "", "")
    for authority in (rooms.authority, rooms.again()):
        with pytest.raises(DataLoss):
            await authority.refresh()
        assert not authority.ready
        for account in ("admin", "olga"):
            with pytest.raises(Unavailable):
                await authority.decide(AccountName(account), SYSTEM_PROJECT, "projects.create", "")


async def test_revisions_come_at_once_and_at_every_change(rooms: Rooms):
    """The watch that the other services' caches hang on."""
    revisions = rooms.authority.revisions()
    first = await anext(revisions)
    waiting = asyncio.ensure_future(anext(revisions))
    await rooms.person("vera", "projects/line-7/groups/viewers")
    assert await asyncio.wait_for(waiting, 0.9) > first
    assert await asyncio.wait_for(anext(revisions), 3) >= first + 1, "a sign of life without a change"


async def test_no_wrong_allow_during_a_thousand_edits(rooms: Rooms):
    """While ten members come and go 50 times, no check is wrong, none waits, and each acknowledged edit holds."""
    vera = await rooms.person("vera", "projects/line-7/groups/viewers")
    olga, stranger = AccountName("olga"), AccountName("stranger")
    comers = [await rooms.person(f"comer-{number}", "projects/system/groups/staff") for number in range(10)]
    users = [user(comer.account) for comer in comers]
    waits = []
    editing = True

    async def edit(group: str | None) -> None:
        async with rooms.database.write() as session:
            here = {"ptype": "g", "v2": domain(LINE.project)}
            gone = sa.delete(PolicyRule).filter_by(**here).where(PolicyRule.v0.in_(users))
            await session.connection.execute(gone)
            if group is not None:
                rows = [{**here, "v0": one, "v1": role(LINE.project, group)} for one in users]
                await session.connection.execute(sa.insert(PolicyRule), rows)
            for comer in comers:
                await ChangeTable(session).note("member", LINE.project, comer.account)
        await rooms.authority.refresh()
        for comer in comers:
            assert await allowed(rooms.authority, comer, "datasets.read") is (group is not None)
            assert await allowed(rooms.authority, comer, "datasets.write") is (group == "operators")

    async def edits() -> None:
        nonlocal editing
        for number in range(50):
            await edit("operators" if number % 2 else "viewers")
            await edit(None)
        editing = False

    async def check() -> None:
        while editing:
            began = time.perf_counter()
            assert await allowed(rooms.authority, olga, "groups.write")
            assert await allowed(rooms.authority, vera, "datasets.read")
            assert not await allowed(rooms.authority, vera, "datasets.write")
            assert not await allowed(rooms.authority, stranger, "datasets.read")
            assert not await allowed(rooms.authority, comers[0], "jobs.submit")
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)

    await asyncio.gather(edits(), check())
    assert sorted(waits)[int(len(waits) * 0.99)] < 0.1
