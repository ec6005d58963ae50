"""The whole trainer behind its door: real TLS, the scheduler's calls, storage over gRPC, real processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.ports import free_port
from loupe.discovery import Instance
from loupe.errors import (
    AttemptUnknown,
    DataLoss,
    LoupeError,
    PermissionDenied,
    StaleAttempt,
    Unauthenticated,
    Unavailable,
    UploadIncomplete,
)
from loupe.load import TrainerLoad
from loupe.names import AccountName, JobName
from loupe.rpc.channel import internal_channel
from loupe.rpc.identity import AttemptGrant, Caller, current_caller
from loupe.rpc.server import MeshServer
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.trainer.v1 import attempt_pb2, attempt_service_pb2, attempt_service_pb2_grpc
from services.trainer import app
from services.trainer.settings import TrainerSettings
from services.trainer.spec import AttemptKey, AttemptSpec
from services.trainer.storage_client import GrpcStorage
from services.trainer.work_folder import CollectedFile
from tests.trainer.fakes import BARE_RUNNER, JOB, MemoryStorage, alive, eventually

DATASET = "projects/line-7/datasets/screws/versions/1"
ALGORITHM = "algorithms/tiny/versions/1"
TOKEN = "attempt-token"

ALGORITHM_CODE = """
import json
from loupe.algorithm.host import Outcome, Progress, Result
import numpy as np

def train(host):
    spec = host.spec()
    pixels = np.load(host.pictures(4, 4), mmap_mode="r")
    (host.work / "c").mkdir()
    (host.work / "c" / "state.json").write_text(json.dumps({"round": 1}))
    host.save_checkpoint(host.work / "c")
    host.report(Progress("head", epoch=1, metrics={"validation_accuracy": 0.95}))
    (host.work / "model.onnx").write_bytes(b"x" * 3_000_000)
    report = {"pictures": len(pixels), "truth": host.reveal_test(), "rounds": spec.parameters["rounds"]}
    host.finish(Result(Outcome.TARGET_REACHED, {"model.onnx": host.work / "model.onnx"}, report))
"""


@dataclass
class Storage:
    """Storage serves a MemoryStorage over gRPC to attempts, and fails on demand."""

    memory: MemoryStorage = field(default_factory=MemoryStorage)
    token: str = TOKEN
    while_saving: Callable[[], Awaitable[None]] | None = None
    away: int = 0
    cut_after: int | None = None
    cut: LoupeError = field(default_factory=lambda: Unavailable("cut", dependency="storage"))
    downloaded: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def _enter(self) -> None:
        assert current_caller().attempt == AttemptGrant(JobName("line-7", "j1"), 1)
        if self.away:
            self.away -= 1
            raise Unavailable("storage is away", dependency="storage")

    async def GetDatasetVersion(self, request, context):
        self._enter()
        data = self.memory.datasets[request.name]
        labels = [dataset_pb2.LabelCount(label=label) for label in data.labels]
        version = dataset_pb2.DatasetVersion(
            name=request.name, uid="u1", labels=labels, picture_count=len(data.digests)
        )
        return dataset_service_pb2.GetDatasetVersionResponse(dataset_version=version)

    async def ReadDatasetItems(self, request, context):
        self._enter()
        data = self.memory.datasets[request.name]
        for digest, kind, split in zip(data.digests, data.classes, data.splits, strict=True):
            item = dataset_pb2.DatasetItem(digest=digest, label=data.labels[kind], split=int(split) + 1)
            yield dataset_service_pb2.ReadDatasetItemsResponse(items=[item])

    async def DownloadAlgorithmVersion(self, request, context):
        self._enter()
        (packed,) = self.memory.images.values()
        for start in range(0, len(packed), 1000):
            yield algorithm_service_pb2.DownloadAlgorithmVersionResponse(chunk=packed[start : start + 1000])

    async def FindMissingBlobs(self, request, context):
        self._enter()
        missing = [digest for digest in request.digests if digest not in self.uploads]
        return blob_service_pb2.FindMissingBlobsResponse(digests=missing)

    async def QueryUpload(self, request, context):
        self._enter()
        held = self.memory.files.get(request.digest, b"")
        return blob_service_pb2.QueryUploadResponse(committed_size=len(held))

    async def UploadBlob(self, requests, context):
        self._enter()
        header = (await anext(requests)).header
        data = bytearray(self.memory.files.get(header.digest, b"")[: header.offset])
        async for request in requests:
            data += request.chunk
            if self.cut_after is not None and len(data) > self.cut_after:
                self.memory.files[header.digest] = bytes(data)
                self.cut_after = None
                raise self.cut
        assert hashlib.sha256(data).hexdigest() == header.digest and len(data) == header.size
        self.uploads[header.digest] = bytes(data)
        return blob_service_pb2.UploadBlobResponse(digest=header.digest)

    async def DownloadBlobs(self, request, context):
        self._enter()
        for digest in request.digests:
            data = self.memory.pictures.get(digest) or self.uploads[digest]
            if self.cut_after is not None and len(self.downloaded) == self.cut_after:
                self.cut_after = None
                raise Unavailable("cut", dependency="storage")
            self.downloaded.append(digest)
            for start in range(0, len(data), 50):
                piece = blob_service_pb2.BlobPiece(
                    digest=digest, offset=start, size=len(data), data=data[start : start + 50]
                )
                yield blob_service_pb2.DownloadBlobsResponse(pieces=[piece])

    async def SaveCheckpoint(self, request, context):
        self._enter()
        if request.checkpoint.attempt < self.memory.fences.get(request.checkpoint.job, 0):
            raise StaleAttempt("too old")
        if self.while_saving is not None:
            await self.while_saving()
        self.memory.checkpoints[request.checkpoint.job] = request.checkpoint
        return model_service_pb2.SaveCheckpointResponse()

    async def GetCheckpoint(self, request, context):
        self._enter()
        return model_service_pb2.GetCheckpointResponse(checkpoint=self.memory.checkpoints.get(request.job))


class Verifier:
    """Verifier takes one token: the attempt's."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def verify(self, token: str) -> Caller:
        if token != self._storage.token:
            raise Unauthenticated("no such token", problem="invalid")
        return Caller(account=AccountName("anna"), attempt=AttemptGrant(JobName("line-7", "j1"), 1))


