"""The store: the policy's rows, what they mean and the revision change together or not at all."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from loupe import database
from loupe.errors import Unavailable
from services.auth.database import tables
from services.auth.database.reads import Change, GroupRow
from services.auth.database.store import CHANGES_KEPT_SECONDS, Store
from services.auth.database.tables import PolicyRule
from tests.auth.conftest import Rooms


async def revision_of(store: Store) -> int:
    """revision_of reads the policy's revision."""
    async with store.read() as reads:
        return await reads.revision()


async def test_a_group_and_its_rule_are_one_transaction(rooms: Rooms):
    """Both are there after the commit, under one new revision; neither after a failure."""
    before = await revision_of(rooms.store)
    with pytest.raises(ZeroDivisionError):
        async with rooms.store.write() as tx:
            await tx.add_group(GroupRow("line-7", "interns", "uid-1", tx.now), 5)
            await tx.set_member("line-7", "olga", "interns")
            raise ZeroDivisionError
    async with rooms.store.read() as reads:
        assert await reads.group("line-7", "interns") is None
        assert await reads.level("line-7", "interns") is None
        assert await reads.group_of("line-7", "olga") == "owners"
        assert await reads.revision() == before
    async with rooms.store.write() as tx:
        await tx.add_group(GroupRow("line-7", "interns", "uid-1", tx.now), 5)
        await tx.set_member("line-7", "olga", "interns")
    async with rooms.store.read() as reads:
        assert await reads.level("line-7", "interns") == 5
        assert await reads.group_of("line-7", "olga") == "interns"
        assert await reads.revision() == before + 1
        assert await reads.changes(before) == [
            Change("group", "line-7", "interns"),
            Change("member", "line-7", "olga"),
        ]


async def test_the_database_itself_refuses_a_second_group_and_a_second_level(rooms: Rooms):
    """Not even a mistake of ours can put an account into two groups of a project."""
    for row in (
        {"ptype": "g", "v0": "user:olga", "v1": "role:line-7:viewers", "v2": "proj:line-7"},
        {"ptype": "p", "v0": "role:line-7:viewers", "v1": "90"},
    ):
        with pytest.raises(IntegrityError):
            async with rooms.store.write() as tx:
                await tx.connection.execute(sa.insert(PolicyRule).values(row))


async def test_what_changed_nothing_leaves_the_revision(rooms: Rooms):
    """A login is no change of the policy: caches elsewhere stay warm."""
    before = await revision_of(rooms.store)
    async with rooms.store.write() as tx:
        await tx.add_login("00000000-0000-0000-0000-000000000001", "olga", tx.now + 60)
    assert await revision_of(rooms.store) == before


async def test_forgotten_changes_are_said_to_be_forgotten(rooms: Rooms):
    """After pruning, a process that was away long learns that it must read everything."""
    start = await revision_of(rooms.store)
    await rooms.groups.set_threshold(rooms.groups.thresholds()[0][0], 11)
    rooms.clock.now += CHANGES_KEPT_SECONDS + 1
    async with rooms.store.write() as tx:
        await tx.prune()
    await rooms.groups.set_threshold(rooms.groups.thresholds()[0][0], 12)
    async with rooms.store.read() as reads:
        assert await reads.changes(start) is None
        assert await reads.changes(start + 1) == [Change("threshold", "", rooms.groups.thresholds()[0][0].action)]


async def test_prune_forgets_expired_logins_only(rooms: Rooms):
    """A live login keeps its tokens; one long expired goes with its tokens."""
    async with rooms.store.write() as tx:
        for login, expire in (("old", tx.now + 10), ("new", tx.now + 60 * 86_400)):
            await tx.add_login(login, "olga", expire)
            await tx.add_refresh_token(f"digest-{login}", login, expire)
    rooms.clock.now += 30 * 86_400
    async with rooms.store.write() as tx:
        await tx.prune()
        kept = (await tx.connection.execute(sa.select(tables.refresh_token.c.digest))).scalars().all()
    assert kept == ["digest-new"]


async def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path):
    """The driver's error does not get out."""
    engine = database.create_engine(database.sqlite_url(tmp_path / "absent", "auth"))
    with pytest.raises(Unavailable):
        async with Store(engine).read() as reads:
            await reads.revision()
    await engine.dispose()
