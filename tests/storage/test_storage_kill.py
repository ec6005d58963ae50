"""Killed at any step, with what was not synced lost: a row implies an intact file, and nothing acknowledged is gone."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.storage.app import Storage
from services.storage.store.projects import ProjectRow
from tests.storage.house import MadeUpAuth
from tests.storage.mortal import BLOB, PICTURES, PROJECT, NoDecoders, settings_of, store
from tests.storage.photographs import sha256

ROOT = Path(__file__).parents[2]
CONTENT = {sha256(data): data for data in [*PICTURES, BLOB]}
MOMENTS = {
    "write": (1, 4, 12),
    "sync": (1, 4, 9, 12),
    "rename": (1, 2, 3),
    "sync_folder": (1, 3, 5),
    "commit": (1, 3, 6, 9),
}


@pytest.fixture(scope="module")
def mortal() -> Iterator[subprocess.Popen[str]]:
    """The process that forks storage processes and lets them die."""
    command = [sys.executable, "-m", "tests.storage.mortal"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A storage's folder with an empty project."""
    storage = Storage(settings_of(tmp_path / "state"), MadeUpAuth(), decoders=NoDecoders())
    await storage.start()
    async with storage.database.write() as session:
        await session.projects.add(ProjectRow(PROJECT.project, "0" * 32, "", "accounts/anna", True, 0.0))
    await storage.stop()
    return tmp_path / "state"


def live_and_die(mortal: subprocess.Popen[str], moment: str, state: Path) -> int:
    assert mortal.stdin is not None
    assert mortal.stdout is not None
    mortal.stdin.write(f"{moment} {state}\n")
    mortal.stdin.flush()
    return int(mortal.stdout.readline())


def rows_of(state: Path) -> set[str]:
    with closing(sqlite3.connect(state / "storage.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in database.execute("SELECT digest FROM pictures UNION SELECT digest FROM blobs")}


@pytest.mark.parametrize(
    "moment",
    [f"{step} {when} {nth}" for step, moments in MOMENTS.items() for nth in moments for when in ("before", "after")],
)
async def test_a_row_implies_an_intact_file(
    mortal: subprocess.Popen[str], state: Path, tmp_path: Path, moment: str
) -> None:
    """After the death: rows are whole, acknowledged files are rows, nothing else lies about, and it goes on."""
    assert live_and_die(mortal, moment, state) == signal.SIGKILL
    acknowledged = set((state / "acknowledged").read_text().split())
    rows = rows_of(state)
    assert acknowledged <= rows
    storage = Storage(settings_of(state), MadeUpAuth(), decoders=NoDecoders())
    await storage.start()
    try:
        assert await read_all(storage, sorted(rows)) == {digest: CONTENT[digest] for digest in rows}
        finished = [path.name for path in (state / "files").rglob("*") if path.is_file()]
        assert len(finished) == len(set(finished))
        with (tmp_path / "again").open("wb") as again:
            await store(storage, again.fileno())
        assert await read_all(storage, sorted(CONTENT)) == CONTENT
    finally:
        await storage.stop()
    assert rows_of(state) == set(CONTENT)
    shutil.rmtree(state)


async def read_all(storage: Storage, digests: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for pieces in storage.downloads.read(PROJECT, digests, 0):
        for piece in pieces:
            found[piece.digest] = found.get(piece.digest, b"") + piece.data
    return found


async def test_without_a_death_everything_is_stored(mortal: subprocess.Popen[str], state: Path) -> None:
    """The process that dies in the other tests stores everything when it does not: the moments above are on its way."""
    assert live_and_die(mortal, "write before 1000000", state) == 0
    assert rows_of(state) == set(CONTENT) == set((state / "acknowledged").read_text().split())
