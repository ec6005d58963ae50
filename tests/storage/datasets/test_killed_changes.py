"""Killed at each step of a change, a data set is the old one or the new one, and the same request finishes it."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loupe.storage.v1.dataset_pb2 import DatasetVersion
from loupe.storage.v1.dataset_service_pb2 import CreateDatasetVersionResponse
from services.storage.app import Storage
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.digest import version_digest
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import UploadedPicture
from services.storage.pictures.uploads import PictureClosing
from services.storage.projects.store import ProjectRow, ProjectTable
from services.storage.streams import Held
from tests.mortals import forking
from tests.storage.datasets.mortal_change import ANNA, CHANGES, DIGESTS, FIRST, LETTERS, PICTURES, make
from tests.storage.house import SHARED_DECODERS, MadeUpAuth
from tests.storage.mortal import PROJECT, settings_of

State = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def mortal() -> Iterator[subprocess.Popen[str]]:
    """The process that forks storage processes and lets them die."""
    with forking("tests.storage.datasets.mortal_change") as process:
        yield process


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage's folder in which a data set has one version, to be copied."""
    state = tmp_path_factory.mktemp("first") / "state"
    asyncio.run(make_first(state))
    return state


async def make_first(state: Path) -> None:
    storage = Storage(settings_of(state), MadeUpAuth(), decoders=SHARED_DECODERS)
    await storage.start()
    try:
        async with storage.database.write() as session:
            await ProjectTable(session).add(ProjectRow(PROJECT.project, "0" * 32, "", str(ANNA), True, 0.0))
        async for _ in storage.picture_uploads.receive(PROJECT, pictures()):
            pass
        await Datasets(storage.database, lambda: 0.0).create(PROJECT, LETTERS.dataset, "", ANNA, "")
        # Also the pictures that only changes bring are decoded now: the processes that die decode nothing.
        await storage._indexer.ensure(PROJECT.project, DIGESTS)
        await make(storage, storage._versions, FIRST)
    finally:
        await storage.stop()


async def pictures() -> AsyncIterator[Held[Sequence[UploadedPicture] | PictureClosing]]:
    yield Held([UploadedPicture(digest, data) for digest, data in zip(DIGESTS, PICTURES, strict=True)])
    yield Held(PictureClosing(len(PICTURES), sum(map(len, PICTURES))))


def live(mortal: subprocess.Popen[str], change: str, nth: int, state: Path) -> int:
    """live makes a change in a process of its own, and returns the signal that killed it before the nth step, or 0."""
    assert mortal.stdin is not None
    assert mortal.stdout is not None
    mortal.stdin.write(f"{change} {nth} {state}\n")
    mortal.stdin.flush()
    return int(mortal.stdout.readline())


def read(state: Path) -> State:
    """read returns all rows of all tables, in which uids and times, which are others each time, are told by numbers."""
    with closing(sqlite3.connect(state / "storage.db")) as database:
        database.row_factory = sqlite3.Row
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        check_versions(database)
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: rows_of(database, table) for table in tables}


def rows_of(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    made_up = dict(database.execute("SELECT uid, number FROM dataset_versions").fetchall())
    made_up |= dict(database.execute("SELECT id, text FROM annotation_texts").fetchall())
    found = [
        tuple(timeless(column, made_up.get(row[column], row[column])) for column in row.keys())  # noqa: SIM118
        for row in database.execute(f"SELECT * FROM {table}")
    ]
    return sorted(found, key=repr)


def timeless(column: str, value: Any) -> Any:
    if column in ("time", "created", "create_time"):
        return 0
    if column == "document":
        return stripped(DatasetVersion.FromString(value))
    if column == "answer":
        answer = CreateDatasetVersionResponse.FromString(value)
        return stripped(answer.dataset_version), list(answer.warnings)
    return value


def stripped(version: DatasetVersion) -> str:
    version.ClearField("uid")
    version.ClearField("create_time")
    return str(version)


def check_versions(database: sqlite3.Connection) -> None:
    """Each version has the items, counts and hashes that it says, the newest is the latest, and none has others."""
    versions = database.execute("SELECT * FROM dataset_versions ORDER BY number").fetchall()
    assert [row["number"] for row in versions] == list(range(1, len(versions) + 1))
    assert database.execute("SELECT latest FROM datasets").fetchone()[0] == len(versions)
    columns = "digest, label, split, filename, size, coalesce(text, '')"
    for row in versions:
        version = DatasetVersion.FromString(row["document"])
        query = (
            f"SELECT {columns} FROM dataset_items LEFT JOIN annotation_texts ON id = annotation "
            "WHERE version = ? ORDER BY position"
        )
        items = [ItemRow(*each) for each in database.execute(query, (row["uid"],))]
        assert version_digest(items) == row["digest"] == version.digest
        assert len(items) == version.picture_count
        assert sum(each.size for each in items) == version.byte_count
        splits = [sum(each.split == split for each in items if each.label) for split in (1, 2, 3)]
        said = [(each.train_count, each.validation_count, each.test_count) for each in version.labels]
        assert splits == [sum(each[place] for each in said) for place in range(3)]
        hashes = database.execute("SELECT hashes FROM dataset_version_hashes WHERE version = ?", (row["uid"],))
        assert len(hashes.fetchone()[0]) == 8 * len(items)
    known = {row["uid"] for row in versions}
    assert {row[0] for row in database.execute("SELECT DISTINCT version FROM dataset_items")} == known


@pytest.mark.parametrize(
    "change", [each if each == "annotate" else pytest.param(each, marks=pytest.mark.attack) for each in CHANGES]
)
def test_a_change_is_whole_or_is_not(mortal: subprocess.Popen[str], first: Path, tmp_path: Path, change: str) -> None:
    """All tables are as before or as after a change that nothing kills; the same request then makes it, once."""
    before = read(first)
    whole = shutil.copytree(first, tmp_path / "whole")
    assert live(mortal, change, 0, whole) == 0
    after = read(whole)
    assert len(after["dataset_versions"]) == 2
    assert len(after["audit_log"]) == len(before["audit_log"]) + 1
    assert after["projects"] == before["projects"]
    found = []
    for nth in itertools.count(1):
        state = shutil.copytree(first, tmp_path / str(nth))
        died = live(mortal, change, nth, state)
        if not died:
            assert read(state) == after
            break
        assert died == signal.SIGKILL
        there = read(state)
        assert there in (before, after)
        found.append(there == after)
        assert live(mortal, change, 0, state) == 0
        assert read(state) == after
        shutil.rmtree(state)
    # Many steps before the commit leave the old one; the death after it, before the answer, leaves the new one.
    assert found == sorted(found)
    assert found.count(False) > 8 and found[-1]
