"""A full database: what is refused, in which words, what goes on, and that it recovers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from loupe import database
from loupe.errors import ResourceExhausted
from loupe.idempotency import Request, RequestLog
from services.scheduler.clients.trainers import AttemptEvent, Progress
from services.scheduler.database.session import Database
from services.scheduler.dispatch.attempt_events import absorb
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.transitions import Bounds, note, start
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, eventually
from tests.scheduler.samples import NOW, make_job, placed

NOBODY = Request("accounts/anna", "SubmitTrainingJob", "", b"")


class Pages:
    """Bounds the file of a SQLite database, as a full disk does."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.most = 1 << 30

        @sa.event.listens_for(engine.sync_engine, "begin")
        def _bound(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={self.most}")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = database.create_engine(database.sqlite_url(tmp_path, "scheduler"))
    await Database(made).migrate()
    yield made
    await made.dispose()


async def test_a_full_database_says_so_reads_on_and_recovers(engine: AsyncEngine) -> None:
    """RESOURCE_EXHAUSTED and nothing written; all reads answer; with room again the same change is taken."""
    pages, store = Pages(engine), JobStore(Database(engine), RequestLog())
    job = await store.submit(make_job(), NOBODY)
    running = await store.commit(start(await store.commit(placed(job)), NOW))
    pages.most = 1  # SQLite takes the number of pages that there are
    long = "x" * 1_500
    told = [AttemptEvent(number, NOW, Progress(message=long)) for number in range(1, 401)]
    change = absorb(running, told, NOW, Bounds(3, 5))
    with pytest.raises(ResourceExhausted, match="disk of the scheduler's database is full") as caught:
        await store.commit(change)
    assert caught.value.limit == "disk"
    assert await store.get(job.name) == running and [each.uid for each in await store.active()] == [job.uid]
    with pytest.raises(ResourceExhausted):
        for _ in range(1_000):
            await store.submit(make_job(), NOBODY)
    pages.most = 1 << 30
    assert (await store.commit(change)).trainer_sequence == 400
    assert (await store.commit(note(replace(running, trainer_sequence=400), "on", NOW))).state_message == "on"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more can be written."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for size in (65_536, 512):
        try:
            while True:
                os.write(descriptor, b"x" * size)
        except OSError:
            continue
    os.close(descriptor)
    return filler


async def test_a_scheduler_on_a_full_disk_goes_on_when_there_is_room(rig: Rig, small_disk: Path) -> None:
    """Submissions are refused in clear words, reads answer, and the job that runs meanwhile ends as it should."""
    trainer = await rig.add_trainer(FakeAttempt.started, slots=2)
    await rig.start_scheduler(database_url=database.sqlite_url(small_disk, "scheduler"), lease_seconds=2.0)
    running = await rig.submit()
    await rig.until(running.name, "RUNNING")
    filler = fill(small_disk)

    async def submit() -> Any:
        return await rig.submit(parameters={"epochs": 5})

    with pytest.raises(ResourceExhausted, match="full"):
        for _ in range(500):
            await submit()
    attempt = trainer.attempts[running.name, 1]
    for step in range(1, 200):
        attempt.progress(step)
    attempt.finish()
    renewals = attempt.renewals
    await eventually(lambda: attempt.renewals > renewals + 2)
    assert (await rig.get(running.name)).state == 3, "it cannot be written down that it has ended"
    filler.unlink()
    assert states(await rig.to_end(running.name))[-1] == "SUCCEEDED"
    assert (await submit()).state == 1
