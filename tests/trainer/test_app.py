"""The whole trainer behind its door: real TLS, the scheduler's calls, storage over gRPC, real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loupe.discovery import Instance
from loupe.errors import AttemptUnknown, PermissionDenied, Unauthenticated, Unavailable
from loupe.load import TrainerLoad
from loupe.names import TrainerName
from loupe.rpc.channel import internal_channel
from loupe.trainer.v1 import attempt_pb2, attempt_service_pb2, attempt_service_pb2_grpc
from services.trainer.app import TrainerApp
from services.trainer.settings import TrainerSettings
from tests.ports import free_port
from tests.trainer.fakes import BARE_RUNNER, JOB, alive, eventually
from tests.trainer.storage_door import TOKEN, Storage, attempt_spec, message

WAITS = """
import json, time
from loupe.algorithm.host import Outcome, Progress, Result

def train(host):
    host.report(Progress("waiting"))
    while not host.stop_requested():
        time.sleep(0.01)
    (host.work / "c").mkdir()
    (host.work / "c" / "state.json").write_text(json.dumps({"round": 1}))
    host.save_checkpoint(host.work / "c")
    host.finish(Result(Outcome.STOPPED, {}, {}))
"""


class NoConsul:
    """Stands where Discovery does: it knows where storage is, and keeps what is registered."""

    last: NoConsul
    storage = ""

    def __init__(self, settings) -> None:
        NoConsul.last = self
        self.registered: tuple[str, ...] = ()
        self.held: Any = None

    async def register(self, *arguments: str) -> None:
        self.registered = arguments

    async def hold(self, key, value, interval: float = 1.0) -> None:
        self.held = (key, value)

    async def instances(self, name: str) -> list[Instance]:
        return [Instance("storage", "", self.storage)]

    async def close(self) -> None:
        self.registered = ()


@pytest.fixture(params=["none", "bubblewrap"])
async def trainer(request, service_settings, storage: Storage) -> AsyncIterator[TrainerApp]:
    if request.param == "bubblewrap":
        request.getfixturevalue("bubblewrap")
    NoConsul.storage = storage.address
    settings = service_settings(
        "trainer-north-a",
        TrainerSettings,
        cluster="north",
        trainer="a",
        sandbox=request.param,
        warm=0,
        warm_modules="",
        idle_modules="",
        runner="bare_runner:run_image",
    )
    nowhere: Any = NoConsul(settings)
    trainer = await TrainerApp.create(settings, nowhere)
    (settings.state / "code" / "bare_runner.py").write_text(BARE_RUNNER)
    await trainer.start()
    yield trainer
    await trainer.stop()


@pytest.fixture
async def stub_of(trainer: TrainerApp, service_settings):
    """A function that gives the trainer's door as a process with that certificate sees it."""
    channels: list[grpc.aio.Channel] = []

    def stub(name: str) -> attempt_service_pb2_grpc.AttemptServiceStub:
        address = f"127.0.0.1:{trainer.settings.internal_port}"
        channels.append(internal_channel(service_settings(name), address, service=trainer.settings.name))
        return attempt_service_pb2_grpc.AttemptServiceStub(channels[-1])

    yield stub
    for channel in channels:
        await channel.close()


async def test_an_attempt_from_the_schedulers_call_to_its_result(storage: Storage, stub_of, tmp_path) -> None:
    """Start, watch, renew; checkpoint and artifacts lie in storage; the load is the one that readers take."""
    scheduler = stub_of("scheduler")
    spec = attempt_spec(storage, tmp_path)
    start = attempt_service_pb2.StartAttemptRequest(spec=message(spec), lease=Duration(seconds=30))
    assert (await scheduler.StartAttempt(start)).state == attempt_pb2.ATTEMPT_STATE_PREPARING
    key = message(spec).key
    watch = attempt_service_pb2.WatchAttemptRequest(key=key)
    events = [response.event async for response in scheduler.WatchAttempt(watch)]
    assert [event.WhichOneof("event") for event in events] == ["started", "checkpointed", "progress", "finished"]
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    finished = events[-1].finished
    report = json.loads(finished.report_json)
    assert report.pop("checked") == {"labels": ["dark", "light"], "right": [1, 0], "pictures": [1, 1]}
    assert report == {"pictures": 6, "truth": [0, 1, 0, 1, 0, 1], "rounds": 5}
    assert finished.outcome == "target_reached" and finished.code_version
    (artifact,) = finished.artifacts
    assert (artifact.filename, storage.uploads[artifact.digest]) == ("model.onnx", b"x" * 3_000_000)
    assert storage.memory.checkpoints[JOB].attempt == 1
    renew = attempt_service_pb2.RenewLeasesRequest(keys=[key, {"job": JOB, "attempt": 9}], lease=Duration(seconds=30))
    assert list((await scheduler.RenewLeases(renew)).states) == [
        attempt_pb2.ATTEMPT_STATE_FINISHED,
        attempt_pb2.ATTEMPT_STATE_UNSPECIFIED,
    ]
    after = attempt_service_pb2.WatchAttemptRequest(key=key, after_sequence=3)
    assert [response.event.sequence async for response in scheduler.WatchAttempt(after)] == [4]
    held_key, value = NoConsul.last.held
    load = TrainerLoad.from_json(held_key, value())
    assert (load.name, load.slots, load.busy_slots) == ("clusters/north/trainers/a", 1, 0)
    assert NoConsul.last.registered[:2] == ("loupe-trainer-north-a", "trainer-north-a")


