"""A mesh for the benches that measure whole jobs: trainers on this machine, somebody logged in, a project."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from deploy.local.mesh import LocalMesh
from loupe.names import AccountName
from loupe.scheduler.v1 import cluster_pb2
from loupe.terminal.client import Terminal
from loupe.terminal.profile import Profile, ProfileStore

PROJECT = "bench"


@contextlib.contextmanager
def bench_mesh(trainers: tuple[tuple[str, str], ...] = (("north", "a"),)) -> Iterator[tuple[LocalMesh, Path]]:
    """Keep a mesh up while the block runs, with a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="loupe-bench-") as temporary:
        folder = Path(temporary)
        with LocalMesh(folder / "mesh", trainers=trainers, lifeline=True) as mesh:
            yield mesh, folder


@contextlib.asynccontextmanager
async def bench_terminal(mesh: LocalMesh, folder: Path) -> AsyncIterator[Terminal]:
    """Log the administrator in at a terminal, with a project of their own."""
    store = ProfileStore(folder / "profile.json")
    store.save(Profile(server=mesh.endpoints.auth, ca=mesh.endpoints.ca.read_text(encoding="utf-8")))
    async with Terminal.connect(store, retry_seconds=30) as terminal:
        await terminal.sessions.login(AccountName("admin"), mesh.endpoints.admin_password)
        await terminal.projects.create(PROJECT)
        yield terminal


async def wait_for_warm_slots(terminal: Terminal, seconds: float = 120) -> None:
    """Return when every trainer reports anew that its sandboxes wait and that nothing runs."""
    asked = time.time()
    async with asyncio.timeout(seconds):
        while True:
            clusters = (await terminal.clusters.list()).clusters
            if clusters and all(_waits(trainer, asked) for cluster in clusters for trainer in cluster.trainers):
                return
            await asyncio.sleep(0.1)


def _waits(trainer: cluster_pb2.Trainer, since: float) -> bool:
    reported = trainer.report_time.ToNanoseconds() / 1e9
    return reported > since and trainer.busy_slots == 0 and trainer.warm_slots == trainer.slots
