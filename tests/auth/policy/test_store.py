"""The policy in the database: the policy's rows, what they mean and the revision change together or not at all."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from services.auth.accounts.store import AccountTable
from services.auth.groups.store import GroupRow, GroupTable
from services.auth.policy.store import CHANGES_KEPT_SECONDS, ChangeTable, PolicyChange, PolicyRule, RuleTable
from tests.auth.conftest import Rooms


async def revision_of(rooms: Rooms) -> int:
    """Read the policy's revision."""
    async with rooms.database.read() as session:
        return session.revision


async def test_a_group_and_its_rule_are_one_transaction(rooms: Rooms):
    """Both are there after the commit, under one new revision; neither after a failure."""
    before = await revision_of(rooms)
    with pytest.raises(ZeroDivisionError):
        async with rooms.database.write() as session:
            await GroupTable(session).add(GroupRow("line-7", "interns", "uid-1", session.now), 5)
            await RuleTable(session).set_member("line-7", "olga", "interns")
            raise ZeroDivisionError
    async with rooms.database.read() as session:
        assert await GroupTable(session).find("line-7", "interns") is None
        assert await RuleTable(session).level("line-7", "interns") is None
        assert await RuleTable(session).group_of("line-7", "olga") == "owners"
        assert session.revision == before
    async with rooms.database.write() as session:
        await GroupTable(session).add(GroupRow("line-7", "interns", "uid-1", session.now), 5)
        await RuleTable(session).set_member("line-7", "olga", "interns")
    async with rooms.database.read() as session:
        assert await RuleTable(session).level("line-7", "interns") == 5
        assert await RuleTable(session).group_of("line-7", "olga") == "interns"
        assert session.revision == before + 1
        assert await ChangeTable(session).after(before) == [
            PolicyChange("group", "line-7", "interns"),
            PolicyChange("member", "line-7", "olga"),
        ]


async def test_the_database_itself_refuses_a_second_group_and_a_second_level(rooms: Rooms):
    """Not even a mistake of ours can put an account into two groups of a project."""
    for row in (
        {"ptype": "g", "v0": "user:olga", "v1": "role:line-7:viewers", "v2": "proj:line-7"},
        {"ptype": "p", "v0": "role:line-7:viewers", "v1": "90"},
    ):
        with pytest.raises(IntegrityError):
            async with rooms.database.write() as session:
                await session.connection.execute(sa.insert(PolicyRule).values(row))


async def test_what_changed_nothing_leaves_the_revision(rooms: Rooms):
    """A login is no change of the policy: caches elsewhere stay warm."""
    before = await revision_of(rooms)
    async with rooms.database.write() as session:
        await AccountTable(session).add_login("00000000-0000-0000-0000-000000000001", "olga", session.now + 60)
    assert await revision_of(rooms) == before


async def test_forgotten_changes_are_said_to_be_forgotten(rooms: Rooms):
    """After pruning, a process that was away long learns that it must read everything."""
    start = await revision_of(rooms)
    await rooms.groups.set_threshold(rooms.groups.thresholds()[0][0], 11)
    rooms.clock.now += CHANGES_KEPT_SECONDS + 1
    async with rooms.database.write() as session:
        await ChangeTable(session).prune()
    await rooms.groups.set_threshold(rooms.groups.thresholds()[0][0], 12)
    async with rooms.database.read() as session:
        assert await ChangeTable(session).after(start) is None
        assert await ChangeTable(session).after(start + 1) == [
            PolicyChange("threshold", "", rooms.groups.thresholds()[0][0].action)
        ]
