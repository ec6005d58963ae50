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
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import structlog
import uvloop
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bench.figures import percentile
from bench.servers import nats_server
from loupe import database
from loupe.bus import STREAM, ProgressBus, subject_of
from loupe.idempotency import Request, RequestLog
from loupe.names import AccountName, AlgorithmVersionName, DatasetVersionName, JobName, ModelName, TrainerName
from loupe.notifier import Notifier
from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobProgress
from loupe.tasks.objective import Objective
from loupe.trainer.v1 import attempt_pb2
from services.scheduler.clients.auth import StorageToken
from services.scheduler.clients.consul import Leadership
from services.scheduler.clients.trainers import AttemptEvent, AttemptKey, AttemptSpec, unpack_event
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.placement import Placement, Requirements
from services.scheduler.database.session import Database
from services.scheduler.dispatch.dependencies import Dependencies
from services.scheduler.dispatch.driver import Driver
from services.scheduler.jobs.job import Job, JobSpec
from services.scheduler.jobs.signals import Signals
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.transitions import Bounds, place, start
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.store import EventStore

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
        self.events: asyncio.Queue[attempt_pb2.AttemptEvent] = asyncio.Queue()

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, seconds: float) -> None:
        """Take every attempt."""

    async def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncGenerator[AttemptEvent, None]:
        """Yield what is put into the queue."""
        while True:
            yield unpack_event(await self.events.get())

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, seconds: float) -> bool:
        """Know every attempt."""
        return True

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, seconds: float) -> None:
        """Need no token."""

    async def cancel(self, trainer: TrainerName, key: AttemptKey, seconds: float) -> None:
        """Have nothing to stop."""


class OneToken:
    """Auth that gives everybody the same token, for a day."""

    async def issue(self, submitter: AccountName, job: JobName, attempt: int) -> StorageToken:
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


async def running_job(store: JobStore, name: JobName) -> Job:
    """Return a job in its first attempt."""
    spec = JobSpec(
        dataset_version=DatasetVersionName("bench", "d", "1"),
        dataset_digest="",
        algorithm_version=AlgorithmVersionName("finetune", "1"),
        algorithm_digest="",
        requirements=Requirements(),
        parameters={},
        objective=Objective("accuracy", 0.9),
        model=ModelName("bench", "d"),
        submitter=AccountName("bench"),
    )
    job = await store.submit(Job(name, secrets.token_hex(16), spec, now()), Request("", "", "", b""))
    job = await store.commit(place(job, Placement(TRAINER, (), "", 0.0), now()))
    return await store.commit(start(job, now()))


async def measure(url: str, folder: Path, subscribers: int, events: int, rate: float) -> dict[str, list[float]]:
    """Return the milliseconds of each event at each subscriber, of Loupe's and of the bare ones."""
    engine = database.create_engine(database.sqlite_url(folder, f"bench{subscribers}"))
    opened = Database(engine)
    await opened.migrate()
    signals, feed, news = Signals(), Feed(), Notifier()
    store, stored = JobStore(opened, RequestLog(), signals.committed), EventStore(opened)

    async def connect() -> ProgressBus:
        bus = ProgressBus(await nats.connect(url))
        await bus.ensure_stream()
        return bus

    bare = await nats.connect(url)
    await (await connect()).close()
    name = JobName("bench", f"job-{subscribers}")
    job = await running_job(store, name)
    dependencies = Dependencies(
        store=store,
        signals=signals,
        fleet=Fleet(time.monotonic, 60.0, news),
        leadership=Leadership(news),
        trainers=feed,
        storage=None,  # type: ignore[arg-type]  # the job never gets so far
        tokens=OneToken(),
        lease=60.0,
        bounds=Bounds(3, 5),
        monotonic=time.monotonic,
        now=now,
    )
    tasks = [
        asyncio.create_task(Outbox(stored, connect, signals.any).run()),
        asyncio.create_task(Driver(job, dependencies).run()),
    ]
    while await stored.unpublished(0, 1):  # what came before the subscribers is out of the way
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
            progress = attempt_pb2.AttemptProgress(phase="loupe", metrics=metrics)
            event = attempt_pb2.AttemptEvent(sequence=number + 1, progress=progress)
            await feed.events.put(event)
            await asyncio.sleep(1 / rate)
            plain = JobEvent(job=str(name), attempt=1, progress=JobProgress(phase="bare"))
            plain.progress.metrics["made"] = time.monotonic()
            await bare.jetstream().publish(subject_of(name), plain.SerializeToString(), stream=STREAM)
        taken: dict[str, list[float]] = json.loads(await process.stdout.readline())
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


def summary(taken: dict[str, list[float]], kind: str) -> dict[str, float]:
    """Return p50 and p99 of one kind, in milliseconds."""
    return {"p50": round(percentile(taken[kind], 0.5), 3), "p99": round(percentile(taken[kind], 0.99), 3)}


def run_once(subscribers: int, events: int, rate: float) -> dict[str, list[float]]:
    """Measure against a server of its own: one has room for 1,000 consumers, those that left included."""
    with tempfile.TemporaryDirectory() as name, nats_server(Path(name)) as url:
        return uvloop.run(measure(url, Path(name), subscribers, events, rate))


def main() -> None:
    """Print one JSON object; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20.0, help="events a second, of each kind")
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--follow", nargs=2, metavar=("URL", "SUBJECT"), help="be the subscribers")
    options = parser.parse_args()
    if options.follow:
        url, subject = options.follow
        uvloop.run(subscribe(url, subject, options.subscribers, options.events))
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the figures
    one = run_once(1, options.events, options.rate)
    # Many terminals get fewer events: a thousand copies of each keep a small machine busy enough.
    rate = min(options.rate, 2_000 / options.subscribers)
    many = run_once(options.subscribers, max(options.events // 10, BLOCK), rate)
    loupe, bare = summary(many, "loupe"), summary(many, "bare")
    figures: dict[str, Any] = {
        "one_subscriber_ms": summary(one, "loupe"),
        "one_subscriber_bare_ms": summary(one, "bare"),
        "subscribers": options.subscribers,
        "many_ms": loupe,
        "many_bare_ms": bare,
        "many_ratio": round(loupe["p50"] / bare["p50"], 3),
        "many_ratio_p99": round(loupe["p99"] / bare["p99"], 3),
        "target": {"one_p99_ms": TARGET_P99_MS, "many_ratio": TARGET_RATIO},
    }
    print(json.dumps(figures))
    raise SystemExit(figures["one_subscriber_ms"]["p99"] > TARGET_P99_MS or figures["many_ratio"] > TARGET_RATIO)


if __name__ == "__main__":
    main()