async def test_an_attempt_goes_on_with_the_token_that_replaced_its_own(storage: Storage, stub_of, tmp_path) -> None:
    """Replaced while it runs: what it stores after that is stored with the new one, as the old one has expired."""
    scheduler = stub_of("scheduler")
    start = message(attempt_spec(storage, tmp_path))
    replace = attempt_service_pb2.ReplaceStorageTokenRequest(key=start.key, storage_token="next-token")
    with pytest.raises(AttemptUnknown):
        await scheduler.ReplaceStorageToken(replace)

    async def expire() -> None:
        await scheduler.ReplaceStorageToken(replace)
        storage.token = "next-token"

    storage.while_saving = expire
    await scheduler.StartAttempt(attempt_service_pb2.StartAttemptRequest(spec=start, lease=Duration(seconds=30)))
    watch = attempt_service_pb2.WatchAttemptRequest(key=start.key)
    events = [response.event async for response in scheduler.WatchAttempt(watch)]
    (artifact,) = events[-1].finished.artifacts
    assert storage.token == "next-token" and artifact.digest in storage.uploads


async def test_a_trainer_that_stops_tells_the_end_of_what_runs(
    trainer: TrainerApp, storage: Storage, stub_of, tmp_path
) -> None:
    """A run is asked to stop and may save; its last event still goes through the door to who watches."""
    scheduler = stub_of("scheduler")
    spec = message(attempt_spec(storage, tmp_path, WAITS))
    await scheduler.StartAttempt(attempt_service_pb2.StartAttemptRequest(spec=spec, lease=Duration(seconds=30)))
    kinds: list[str | None] = []
    async for response in scheduler.WatchAttempt(attempt_service_pb2.WatchAttemptRequest(key=spec.key)):
        last = response.event
        kinds.append(last.WhichOneof("event"))
        if kinds == ["started", "progress"]:
            stopping = asyncio.create_task(trainer.stop())
    assert kinds == ["started", "progress", "checkpointed", "failed"]
    assert (last.failed.reason, last.failed.retryable) == ("UNAVAILABLE", True)
    await stopping
    assert storage.memory.checkpoints[JOB].attempt == 1 and NoConsul.last.registered == ()


async def test_only_the_scheduler_may_call(stub_of) -> None:
    """Another service's certificate, and any token, are refused."""
    for name in ("storage", "trainer-north-a"):
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await stub_of(name).CancelAttempt(attempt_service_pb2.CancelAttemptRequest())
    request = attempt_service_pb2.CancelAttemptRequest(key={"job": JOB, "attempt": 1})
    with pytest.raises(Unauthenticated):
        await stub_of("storage").CancelAttempt(request, metadata=(("authorization", f"Bearer {TOKEN}"),))
    scheduler = stub_of("scheduler")
    await scheduler.CancelAttempt(request)
    with pytest.raises(AttemptUnknown):
        async for _ in scheduler.WatchAttempt(attempt_service_pb2.WatchAttemptRequest(key=request.key)):
            pass


def test_the_trainer_process_does_not_load_torch() -> None:
    """Torch is in the sandboxes only: the process that keeps the leases stays small."""
    code = "import sys, services.trainer.app, services.trainer.__main__; print(sorted({'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("sandbox", ["auto", "none"])
async def test_a_trainer_told_to_end_leaves_nothing_running(service_settings, sandbox: str) -> None:
    """SIGTERM ends the process with status 0; SIGKILL takes its sandboxes along."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        settings = service_settings("trainer-north-a")
        fields = ("state", "internal_port", "tls_ca", "tls_cert", "tls_key")
        environment = {f"LOUPE_{name.upper()}": str(getattr(settings, name)) for name in fields}
        environment |= {
            "LOUPE_CLUSTER": "north",
            "LOUPE_TRAINER": "a",
            "LOUPE_WARM_MODULES": "",
            "LOUPE_IDLE_MODULES": "",
            "LOUPE_RUNNER": "json:dumps",
            "LOUPE_SANDBOX": sandbox,
            "LOUPE_CONSUL_URL": f"http://127.0.0.1:{free_port()}",
            "PATH": os.environ["PATH"],
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.trainer", env=environment, stderr=subprocess.DEVNULL
        )
        try:
            sandboxes = await _warm(process, settings)
            process.send_signal(number)
            async with asyncio.timeout(20):
                status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        await eventually(lambda processes=sandboxes: not any(map(alive, processes)))


async def _warm(process: asyncio.subprocess.Process, settings) -> list:
    """Wait until the trainer serves and has a sandbox; return the processes of the sandbox."""
    import psutil

    channel = internal_channel(settings, f"127.0.0.1:{settings.internal_port}", service=TrainerName("north", "a"))
    health = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + 30
    while True:
        assert process.returncode is None and time.monotonic() < deadline, "the trainer did not start"
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            sandboxes = psutil.Process(process.pid).children(recursive=True)
            if answer.status == health_pb2.HealthCheckResponse.SERVING and sandboxes:
                return sandboxes
        except Unavailable:
            pass
        await asyncio.sleep(0.05)
