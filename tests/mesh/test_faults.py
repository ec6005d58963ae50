"""Faults of a running mesh: any one process killed at any time, and the job still ends, once, with nothing lost."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import secrets
import signal
import socket
import sqlite3
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from deploy.local.consul import token_file
from deploy.local.mesh import LocalMesh
from loupe.errors import Unauthenticated
from loupe.names import AccountName, DatasetName, TrainerName
from loupe.rpc.channel import terminal_channel
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2, dataset_service_pb2, dataset_service_pb2_grpc, model_pb2
from loupe.storage.v1.blob_service_pb2 import FindMissingBlobsRequest
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.terminal.client import Terminal
from loupe.terminal.codes import Exit
from loupe.terminal.profile import Profile, ProfileStore
from tests.mesh.conftest import OpenTerminal, Trained, push

# A trainer that was killed makes itself warm again first, beside another one that does the same, on two cores.
pytestmark = pytest.mark.timeout(400)

FINAL = {
    training_job_pb2.JOB_STATE_SUCCEEDED,
    training_job_pb2.JOB_STATE_TARGET_MISSED,
    training_job_pb2.JOB_STATE_FAILED,
    training_job_pb2.JOB_STATE_CANCELLED,
}
# Trainings whose accuracy does not matter: one by its epochs, the other as long on a fast machine as on a slow one.
EPOCHS = 12
LONG: dict[str, Any] = {
    "algorithm_version": "algorithms/scratch/versions/latest",
    "parameters": {"size": 32, "epochs": EPOCHS, "patience": EPOCHS},
    "target": 1.0,
    "seed": 3,
}
HALF_A_MINUTE = LONG | {"parameters": {"size": 32, "epochs": 1000, "patience": 1000}, "max_minutes": 0.5}
QUICK: dict[str, Any] = {"target": 0.9, "seed": 1}
CRASHER = """
name = "crasher"
version = "1"
task = "classification"
entry = "main:train"
licence = "Apache-2.0"
summary = "Crashes."
"""


@pytest.fixture(scope="session")
def puzzle(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class split in two at random: no accuracy of 100 % stops the training early."""
    folder = tmp_path_factory.mktemp("puzzle")
    for number, picture in enumerate(sorted(pictures.rglob("*.png"))):
        target = folder / ("left" if number * 7 % 3 else "right") / f"{picture.parent.name}-{picture.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(picture.read_bytes())
    return folder


@pytest.fixture
async def version(terminal: OpenTerminal, project: str, puzzle: Path) -> dataset_pb2.DatasetVersion:
    async with terminal() as owner:
        return await push(owner, project, puzzle)


async def follow(
    owner: Terminal, job: str, acts: Sequence[tuple[int, Callable[[], Awaitable[None]]]] = ()
) -> list[training_job_pb2.JobEvent]:
    """Follows a job to its end; each act, one after the other, once it has come to the act's epoch."""
    events, left = [], deque(acts)
    async for event in owner.jobs.watch(job):
        events.append(event)
        if left and event.WhichOneof("event") == "progress" and event.progress.epoch >= left[0][0]:
            await left.popleft()[1]()
    assert not left, f"the job ended before everything was done to it: {events[-1]}"
    return events


def assert_told_once(events: Sequence[training_job_pb2.JobEvent]) -> None:
    """Every event once, in order, without a gap, and one end."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    final = [event for event in events if event.state_change.state in FINAL]
    assert len(final) == 1
    assert events[-1] is final[0]


def reachable(doors: list[Any]) -> list[Any]:
    """Which of these doors, (host, port) or the path of a unix socket, a connection can be made to."""
    opened = []
    for door in doors:
        try:
            tried = socket.socket(socket.AF_UNIX if isinstance(door, str) else socket.AF_INET)
        except PermissionError:  # inside a sandbox there is not even a socket to try it with
            continue
        with tried:
            tried.settimeout(5)
            if tried.connect_ex(door) == 0:
                opened.append(door)
    return opened


def consul(mesh: LocalMesh, process: str, key: str, value: bytes | None = None) -> bytes:
    """Reads or writes a key with a process's token; raises HTTPError when Consul refuses."""
    token = token_file(mesh.state, process).read_text(encoding="utf-8").strip()
    url = f"{mesh.endpoints.consul_url}/v1/kv/{key}"
    asked = Request(url, value, {"X-Consul-Token": token}, method="GET" if value is None else "PUT")
    with urlopen(asked, timeout=10) as answer:
        return answer.read()


