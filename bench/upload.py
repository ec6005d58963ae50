"""Uploading many small photographs: Loupe against MLflow's log_artifacts and `cp -r` + `sync`; and the second time.

    python -m bench.upload [--data DIR] [--pictures 1080] [--no-mlflow] [--rounds 3]

Storage and MLflow's server are processes of their own on loopback, Loupe's behind TLS with its whole interceptor;
auth's answers are made up, so that storage is what is measured. Loupe's time is that of the terminal's own code, from
the paths to the last durable answer, hashing included. Prints one JSON object; rates in MB (10^6 bytes) a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import numpy as np
import uvloop
from PIL import Image

from bench.servers import make_certificates, server, until_it_answers
from deploy.local.ports import free_port
from loupe.access import Decision
from loupe.app import told_to_stop
from loupe.identity import Caller
from loupe.names import AccountName, ProjectName
from loupe.rpc.channel import terminal_channel
from loupe.rpc.server import MeshServer
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_service_pb2, project_service_pb2
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceStub
from loupe.storage.v1.project_service_pb2_grpc import ProjectServiceStub
from loupe.telemetry import configure_logging
from loupe.terminal.digests import DigestCache
from loupe.terminal.hashing import hash_files
from loupe.terminal.upload import upload_pictures
from services.storage.app import Storage
from services.storage.settings import StorageSettings

ANNA = AccountName("anna")


def make_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of about 17 kB, the same ones every time, in six folders."""
    random = np.random.default_rng(7)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (12, 12), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((200, 200), Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-16, 17, (200, 200))
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        path = folder / f"class-{number % 6}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(path, quality=90)


class MadeUpAuth:
    """Everybody is anna, and anna may do everything."""

    def __init__(self) -> None:
        self._never = asyncio.Event()

    async def verify(self, token: str) -> Caller:
        """Take any token for anna's."""
        return Caller(ANNA, login="bench")

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Allow."""
        return Decision(True, True, f"{project}/groups/owners", 40, 0, True)

    def changed(self) -> asyncio.Event:
        """Return an event that is never set."""
        return self._never

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Have nothing to do."""

    async def of(self, account: AccountName) -> list[ProjectName]:
        """Return no projects; nobody asks here."""
        return []

    async def may(self, account: AccountName, project: ProjectName, action: str, login: str) -> bool:
        """Allow nothing; nobody asks here."""
        return False

    async def forget_project(self, project: ProjectName, uid: str) -> None:
        """Have nothing to forget."""


async def serve(settings: StorageSettings) -> None:
    """Run storage until SIGTERM."""
    configure_logging(settings, "storage")
    auth = MadeUpAuth()
    storage = Storage(settings, auth)
    server = MeshServer(settings, verifier=auth, authorizer=auth, servicers=storage.registrations())
    await storage.start()
    await server.start()
    await told_to_stop()
    await server.stop()
    await storage.stop()


