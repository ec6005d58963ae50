"""A whole mesh of real processes on free ports, people at terminals, and small pictures that can be told apart."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.local.mesh import LocalMesh
from loupe.names import AccountName, DatasetName
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2, model_pb2
from loupe.terminal.client import Terminal
from loupe.terminal.profile import Profile, ProfileStore

BLOTS = "斑点 A"
OpenTerminal = Callable[..., AbstractAsyncContextManager[Terminal]]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Two clusters of one trainer each."""
    mesh = LocalMesh(
        tmp_path_factory.mktemp("mesh"),
        trainers=[("north", "a"), ("south", "b")],
        environment={"LOUPE_LOAD_THRESHOLD": "1"},  # what else this machine is busy with is not what is tested
        lifeline=True,
    )
    with mesh:
        yield mesh


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """The passwords of the accounts that tests created, by account id."""
    return {}


@pytest.fixture(scope="session")
def terminal(mesh: LocalMesh, passwords: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> OpenTerminal:
    """A function that opens a terminal with somebody logged in; the administrator by default."""
    folder = tmp_path_factory.mktemp("profiles")

    @contextlib.asynccontextmanager
    async def open_terminal(account: str = "admin") -> AsyncIterator[Terminal]:
        store = ProfileStore(folder / f"{secrets.token_hex(6)}.json")
        store.save(Profile(server=mesh.endpoints.auth, ca=mesh.endpoints.ca.read_text(encoding="utf-8")))
        password = mesh.endpoints.admin_password if account == "admin" else passwords[account]
        async with Terminal.connect(store, retry_seconds=30) as terminal:
            await terminal.sessions.login(AccountName(account), password)
            yield terminal

    return open_terminal


@pytest.fixture
async def project(terminal: OpenTerminal) -> str:
    """A new project of the administrator's, "projects/…"."""
    name = f"p{secrets.token_hex(6)}"
    async with terminal() as administrator:
        return (await administrator.projects.create(name)).name


@pytest.fixture
def hire(terminal: OpenTerminal, passwords: dict[str, str], project: str) -> Callable:
    """A function that creates an account in a group, of the project if no other is named, and returns its id."""

    async def create(group: str, where: str = project) -> str:
        account = f"a{secrets.token_hex(6)}"
        passwords[account] = secrets.token_urlsafe(12)
        async with terminal() as administrator:
            await administrator.accounts.create(account, passwords[account], f"{where}/groups/{group}")
        return account

    return create


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 photographs-to-be, 64x64: stripes across, stripes along, and blots (斑点 A), all noisy."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:64, 0:64]
    for label in ("across", "along", BLOTS):
        (folder / label).mkdir()
        for number in range(40):
            phase, period = random.uniform(0, 6.3), random.uniform(6, 12)
            wave = {
                "across": np.sin(rows * 6.3 / period + phase),
                "along": np.sin(columns * 6.3 / period + phase),
                BLOTS: np.sin(rows * 6.3 / period + phase) * np.sin(columns * 6.3 / period + phase),
            }[label]
            grey = 128 + 70 * wave + random.normal(0, 20, (64, 64))
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / label / f"{number:03d}.png")
    return folder


async def push(terminal: Terminal, project: str, pictures: Path) -> dataset_pb2.DatasetVersion:
    """push makes a version of a folder, split by storage."""
    name = DatasetName(project.removeprefix("projects/"), "parts")
    split = dataset_pb2.SplitPolicy(train_fraction=0.6, validation_fraction=0.2, test_fraction=0.2, seed=1)
    return (await terminal.datasets.push(name, pictures, split=split)).version


async def train(
    terminal: Terminal, version: str, **asked: Any
) -> tuple[training_job_pb2.TrainingJob, list[training_job_pb2.JobEvent]]:
    """train submits a job, follows it to its end and returns it with everything that was told of it."""
    job = await terminal.jobs.submit(version, **{"target": 0.9, "seed": 1, **asked})
    events = [event async for event in terminal.jobs.watch(job.name)]
    return await terminal.jobs.get(job.name), events


@dataclass(frozen=True)
class Trained:
    """Trained is one job that was run from beginning to end, and all that a terminal can see of it."""

    project: str
    version: dataset_pb2.DatasetVersion
    items: list[dataset_pb2.DatasetItem]
    job: training_job_pb2.TrainingJob
    events: list[training_job_pb2.JobEvent]
    model: model_pb2.ModelVersion
    folder: Path

    @property
    def placement(self):
        """placement is why the trainer was chosen."""
        return next(event.placement for event in self.events if event.WhichOneof("event") == "placement")


@pytest.fixture(scope="session")
def trained(terminal: OpenTerminal, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One whole job on the pictures: uploaded, trained to 90 %, pulled."""

    async def run() -> Trained:
        async with terminal() as owner:
            project = (await owner.projects.create(f"p{secrets.token_hex(6)}")).name
            version = await push(owner, project, pictures)
            job, events = await train(owner, version.name, model=f"{project}/models/textures")
            items = [item async for item in owner.datasets.items(version.name)]
            model = await owner.models.version(job.result.model_version)
            pulled = await owner.models.pull(model.name, tmp_path_factory.mktemp("model") / "m")
            return Trained(project, version, items, job, events, model, pulled.folder)

    return asyncio.run(run())
