"""The collector: of what expired the name stays and nothing else, wherever a pass dies."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from loupe import database
from loupe.errors import NotFound
from loupe.idempotency import Request
from loupe.names import AccountName
from services.auth.accounts.store import account, login
from services.auth.collection.collector import Collector
from services.auth.database.metadata import metadata
from services.auth.database.session import Database
from services.auth.policy.store import deleted_membership
from services.auth.sessions.store import refresh_token
from tests.auth.conftest import KEPT_SECONDS, PASSWORD, Clock, Rooms
from tests.mortals import forking

ADMIN, OLGA = AccountName("admin"), AccountName("olga")


async def delete(rooms: Rooms, *gone: AccountName) -> None:
    for one in gone:
        await rooms.deletion.delete(ADMIN, one, Request(str(ADMIN), "DeleteAccount", "", b""))


async def people(rooms: Rooms, *names: str) -> list[AccountName]:
    """Make engineers who have logged in."""
    made = [await rooms.person(name, "projects/line-7/groups/engineers") for name in names]
    for one in made:
        await rooms.sessions.login(one, PASSWORD, f"desk of {one.account}")
    return made


async def rows(rooms: Rooms, table: sa.Table) -> list[dict[str, object]]:
    async with rooms.engine.connect() as connection:
        return [dict(row._mapping) for row in await connection.execute(sa.select(table))]


async def test_of_an_account_that_expired_only_the_name_is_left(rooms: Rooms) -> None:
    """Password, display name, logins with their addresses, memberships go; other accounts keep theirs."""
    eva, _ = await people(rooms, "eva", "finn")
    before = {row["id"]: row for row in await rows(rooms, account)}
    await delete(rooms, eva)
    deleted = rooms.clock.now
    rooms.clock.now += KEPT_SECONDS
    assert await rooms.collector.collect() == 0, "it can be restored to its last second"
    rooms.clock.now += 1
    assert await rooms.collector.collect() == 1
    assert await rooms.collector.collect() == 0
    after = {row["id"]: row for row in await rows(rooms, account)}
    nothing = {"display_name": "", "password_hash": "", "purged": True}
    times = {"delete_time": deleted, "expire_time": deleted + KEPT_SECONDS}
    assert after == before | {"eva": before["eva"] | nothing | times}
    assert [row["account"] for row in await rows(rooms, login)] == ["finn"]
    assert len(await rows(rooms, refresh_token)) == 1
    assert await rows(rooms, deleted_membership) == []


async def test_nothing_personal_is_in_any_table_afterwards(rooms: Rooms) -> None:
    """Also not in an answer that was remembered for a repeated request."""
    once = Request(str(ADMIN), "CreateAccount", "r-1", b"")
    group = "projects/line-7/groups/engineers"
    await rooms.accounts.create(ADMIN, once, "eva", "Eva Example", password=PASSWORD, group=group)
    await rooms.sessions.login(AccountName("eva"), PASSWORD, "desk of eva")
    await rooms.deletion.delete(ADMIN, AccountName("eva"), Request(str(ADMIN), "DeleteAccount", "r-2", b""))
    rooms.clock.now += KEPT_SECONDS + 1
    assert await rooms.collector.collect() == 1
    for table in metadata.sorted_tables:
        assert not {word for word in ("Eva Example", "desk of eva") if word in str(await rows(rooms, table))}, (
            table.name
        )


async def test_what_was_restored_in_time_stays(rooms: Rooms) -> None:
    """And once it is purged nobody restores it."""
    eva, finn = await people(rooms, "eva", "finn")
    await delete(rooms, eva, finn)
    rooms.clock.now += KEPT_SECONDS + 1
    await rooms.deletion.restore(ADMIN, eva, Request(str(ADMIN), "UndeleteAccount", "", b""))
    assert await rooms.collector.collect() == 1
    await rooms.sessions.login(eva, PASSWORD, "here")
    with pytest.raises(NotFound):
        await rooms.deletion.restore(ADMIN, finn, Request(str(ADMIN), "UndeleteAccount", "", b""))


async def test_passes_side_by_side_do_no_harm(rooms: Rooms) -> None:
    """Those of two processes on a database together purge each account once."""
    await delete(rooms, *await people(rooms, *(f"eva-{number}" for number in range(5))))
    rooms.clock.now += KEPT_SECONDS + 1
    assert sum(await asyncio.gather(*(rooms.collector.collect() for _ in range(2)))) == 5


async def test_a_failed_pass_is_made_again_and_one_after_the_clock_was_set_is_left_out(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What expires by a jump of the clock is not purged by it."""
    began, passes = rooms.clock.now, []

    async def collect() -> int:
        passes.append((rooms.clock.now, len(logs)))
        if len(passes) == 1:
            raise OSError
        return 0

    monkeypatch.setattr(rooms.collector, "collect", collect)
    with capture_logs() as logs:
        keeping = asyncio.ensure_future(rooms.collector.keep(0.001))
        async with asyncio.timeout(5):
            while len(passes) < 2:
                await asyncio.sleep(0.001)
            rooms.clock.now += KEPT_SECONDS
            while passes[-1][0] == began:
                await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert [one["event"].partition(";")[0] for one in logs] == ["collecting failed", "the clock was set"]
    assert {warned for now, warned in passes if now > began} == {2}