class Door:
    """One project's BlobService as the terminal's upload needs it."""

    def __init__(self, channel: grpc.aio.Channel, project: str) -> None:
        self._stub = BlobServiceStub(channel)
        self._project = project

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Ask storage."""
        request = blobs.FindMissingBlobsRequest(parent=self._project, digests=digests)
        return (await self._stub.FindMissingBlobs(request)).digests

    async def upload(
        self, requests: Callable[[], AsyncIterator[blobs.UploadPicturesRequest]]
    ) -> AsyncGenerator[blobs.UploadPicturesResponse, None]:
        """Open a stream."""
        async for response in self._stub.UploadPictures(requests()):
            yield response


async def push(door: Door, project: str, paths: list[Path], memory: DigestCache) -> tuple[float, float]:
    """Return the seconds that the terminal took altogether, and those of them that went into hashing."""
    started = time.perf_counter()
    files = await hash_files(paths, lambda _: None, memory)
    hashed = time.perf_counter()
    uploaded = await upload_pictures(door, project, files, lambda _: None)
    ended = time.perf_counter()
    assert not uploaded.refused, uploaded.refused
    return ended - started, hashed - started


async def measure_loupe(settings: StorageSettings, paths: list[Path], rounds: int) -> dict[str, float]:
    """Upload into a new project each round, then the same files again; medians, in seconds.

    Each round begins as on a terminal that has never seen the files.
    """

    async def token() -> str:
        return "anna"

    channel = terminal_channel(f"127.0.0.1:{settings.public_port}", ca=settings.tls_ca.read_bytes(), token=token)
    projects = ProjectServiceStub(channel)
    await until_it_answers(lambda: projects.ListProjects(project_service_pb2.ListProjectsRequest()))
    times: list[tuple[float, float, float, float]] = []
    for number in range(rounds):
        project = f"projects/round-{number}"
        request = project_service_pb2.CreateProjectRequest(project_id=f"round-{number}")
        await projects.CreateProject(request)
        door = Door(channel, project)
        await door.find_missing(["0" * 64])  # connection and statements are warm, as of a terminal that is logged in
        memory = DigestCache(settings.state / f"digests-{number}.db")
        first, hashing = await push(door, project, paths, memory)
        await until_decoded(channel, project, paths)  # as a push does that ends with a version
        second, hashing_again = await push(door, project, paths, memory)
        times.append((first, first - hashing, second, second - hashing_again))
    await channel.close()
    keys = ("first", "first_after_hashing", "second", "second_after_hashing")
    return {key: statistics.median(column) for key, column in zip(keys, zip(*times, strict=True), strict=True)}


async def until_decoded(channel: grpc.aio.Channel, project: str, paths: list[Path]) -> None:
    """Make a dataset version, which waits for the decoding that goes on in the background."""
    stub = DatasetServiceStub(channel)
    await stub.CreateDataset(dataset_service_pb2.CreateDatasetRequest(parent=project, dataset_id="bench"))
    files = await hash_files(paths, lambda _: None)
    items = [{"digest": file.digest, "label": f"class {number % 2}"} for number, file in enumerate(files)]

    async def requests() -> AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]:
        header = {"parent": f"{project}/datasets/bench"}
        yield dataset_service_pb2.CreateDatasetVersionRequest(header=header)
        yield dataset_service_pb2.CreateDatasetVersionRequest(batch={"items": items})
        yield dataset_service_pb2.CreateDatasetVersionRequest(closing={"item_count": len(items)})

    await stub.CreateDatasetVersion(requests())


def copy_and_sync(source: Path, work: Path, rounds: int) -> float:
    """Return the median seconds of cp -r and sync."""
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        subprocess.run(["cp", "-r", str(source), str(work / f"copy-{number}")], check=True)
        subprocess.run(["sync", "-f", str(work)], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure_mlflow(python: str, source: Path, work: Path) -> float:
    """Return the seconds of one log_artifacts to a local MLflow server that serves artifacts."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": url, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{work}/mlflow.db", "--artifacts-destination", str(work / "artifacts")]
    command = [python, "-m", "mlflow", "server", *arguments, *stores]
    with (work / "mlflow.log").open("wb") as log:
        mlflow = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True)
    client = (
        "import sys, time, mlflow\n"
        "mlflow.set_experiment('bench')\n"
        "with mlflow.start_run():\n"
        "    started = time.perf_counter()\n"
        "    mlflow.log_artifacts(sys.argv[1])\n"
        "    print('seconds', time.perf_counter() - started)\n"
    )
    try:
        asyncio.run(until_it_answers(lambda: asyncio.to_thread(urllib.request.urlopen, f"{url}/health", timeout=5)))
        done = subprocess.run(
            [python, "-c", client, str(source)], env=environment, check=True, capture_output=True, text=True
        )
        return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds "))
    finally:
        os.killpg(mlflow.pid, signal.SIGTERM)
        mlflow.wait(30)


def measure(options: argparse.Namespace, work: Path) -> dict[str, object]:
    """Run all sides after each other on the same files."""
    source = options.data or work / "photographs"
    if options.data is None:
        make_photographs(source, options.pictures)
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    paths = paths[: options.pictures]
    size = sum(path.stat().st_size for path in paths)
    own = make_certificates(work / "tls", ("storage",))["storage"]
    settings = StorageSettings(
        state=work / "storage",
        public_port=free_port(),
        internal_port=free_port(),
        tls_ca=own.tls_ca,
        tls_cert=own.tls_cert,
        tls_key=own.tls_key,
        log_level="warning",
    )
    with server([sys.executable, "-m", "bench.upload", "--serve", settings.model_dump_json()]):
        seconds = uvloop.run(measure_loupe(settings, paths, options.rounds))
    seconds["cp_and_sync"] = copy_and_sync(source, work, options.rounds)
    ratios = {
        "second_time_faster": round(seconds["first"] / seconds["second"], 1),
        "second_time_faster_after_hashing": round(seconds["first_after_hashing"] / seconds["second_after_hashing"], 1),
        "to_cp_and_sync": round(seconds["cp_and_sync"] / seconds["first"], 2),
    }
    if not options.no_mlflow:
        seconds["mlflow_log_artifacts"] = measure_mlflow(options.mlflow_python, source, work)
        ratios["to_mlflow"] = round(seconds["mlflow_log_artifacts"] / seconds["first"], 1)
    return {
        "pictures": len(paths),
        "megabytes": round(size / 1e6, 2),
        "seconds": {key: round(value, 4) for key, value in seconds.items()},
        "megabytes_per_second": {key: round(size / value / 1e6, 1) for key, value in seconds.items()},
        "ratio": ratios,
    }


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures; made by rule when not given")
    parser.add_argument("--pictures", type=int, default=1080)
    parser.add_argument("--rounds", type=int, default=3, help="of Loupe and of cp; MLflow is measured once")
    parser.add_argument("--no-mlflow", action="store_true")
    parser.add_argument("--mlflow-python", default=sys.executable, help="a Python that has mlflow")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(StorageSettings.model_validate_json(options.serve)))
        return
    with tempfile.TemporaryDirectory(prefix="loupe-bench-upload-") as work:
        print(json.dumps(measure(options, Path(work)), indent=2))


if __name__ == "__main__":
    main()
