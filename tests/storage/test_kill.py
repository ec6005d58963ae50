"""Killed at any step, with what was not synced lost: a row implies an intact file, and nothing acknowledged is gone."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from loupe.names import AlgorithmVersionName
from services.storage.app import Storage
from services.storage.projects.store import ProjectRow, ProjectTable
from tests.mortals import forking
from tests.storage.house import MadeUpAuth
from tests.storage.mortal import (
    BLOB,
    CHECKPOINTS,
    GRANT,
    IMAGE,
    PICTURES,
    PROJECT,
    TENSORS,
    NoDecoders,
    settings_of,
    store,
)
from tests.storage.photographs import sha256

FILES = {sha256(data): data for data in [*PICTURES, BLOB]}
FIRST, SECOND = [{sha256(data): data for data in files.values()} for files in TENSORS]
CONTENT = FILES | FIRST | SECOND
VERSION = AlgorithmVersionName("mine", "1")
ACKNOWLEDGED = {*FILES, str(VERSION), "checkpoint", "replacement"}
MOMENTS = {
    "files write": (1, 4, 9),
    "files sync": (1, 4, 6, 10),
    "files rename": (1, 2, 3),
    "files sync_folder": (1, 3, 5),
    "files commit": (1, 3, 6, 10),
    "algorithm rename": (1,),
    "algorithm commit": (1,),
    "checkpoint commit": (2, 3),
    "replacement rename": (1,),
    "replacement commit": (2,),
}


@pytest.fixture(scope="module")
def mortal() -> Iterator[subprocess.Popen[str]]:
    """The process that forks storage processes and lets them die."""
    with forking("tests.storage.mortal") as process:
        yield process


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage's folder with an empty project, to be copied."""
    state = tmp_path_factory.mktemp("empty") / "state"
    asyncio.run(make_project(state))
    return state


async def make_project(state: Path) -> None:
    async with open_storage(state) as storage, storage.database.write() as session:
        await ProjectTable(session).add(ProjectRow(PROJECT.project, "0" * 32, "", "accounts/anna", True, 0.0))


@pytest.fixture
def state(empty: Path, tmp_path: Path) -> Path:
    """A storage's folder with an empty project."""
    return shutil.copytree(empty, tmp_path / "state")


@asynccontextmanager
async def open_storage(state: Path) -> AsyncIterator[Storage]:
    """A storage in this process."""
    storage = Storage(settings_of(state), MadeUpAuth(), decoders=NoDecoders())
    await storage.start()
    try:
        yield storage
    finally:
        await storage.stop()


def live_and_die(mortal: subprocess.Popen[str], moment: str, state: Path) -> int:
    assert mortal.stdin is not None
    assert mortal.stdout is not None
    mortal.stdin.write(f"{moment} {state}\n")
    mortal.stdin.flush()
    return int(mortal.stdout.readline())


def select(state: Path, query: str) -> set[str]:
    with closing(sqlite3.connect(state / "storage.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in database.execute(query)}


def rows_of(state: Path) -> set[str]:
    return select(state, "SELECT digest FROM pictures UNION SELECT digest FROM blobs")


@pytest.mark.parametrize(
    "moment",
    [f"{step} {when} {nth}" for step, moments in MOMENTS.items() for nth in moments for when in ("before", "after")],
)
async def test_a_row_implies_an_intact_file(
    mortal: subprocess.Popen[str], state: Path, tmp_path: Path, moment: str
) -> None:
    """After the death: what is known is whole, what was acknowledged is known, nothing else is there; it goes on."""
    assert live_and_die(mortal, moment, state) == signal.SIGKILL
    acknowledged = set((state / "acknowledged").read_text().split())
    async with open_storage(state) as storage:
        rows = rows_of(state)
        assert acknowledged & set(FILES) <= rows
        check_the_counters(state)
        assert await read_all(storage, sorted(rows)) == {digest: CONTENT[digest] for digest in rows}
        if select(state, "SELECT digest FROM algorithm_versions") or str(VERSION) in acknowledged:
            assert await read_image(storage) == IMAGE
        await check_checkpoint(storage, acknowledged, rows)
        check_nothing_else_is_there(state)
        with (tmp_path / "again").open("wb") as again:
            await store(storage, again.fileno())
        await check_all_is_there(storage, state)
    shutil.rmtree(state)


def check_the_counters(state: Path) -> None:
    """What a project holds was counted with the rows."""
    rows = "(SELECT {} FROM {} WHERE {}.project = projects.project)"
    wrong = [
        f"{counter} <> {rows.format(what, table, table)}"
        for table, counters in (("pictures", ("pictures", "picture_bytes")), ("blobs", ("blobs", "blob_bytes")))
        for counter, what in zip(counters, ("COUNT(*)", "COALESCE(SUM(size), 0)"), strict=True)
    ]
    assert select(state, f"SELECT project FROM projects WHERE {' OR '.join(wrong)}") == set()


async def check_checkpoint(storage: Storage, acknowledged: set[str], rows: set[str]) -> None:
    """The job's checkpoint is the first or the second, never older than was acknowledged, and its files are there."""
    saved = await storage.checkpoints.get(GRANT.job, GRANT)
    expected = CHECKPOINTS[1:] if "replacement" in acknowledged else CHECKPOINTS
    assert saved in expected or (saved is None and "checkpoint" not in acknowledged)
    if saved is not None:
        assert {each.digest for each in saved.files} <= rows
    if saved == CHECKPOINTS[1]:
        assert not (set(FIRST) - set(SECOND)) & rows


def check_nothing_else_is_there(state: Path) -> None:
    """Every file is one that a row names, or the beginning of an upload that can be gone on with."""
    named = {
        "open": select(state, "SELECT pack FROM packs WHERE NOT sealed"),
        "files/packs/line-7": select(state, "SELECT pack FROM packs WHERE sealed"),
        "files/blobs/line-7": select(state, "SELECT digest FROM blobs"),
        "files/algorithms": select(state, "SELECT digest FROM algorithm_versions"),
    }
    rows = rows_of(state)
    there = {
        path.relative_to(state).as_posix()
        for part in ("open", "files", "staging")
        for path in (state / part).rglob("*")
        if path.is_file()
    }
    started = {f"staging/blobs/line-7/{digest}" for digest in CONTENT if digest not in rows}
    assert there - started == {f"{folder}/{name}" for folder, names in named.items() for name in names}


async def check_all_is_there(storage: Storage, state: Path) -> None:
    """A whole life's files, its image and its second checkpoint are there, and nothing of the first one's own."""
    whole = FILES | SECOND
    assert rows_of(state) == set(whole)
    assert await read_all(storage, sorted(whole)) == whole
    assert await read_image(storage) == IMAGE
    await check_checkpoint(storage, ACKNOWLEDGED, set(whole))
    check_nothing_else_is_there(state)


async def read_all(storage: Storage, digests: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for pieces in storage.downloads.read(PROJECT, digests, 0):
        for piece in pieces:
            found[piece.digest] = found.get(piece.digest, b"") + piece.data
    return found


async def read_image(storage: Storage) -> bytes:
    return b"".join([data async for data in storage.algorithms.download(VERSION)])


async def test_without_a_death_everything_is_stored(mortal: subprocess.Popen[str], state: Path) -> None:
    """The process that dies in the other tests stores everything when it does not: the moments above are on its way."""
    assert live_and_die(mortal, "files write before 1000000", state) == 0
    assert set((state / "acknowledged").read_text().split()) == ACKNOWLEDGED
    async with open_storage(state) as storage:
        await check_all_is_there(storage, state)