class Allow:
    """Allow allows the submitter everything."""

    async def decide(self, account, project, action, login):
        from loupe.rpc.access import Decision

        return Decision(True, True, "projects/line-7/groups/g", 100, 0, True)

    def changed(self) -> asyncio.Event:
        return asyncio.Event()


def servicer(base: type, storage: Storage) -> object:
    """servicer is a generated servicer whose methods are the storage's."""
    methods = {name: getattr(storage, name) for name in dir(base) if name[0].isupper() and hasattr(storage, name)}
    return type("Servicer", (base,), {name: staticmethod(method) for name, method in methods.items()})()


@pytest.fixture
async def storage(service_settings) -> AsyncIterator[Storage]:
    storage = Storage()
    settings = service_settings("storage")
    server = MeshServer(
        settings,
        verifier=Verifier(storage),
        authorizer=Allow(),
        servicers=[
            (add, servicer(base, storage))
            for add, base in (
                (blob_service_pb2_grpc.add_BlobServiceServicer_to_server, blob_service_pb2_grpc.BlobServiceServicer),
                (
                    dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server,
                    dataset_service_pb2_grpc.DatasetServiceServicer,
                ),
                (
                    algorithm_service_pb2_grpc.add_AlgorithmServiceServicer_to_server,
                    algorithm_service_pb2_grpc.AlgorithmServiceServicer,
                ),
                (
                    model_service_pb2_grpc.add_ModelServiceServicer_to_server,
                    model_service_pb2_grpc.ModelServiceServicer,
                ),
            )
        ],
    )
    await server.start()
    storage.address = f"127.0.0.1:{settings.internal_port}"
    yield storage
    await server.stop()


def attempt_spec(storage: Storage, folder, code: str = ALGORITHM_CODE) -> AttemptSpec:
    storage.memory.add_dataset(DATASET, [0, 200, 30, 220, 60, 240])
    return AttemptSpec(
        key=AttemptKey(JOB, 1),
        dataset_version=DATASET,
        algorithm_version=ALGORITHM,
        algorithm_digest=storage.memory.add_image(folder / "source", code),
        target_accuracy=0.9,
        storage_token=TOKEN,
        built_in=True,
    )


def message(spec: AttemptSpec) -> attempt_pb2.AttemptSpec:
    result = attempt_pb2.AttemptSpec(
        key={"job": spec.key.job, "attempt": spec.key.attempt},
        dataset_version=spec.dataset_version,
        algorithm_version=spec.algorithm_version,
        algorithm_digest=spec.algorithm_digest,
        built_in=spec.built_in,
        target_accuracy=spec.target_accuracy,
        storage_token=spec.storage_token,
    )
    result.parameters["rounds"] = 5
    return result


@pytest.fixture
async def channel(service_settings, storage: Storage) -> AsyncIterator[grpc.aio.Channel]:
    """channel is the trainer's way to storage."""
    channel = internal_channel(service_settings("trainer-north-a"), storage.address)
    yield channel
    await channel.close()


@pytest.fixture
def client(channel, storage: Storage, tmp_path):
    async def get() -> grpc.aio.Channel:
        return channel

    return GrpcStorage(get, patience=1.0).of(attempt_spec(storage, tmp_path), lambda: TOKEN)


def collected(folder, name: str, data: bytes) -> CollectedFile:
    path = folder / name
    path.write_bytes(data)
    return CollectedFile(name, path, hashlib.sha256(data).hexdigest(), len(data))