def weights_of(model: model_pb2.ModelVersion) -> str:
    """The digest of the model's weights."""
    return next(file.digest for file in model.files if file.filename == "model.safetensors")


@dataclass(frozen=True)
class Battered:
    """A job during which every process but its trainer was killed, one after the other."""

    job: training_job_pb2.TrainingJob
    events: list[training_job_pb2.JobEvent]
    away: Away


@dataclass(frozen=True)
class Away:
    """What `loupe job watch` printed, though its process stood still from the first line to the job's end."""

    seconds: float
    lines: list[str]
    status: int | None


async def command_line(mesh: LocalMesh, profile: Path, *words: str) -> asyncio.subprocess.Process:
    """`loupe` as a process of its own, logged in as the administrator."""
    store = ProfileStore(profile)
    store.save(Profile(server=mesh.endpoints.auth, ca=mesh.endpoints.ca.read_text(encoding="utf-8")))
    async with Terminal.connect(store) as owner:
        await owner.sessions.login(AccountName("admin"), mesh.endpoints.admin_password)
    return await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "loupe"),
        *words,
        env=os.environ | {"LOUPE_PROFILE": str(profile)},
        stdout=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def standing_still(mesh: LocalMesh, profile: Path, job: str) -> AsyncIterator[Callable[[], Awaitable[Away]]]:
    """A terminal process that is stopped as soon as it shows something, and the function that lets it go on."""
    process = await command_line(mesh, profile, "job", "watch", job, "--json")
    try:
        shown = [await process.stdout.readline()]
        process.send_signal(signal.SIGSTOP)
        since = time.monotonic()

        async def go_on() -> Away:
            process.send_signal(signal.SIGCONT)
            seconds = time.monotonic() - since
            rest, _ = await process.communicate()
            return Away(seconds, (shown[0] + rest).decode().splitlines(), process.returncode)

        yield go_on
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture(scope="session")
def battered(
    mesh: LocalMesh, terminal: OpenTerminal, puzzle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Battered:
    profile = tmp_path_factory.mktemp("away") / "profile.json"

    async def run() -> Battered:
        async with terminal() as owner:
            project = (await owner.projects.create(f"b{secrets.token_hex(6)}")).name
            job = await owner.jobs.submit((await push(owner, project, puzzle)).name, **HALF_A_MINUTE)
            events, victims = [], ["storage", "auth", "consul", "nats", "scheduler", "supervisor"]
            async with standing_still(mesh, profile, job.name) as go_on:
                async for event in owner.jobs.watch(job.name):
                    events.append(event)
                    if victims and event.progress.epoch:
                        await asyncio.to_thread(mesh.wait_healthy)  # one at a time: the one before is back
                        await asyncio.to_thread(mesh.kill, victims.pop(0))
                        now = (await owner.jobs.get(job.name)).state
                        assert now == training_job_pb2.JOB_STATE_RUNNING, f"it ended before {victims} were killed"
                assert victims == [], "the job ended before everybody was killed"
                away = await go_on()
            return Battered(await owner.jobs.get(job.name), events, away)

    battered = asyncio.run(run())
    mesh.start()
    return battered


def test_killed_processes_do_not_cost_the_job(battered: Battered) -> None:
    """kill -9 of each in the middle of training: the watch heals itself and the same attempt comes to its end."""
    assert_told_once(battered.events)
    assert battered.job.state in (training_job_pb2.JOB_STATE_SUCCEEDED, training_job_pb2.JOB_STATE_TARGET_MISSED)
    assert battered.job.attempt == 1, "the trainer was alive: its work must not be given away"


def test_a_terminal_that_was_away_shows_everything_once(battered: Battered) -> None:
    """Stopped for tens of seconds while NATS and all services were killed: it goes on from its cursor, to the end."""
    assert battered.away.seconds > 20, "the training alone takes half a minute"
    told = [event.sequence for event in battered.events]
    assert [json.loads(line)["sequence"] for line in battered.away.lines] == told
    assert battered.away.status == Exit.TARGET_MISSED


@pytest.mark.attack
async def test_a_job_goes_on_from_its_last_whole_checkpoint_to_the_same_model(
    mesh: LocalMesh, terminal: OpenTerminal, project: str, puzzle: Path
) -> None:
    """Its trainer killed in mid-epoch and in mid-checkpoint: with a fixed seed on a CPU, the very same weights."""
    storage = mesh.state.root / "storage"
    staging = storage / "staging" / "blobs" / project.removeprefix("projects/")

    def uploading() -> dict[str, int]:
        return {path.name: path.stat().st_size for path in staging.iterdir()} if staging.exists() else {}

    async with terminal() as owner:
        elsewhere = (await owner.projects.create(f"w{secrets.token_hex(6)}")).name
        versions = [await push(owner, where, puzzle) for where in (project, elsewhere)]
        job, undisturbed = [await owner.jobs.submit(version.name, **LONG) for version in versions]

        async def kill_the_trainer() -> None:
            name = TrainerName.parse((await owner.jobs.get(job.name)).trainer)
            mesh.kill(f"trainer-{name.cluster}-{name.trainer}")

        async def kill_the_trainer_after_a_checkpoint() -> None:
            with closing(sqlite3.connect(f"file:{storage / 'storage.db'}?mode=ro", uri=True)) as database:
                async with asyncio.timeout(60):
                    while not database.execute("SELECT 1 FROM checkpoints WHERE job = ?", [job.name]).fetchall():
                        await asyncio.sleep(0.005)
            await kill_the_trainer()

        async def kill_the_trainer_in_mid_checkpoint() -> None:
            before = uploading()
            async with asyncio.timeout(60):
                while uploading().items() <= before.items():
                    await asyncio.sleep(0.005)
            await kill_the_trainer()

        kills = [(EPOCHS // 3, kill_the_trainer_after_a_checkpoint), (EPOCHS // 2, kill_the_trainer_in_mid_checkpoint)]
        events = await follow(owner, job.name, kills)
        assert_told_once(await follow(owner, undisturbed.name))
        ended = [await owner.jobs.get(each.name) for each in (job, undisturbed)]
        for each in ended:
            assert each.state == training_job_pb2.JOB_STATE_TARGET_MISSED, each.failure
        models = [await owner.models.version(each.result.model_version) for each in ended]
    assert_told_once(events)
    assert [each.attempt for each in ended] == [3, 1]
    for attempt in (2, 3):
        first = next(e for e in events if e.attempt == attempt and e.WhichOneof("event") == "progress")
        assert first.progress.epoch > 1, "it began anew instead of going on"
    assert weights_of(models[0]) == weights_of(models[1])
    await asyncio.to_thread(mesh.wait_healthy)


async def test_a_trainer_that_is_silent_gets_no_job(mesh: LocalMesh, terminal: OpenTerminal, trained: Trained) -> None:
    """Stopped: its last report, however idle it says the trainer is, no longer counts, and nobody else can renew it."""
    async with asyncio.timeout(30):  # its slot is cleared after the job before has ended, and told with the next report
        while True:
            report = await asyncio.to_thread(consul, mesh, "scheduler", "loupe/trainers/north/a?raw")
            if json.loads(report)["busy_slots"] == 0:
                break
            await asyncio.sleep(0.1)
    silent = mesh.pid("trainer-north-a")
    assert silent is not None
    os.kill(silent, signal.SIGSTOP)
    try:
        async with terminal() as owner:
            async with asyncio.timeout(30):
                while [cluster.name for cluster in (await owner.clusters.list()).clusters] != ["clusters/south"]:
                    await asyncio.sleep(0.1)
            for other in ("trainer-south-b", "scheduler", "storage"):
                with pytest.raises(HTTPError, match="403"):
                    await asyncio.to_thread(consul, mesh, other, "loupe/trainers/north/a", report)
            job = await owner.jobs.submit(trained.version.name, **QUICK)
            events = await follow(owner, job.name)
    finally:
        os.kill(silent, signal.SIGCONT)
    assert events[-1].state_change.state == training_job_pb2.JOB_STATE_SUCCEEDED
    placement = next(event.placement for event in events if event.WhichOneof("event") == "placement")
    assert placement.trainer == "clusters/south/trainers/b"
    assert [each.cluster for each in placement.considered] == ["clusters/south"]
    await asyncio.to_thread(mesh.wait_healthy)


async def test_a_running_image_reaches_no_door_of_the_mesh(
    mesh: LocalMesh, terminal: OpenTerminal, trained: Trained, tmp_path: Path
) -> None:
    """The services, Consul, NATS and the supervisor's socket, each of which is open for who stands outside."""
    places = [*mesh.endpoints.public.values(), *mesh.endpoints.internal.values()]
    places += [url.rpartition("/")[2] for url in (mesh.endpoints.consul_url, mesh.endpoints.nats_url)]
    doors: list[Any] = [(place.partition(":")[0], int(place.partition(":")[2])) for place in places]
    doors.append(str(mesh.state.socket))
    assert reachable(doors) == doors
    (tmp_path / "algorithm.toml").write_text(CRASHER.replace("crasher", "burglar"), encoding="utf-8")
    burglar = ["import socket", "from typing import Any", inspect.getsource(reachable), "def train(context):"]
    burglar.append(f"    raise ValueError('open: ' + str(reachable({doors})))")
    (tmp_path / "main.py").write_text("\n".join(burglar), encoding="utf-8")
    async with terminal() as owner:
        image = await owner.algorithms.push(tmp_path)
        job = await owner.jobs.submit(trained.version.name, algorithm_version=image.name, **QUICK)
        await follow(owner, job.name)
        ended = await owner.jobs.get(job.name)
    assert ended.state == training_job_pb2.JOB_STATE_FAILED
    assert "open: []" in ended.failure.message


async def test_without_nats_the_job_completes_and_can_be_read_by_rpc(
    mesh: LocalMesh, terminal: OpenTerminal, trained: Trained
) -> None:
    """NATS away the whole time: submission, progress by WatchTrainingJob, result."""
    async with terminal() as owner:
        with mesh.without("nats"):
            job = await owner.jobs.submit(trained.version.name, **QUICK)
            events = await follow(owner, job.name)
            ended = await owner.jobs.get(job.name)
    assert_told_once(events)
    assert ended.state == training_job_pb2.JOB_STATE_SUCCEEDED


async def test_a_job_waits_for_a_trainer_with_the_reason_and_starts_when_one_comes(
    mesh: LocalMesh, terminal: OpenTerminal, trained: Trained
) -> None:
    """No trainer there: the job is accepted, says why it waits, and runs when one is back."""
    async with terminal() as owner:
        with mesh.without("trainer-north-a"), mesh.without("trainer-south-b"):
            async with asyncio.timeout(30):
                while (await owner.clusters.list()).clusters:
                    await asyncio.sleep(0.1)
            job = await owner.jobs.submit(trained.version.name, **QUICK)
            async with asyncio.timeout(30):
                while "no training cluster is known" not in (waiting := await owner.jobs.get(job.name)).state_message:
                    await asyncio.sleep(0.1)
            assert waiting.state == training_job_pb2.JOB_STATE_QUEUED
        events = await follow(owner, job.name)
    assert_told_once(events)
    assert events[-1].state_change.state == training_job_pb2.JOB_STATE_SUCCEEDED


async def test_without_consul_a_job_says_so_and_starts_when_it_is_back(
    mesh: LocalMesh, terminal: OpenTerminal, trained: Trained
) -> None:
    """Consul away: nobody may place a job, and the terminal is told."""
    async with terminal() as owner:
        with mesh.without("consul"):
            async with asyncio.timeout(30):
                while "Consul" not in (job := await owner.jobs.submit(trained.version.name, **QUICK)).state_message:
                    await owner.jobs.cancel(job.name)
            assert job.state == training_job_pb2.JOB_STATE_QUEUED
        events = await follow(owner, job.name)
    assert_told_once(events)
    assert events[-1].state_change.state == training_job_pb2.JOB_STATE_SUCCEEDED


async def test_an_image_that_crashes_each_time_fails_after_three_attempts_and_harms_nobody(
    terminal: OpenTerminal, trained: Trained, tmp_path: Path
) -> None:
    """SIGSEGV in somebody's own algorithm image: tried again, then FAILED with what happened; the next job runs."""
    (tmp_path / "algorithm.toml").write_text(CRASHER, encoding="utf-8")
    (tmp_path / "main.py").write_text("import os\n\n\ndef train(context):\n    os.kill(os.getpid(), 11)\n")
    async with terminal() as owner:
        image = await owner.algorithms.push(tmp_path)
        job = await owner.jobs.submit(trained.version.name, algorithm_version=image.name, **QUICK)
        assert_told_once(await follow(owner, job.name))
        ended = await owner.jobs.get(job.name)
        assert (ended.state, ended.attempt) == (training_job_pb2.JOB_STATE_FAILED, 3)
        assert "killed by signal 11" in ended.failure.message
        following = await owner.jobs.submit(trained.version.name, **QUICK)
        events = await follow(owner, following.name)
    assert events[-1].state_change.state == training_job_pb2.JOB_STATE_SUCCEEDED


async def test_a_job_can_be_cancelled_while_it_runs(
    terminal: OpenTerminal, version: dataset_pb2.DatasetVersion
) -> None:
    """Cancelled at once and for good; the trainer's slot is free again."""
    async with terminal() as owner:
        job = await owner.jobs.submit(version.name, **LONG)

        async def cancel() -> None:
            await owner.jobs.cancel(job.name)

        events = await follow(owner, job.name, [(1, cancel)])
        assert events[-1].state_change.state == training_job_pb2.JOB_STATE_CANCELLED
        async with asyncio.timeout(30):
            while any(t.busy_slots for c in (await owner.clusters.list()).clusters for t in c.trainers):
                await asyncio.sleep(0.1)
        assert (await owner.jobs.get(job.name)).state == training_job_pb2.JOB_STATE_CANCELLED


async def test_a_terminal_that_is_killed_in_mid_upload_leaves_nothing_half_done(
    mesh: LocalMesh, terminal: OpenTerminal, project: str, tmp_path: Path
) -> None:
    """SIGKILL of `loupe dataset push` among 4,000 pictures: no version; pushing again sends the rest only."""
    random = np.random.default_rng(0)
    for number in range(4_000):
        file = tmp_path / "many" / ("left", "right")[number % 2] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    paths = sorted((tmp_path / "many").rglob("*.bmp"))
    asked = FindMissingBlobsRequest(parent=project, digests=[sha256(path.read_bytes()).hexdigest() for path in paths])
    async with terminal() as owner:
        storage = terminal_channel(
            mesh.endpoints.public["storage"], ca=mesh.endpoints.ca.read_bytes(), token=owner.sessions.access_token
        )
        words = ("--project", project, "dataset", "push", "many", str(tmp_path / "many"))
        process = await command_line(mesh, tmp_path / "profile.json", *words)
        async with asyncio.timeout(60):
            while len((await BlobServiceStub(storage).FindMissingBlobs(asked)).digests) == len(paths):
                await asyncio.sleep(0.01)
        process.kill()
        await process.communicate()
        left = len((await BlobServiceStub(storage).FindMissingBlobs(asked)).digests)
        await storage.close()
        assert 0 < left < len(paths), "it was killed too early or too late"
        assert [each async for each in owner.datasets.list(project)] == []
        again = await owner.datasets.push(DatasetName(project.removeprefix("projects/"), "many"), tmp_path / "many")
    assert 0 < again.uploaded.pictures <= left  # what was on its way when the terminal died counts, too
    assert again.version.picture_count == len(paths)


async def test_everything_is_still_there_after_a_restart_of_the_mesh(
    mesh: LocalMesh, terminal: OpenTerminal, trained: Trained
) -> None:
    """down, up: the account, the data set, the job, its events and the model are what they were."""
    async with terminal() as owner:
        await asyncio.to_thread(mesh.stop)
        await asyncio.to_thread(mesh.start)
        assert (await owner.datasets.version(trained.version.name)).digest == trained.version.digest
        assert await owner.jobs.get(trained.job.name) == trained.job
        assert await owner.models.version(trained.model.name) == trained.model
        again = [event async for event in owner.jobs.watch(trained.job.name)]
    assert [event.sequence for event in again] == [event.sequence for event in trained.events]


async def test_after_logout_nothing_is_allowed(mesh: LocalMesh, terminal: OpenTerminal, trained: Trained) -> None:
    """The login's access token is refused by another service than the one that ended it, within 5 s."""
    async with terminal() as owner:
        token = await owner.sessions.access_token()

        async def give() -> str:
            return token

        storage = terminal_channel(mesh.endpoints.public["storage"], ca=mesh.endpoints.ca.read_bytes(), token=give)
        datasets = dataset_service_pb2_grpc.DatasetServiceStub(storage)
        request = dataset_service_pb2.GetDatasetVersionRequest(name=trained.version.name)
        await datasets.GetDatasetVersion(request)
        await owner.sessions.logout()
    async with asyncio.timeout(5):
        with pytest.raises(Unauthenticated):
            while await datasets.GetDatasetVersion(request):
                await asyncio.sleep(0.05)
    await storage.close()
