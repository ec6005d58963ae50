"""Killed at any step of a collection: pictures stand in the old pack or in the new one, and the next pass goes on."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.storage.database.metadata import metadata
from services.storage.marks.store import MarkTable
from tests.mortals import forking
from tests.storage.mortal import BLOB, COLLECTION, PICTURES, PROJECT, TENSORS, store
from tests.storage.photographs import sha256
from tests.storage.test_kill import (
    check_the_counters,
    live_and_die,
    make_project,
    open_storage,
    read_all,
    rows_of,
    select,
)

CONTENT = {sha256(data): data for data in PICTURES}
KEPT = {sha256(data): data for data in PICTURES[::3]}
STAYS = KEPT | {sha256(data): data for data in (BLOB, *TENSORS[-1].values())}
STEPS = ("write", "sync", "rename", "sync_folder", "remove", "commit")
ALWAYS = ("remove", "after")
MOMENTS = [
    pytest.param(*moment, marks=() if moment == ALWAYS else pytest.mark.attack)
    for moment in itertools.product(STEPS, ("before", "after"))
]


@pytest.fixture(scope="module")
def mortal() -> Iterator[subprocess.Popen[str]]:
    """The process that forks storage processes and lets them die."""
    with forking("tests.storage.mortal") as process:
        yield process


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage's folder in which two thirds of the pictures are to go."""
    state = tmp_path_factory.mktemp("full") / "state"
    asyncio.run(fill(state))
    return state


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage's folder of which all is to go: the project and the algorithm in it can no longer be restored."""
    state = tmp_path_factory.mktemp("expired") / "state"
    asyncio.run(let_expire(state))
    return state


async def let_expire(state: Path) -> None:
    await make_project(state)
    async with open_storage(state) as storage:
        await store(storage, os.open(os.devnull, os.O_WRONLY))
        async with storage.database.write() as session:
            for table in ("projects", "algorithm_versions"):
                await session.connection.execute(sa.text(f"UPDATE {table} SET delete_time = 1, expire_time = 2"))


async def fill(state: Path) -> None:
    await make_project(state)
    async with open_storage(state) as storage:
        await store(storage, os.open(os.devnull, os.O_WRONLY))
        async with storage.database.write() as session:
            await MarkTable(session).mark(PROJECT.project, CONTENT.keys() - KEPT.keys(), 0.0)


@pytest.mark.parametrize(("step", "when"), MOMENTS)
async def test_a_death_leaves_the_old_or_the_new(
    mortal: subprocess.Popen[str], full: Path, tmp_path: Path, step: str, when: str
) -> None:
    """At each such step of a pass, one after the other, until there are no more."""
    await die_at_each(mortal, f"{COLLECTION} {step} {when}", full, tmp_path / "state", check)


@pytest.mark.parametrize(("step", "when"), [each for each in MOMENTS if each.values[0] in ("remove", "commit")])
async def test_a_death_leaves_a_project_to_the_next_pass(
    mortal: subprocess.Popen[str], expired: Path, tmp_path: Path, step: str, when: str
) -> None:
    """Whatever went already: nobody gets it back then, and the next pass takes all the rest."""
    await die_at_each(mortal, f"{COLLECTION} {step} {when}", expired, tmp_path / "state", check_project)


async def die_at_each(
    mortal: subprocess.Popen[str], fate: str, before: Path, state: Path, check: Callable[[Path], Awaitable[None]]
) -> None:
    """Let storages that are alike die at the first such step, at the second, and so on, and check what each leaves."""
    deaths = 0
    while True:
        shutil.copytree(before, state)
        ended = live_and_die(mortal, f"{fate} {deaths + 1}", state)
        await check(state)
        shutil.rmtree(state)
        if ended == 0:
            break
        assert ended == signal.SIGKILL
        deaths += 1
    assert deaths > 0


async def check_project(state: Path) -> None:
    """What is there is whole, and another pass leaves nothing but the project's id and the algorithm's digest."""
    async with open_storage(state) as storage:
        check_the_counters(state)
        check_every_file_has_a_row(state)
        await storage.collector.collect()
        for table in metadata.tables:
            left = select(state, f"SELECT COUNT(*) FROM {table}")
            assert left == ({1} if table in ("projects", "algorithm_versions") else {0}), table
        assert select(state, "SELECT purged FROM projects UNION SELECT purged FROM algorithm_versions") == {2}
        assert [path for path in (state / "files").rglob("*") if path.is_file()] == []
        check_the_counters(state)


async def check(state: Path) -> None:
    """What is known is whole, nothing else is there, and another pass does the rest."""
    async with open_storage(state) as storage:
        check_the_counters(state)
        known = rows_of(state)
        assert KEPT.keys() <= known
        pictures = {digest: CONTENT[digest] for digest in known if digest in CONTENT}
        assert await read_all(storage, sorted(pictures)) == pictures
        check_every_file_has_a_row(state)
        await storage.collector.collect()
        assert rows_of(state) == set(STAYS)
        assert await read_all(storage, sorted(STAYS)) == STAYS
        check_the_counters(state)
        check_every_file_has_a_row(state)
        assert select(state, "SELECT pack FROM packs WHERE dead * 2 > length") == set()


def check_every_file_has_a_row(state: Path) -> None:
    named = {
        "open": select(state, "SELECT pack FROM packs WHERE NOT sealed"),
        "files/packs/line-7": select(state, "SELECT pack FROM packs WHERE sealed AND length > 0"),
        "files/blobs/line-7": select(state, "SELECT digest FROM blobs"),
    }
    for folder, names in named.items():
        assert {path.name for path in (state / folder).glob("*")} == names