async def test_storage_is_asked_again_while_it_is_away(client, storage: Storage) -> None:
    """A restart of storage is no failure of a job; but patience ends."""
    storage.away = 3
    assert len((await client.dataset()).digests) == 6
    storage.away = 10_000
    with pytest.raises(Unavailable):
        await client.dataset()


async def test_a_download_that_was_cut_goes_on(client, storage: Storage) -> None:
    """After a cut, only the rest is asked for, and nothing comes twice."""
    digests = list(storage.memory.datasets[DATASET].digests)
    storage.cut_after = 3
    got = [item async for item in client.fetch(digests)]
    assert got == [(digest, storage.memory.pictures[digest]) for digest in digests]
    assert storage.downloaded == digests


@pytest.mark.parametrize(
    "cut", [Unavailable("cut", dependency="storage"), UploadIncomplete("another job sends the same", committed=0)]
)
async def test_an_upload_that_was_cut_goes_on_at_its_offset(
    client, storage: Storage, tmp_path, cut: LoupeError
) -> None:
    data = bytes(range(256)) * 12_000
    storage.cut_after, storage.cut = 1 << 20, cut
    file = collected(tmp_path, "model.onnx", data)
    (stored,) = await client.save_artifacts([file])
    assert storage.uploads == {file.digest: data}
    assert (stored.filename, stored.digest, stored.size) == ("model.onnx", file.digest, len(data))
    assert await client.save_artifacts([file]) == (stored,)


async def test_a_checkpoint_goes_there_and_back(client, storage: Storage, tmp_path) -> None:
    """Its files come back under their names; a stale attempt is refused by storage."""
    assert not await client.load_checkpoint(tmp_path / "none")
    await client.save_checkpoint([collected(tmp_path, "state.json", b"{}"), collected(tmp_path, "x.safetensors", b"t")])
    assert await client.load_checkpoint(tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        "state.json": b"{}",
        "x.safetensors": b"t",
    }
    storage.memory.fences[JOB] = 2
    with pytest.raises(StaleAttempt):
        await client.save_checkpoint([])


async def test_a_checkpoint_with_a_path_for_a_name_is_refused(client, storage: Storage, tmp_path) -> None:
    storage.memory.checkpoints[JOB] = model_service_pb2.Checkpoint(
        job=JOB, attempt=1, files=[{"filename": "../evil", "digest": "a" * 64}]
    )
    with pytest.raises(DataLoss, match="evil"):
        await client.load_checkpoint(tmp_path / "back")


class NoConsul:
    """NoConsul stands where Discovery does: it knows where storage is, and keeps what is registered."""

    last: NoConsul
    storage = ""

    def __init__(self, settings) -> None:
        NoConsul.last = self
        self.registered: tuple[str, ...] = ()
        self.held: tuple[str, object] | None = None

    async def register(self, *arguments: str) -> None:
        self.registered = arguments

    async def hold(self, key, value, interval: float = 1.0) -> None:
        self.held = (key, value)

    async def instances(self, name: str) -> list[Instance]:
        return [Instance("storage", "", self.storage)]

    async def close(self) -> None:
        self.registered = ()


@pytest.fixture(params=["none", "bubblewrap"])
async def trainer(request, service_settings, storage: Storage, monkeypatch) -> AsyncIterator[app.TrainerApp]:
    if request.param == "bubblewrap":
        request.getfixturevalue("bubblewrap")
    monkeypatch.setattr(app, "Discovery", NoConsul)
    NoConsul.storage = storage.address
    settings = service_settings(
        "trainer-north-a",
        TrainerSettings,
        cluster="north",
        trainer="a",
        sandbox=request.param,
        warm=0,
        warm_modules="",
        runner="bare_runner:run_image",
    )
    trainer = await app.TrainerApp.create(settings)
    (settings.state / "code" / "bare_runner.py").write_text(BARE_RUNNER)
    await trainer.start()
    yield trainer
    await trainer.stop()


@pytest.fixture
async def stub_of(trainer: app.TrainerApp, service_settings):
    """stub_of is a function that gives the trainer's door as a process with that certificate sees it."""
    channels: list[grpc.aio.Channel] = []

    def stub(name: str) -> attempt_service_pb2_grpc.AttemptServiceStub:
        channels.append(internal_channel(service_settings(name), f"127.0.0.1:{trainer.settings.internal_port}"))
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
    assert json.loads(finished.report_json) == {"pictures": 6, "truth": [0, 1, 0, 1, 0, 1], "rounds": 5}
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
    assert NoConsul.last.registered[:2] == ("loupe-trainer", "trainer-north-a")


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
    """_warm waits until the trainer serves and has a sandbox; it returns the processes of the sandbox."""
    import psutil

    channel = internal_channel(settings, f"127.0.0.1:{settings.internal_port}")
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