@pytest.fixture(scope="module")
def mortal() -> Iterator[subprocess.Popen[str]]:
    """The process that forks collectors and lets them die."""
    with forking("tests.auth.collection.mortal") as process:
        yield process


def live_and_die(mortal: subprocess.Popen[str], *fate: object) -> int:
    assert mortal.stdin is not None
    assert mortal.stdout is not None
    print(*fate, file=mortal.stdin, flush=True)
    return int(mortal.stdout.readline())


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_death_leaves_each_account_whole_or_purged(
    rooms: Rooms, mortal: subprocess.Popen[str], tmp_path: Path, when: str
) -> None:
    """At each commit of a pass, one after the other, until there are no more; what is left the next pass does."""
    if rooms.engine.dialect.name != "sqlite":
        pytest.skip("the databases that the passes die on are copied as files")
    await delete(rooms, *await people(rooms, "eva", "finn"))
    rooms.clock.now += KEPT_SECONDS + 1
    kept = {row["id"]: row for row in await rows(rooms, account)}
    await rooms.engine.dispose()
    deaths = 0
    while True:
        folder = copied(tmp_path, f"{when}-{deaths + 1}")
        ended = live_and_die(mortal, when, deaths + 1, rooms.clock.now, database.sqlite_url(folder, "auth"))
        purged = await state_of(folder, kept, rooms.clock.now)
        if ended == 0:
            break
        assert (ended, purged) == (signal.SIGKILL, min(deaths + (when == "after"), 2))
        deaths += 1
    assert deaths >= 2
    assert purged == 2


def copied(database_folder: Path, name: str) -> Path:
    folder = database_folder / name
    folder.mkdir()
    for file in database_folder.glob("auth.db*"):
        shutil.copy(file, folder)
    return folder


async def state_of(folder: Path, kept: dict[object, dict[str, object]], now: float) -> int:
    """Return how many accounts are purged, each with all that it had, and let another pass do the rest."""
    engine = database.create_engine(database.sqlite_url(folder, "auth"))
    clock = Clock(now)
    async with engine.connect() as connection:
        found = (await connection.execute(sa.select(account))).all()
        logins = set((await connection.execute(sa.select(login.c.account))).scalars())
        away = set((await connection.execute(sa.select(deleted_membership.c.account))).scalars())
        tokens = len((await connection.execute(sa.select(refresh_token))).all())
    purged = {row.id for row in found if row.purged}
    left = {"eva", "finn"} - purged
    assert logins == away == left
    assert tokens == len(left)
    for row in found:
        assert row.id in purged or row._asdict() == kept[row.id]
        assert row.id not in purged or (row.password_hash, row.display_name) == ("", "")
    assert await Collector(Database(engine, clock), clock).collect() == len(left)
    await engine.dispose()
    return len(purged)
