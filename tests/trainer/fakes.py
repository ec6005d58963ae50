"""Storage in memory, and a trainer small enough for a test: real sandboxes, real caches, no network."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from loupe.algorithm import image
from loupe.algorithm.region_file import no_regions
from loupe.annotations import Box
from loupe.errors import NotFound, StaleAttempt
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective
from services.trainer.attempts.attempt import StopReason
from services.trainer.attempts.attempts import Attempts
from services.trainer.attempts.events import Event
from services.trainer.attempts.spec import AttemptKey, AttemptSpec
from services.trainer.cache.decoders import Decoders
from services.trainer.cache.images import Images
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from services.trainer.clients.storage import LabelledDataset, LocalFile, StoredFile
from services.trainer.runs.executor import Executor
from services.trainer.runs.job_folder import Resources
from services.trainer.sandbox.bubblewrap import Bubblewrap
from services.trainer.sandbox.code_folder import make_code_folder
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.plain_process import PlainProcess
from services.trainer.sandbox.sandbox import Sandbox
from services.trainer.sandbox.slots import Slots
from services.trainer.sandbox.warm import SlotPlan

JOB = "projects/line-7/jobs/j1"
ALGORITHM = "algorithms/tiny/versions/1"
LIMITS = Limits(memory=1 << 30, processes=64, file=64 << 20, work=96 << 20, work_files=500, tmp=32 << 20, shm=32 << 20)

BARE_RUNNER = """
from loupe.algorithm.image import load_entry
from loupe.algorithm.manifest import read_manifest

def run_image(folder, host):
    load_entry(folder, read_manifest(folder).entry)(host)
"""

MANIFEST = """
name = "tiny"
version = "1"
task = "classification"
entry = "main:train"
licence = "Apache-2.0"
summary = "for tests"
[parameters.rounds]
type = "int"
default = 3
[parameters.weights]
type = "file"
"""


def picture(colour: int, size: int = 8, height: int | None = None) -> bytes:
    """Return a PNG of one grey, square unless its height is another."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, height or size), (colour, colour, colour)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class MemoryStorage:
    """Storage in memory; as real storage does, it refuses writers below its fence."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    algorithms: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, LabelledDataset] = field(default_factory=dict)
    checkpoints: dict[str, Any] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def add_dataset(self, name: str, colours: Sequence[int]) -> LabelledDataset:
        """Make a version of one picture per colour: labels "dark" and "light", every third for testing."""
        digests = []
        for colour in colours:
            data = picture(colour)
            digests.append(hashlib.sha256(data).hexdigest())
            self.pictures[digests[-1]] = data
        classes = np.array([colour > 127 for colour in colours], dtype=np.int32)
        splits = np.array([index % 3 for index in range(len(colours))], dtype=np.uint8)
        count = len(colours)
        self.datasets[name] = LabelledDataset(
            name,
            ("dark", "light"),
            classes,
            splits,
            digests,
            no_regions(),
            np.zeros(count, bool),
            np.full((count, 2), 8, np.int32),
        )
        return self.datasets[name]

    def add_annotated(self, name: str, boxes: Sequence[Box | None], splits: Sequence[int]) -> LabelledDataset:
        """Make a version of pictures of 16 x 8 with one box each, in turn of a "hole" and a "dent"; None is unlabelled.

        All pictures have the class "part", too; storage does not know the size of the first one.
        """
        files = [picture(colour, 16, 8) for colour in range(len(boxes))]
        digests = [hashlib.sha256(data).hexdigest() for data in files]
        self.pictures.update(zip(digests, files, strict=True))
        rows = [row for row, each in enumerate(boxes) if each is not None]
        there = np.array([each for each in boxes if each is not None], np.float32)
        sizes = np.array([[16, 8]] * len(boxes), np.int32)
        sizes[0] = 0
        looked_at = np.isin(np.arange(len(boxes)), rows)
        self.datasets[name] = LabelledDataset(
            name,
            ("dent", "hole", "part"),
            np.full(len(boxes), 2, np.int32),
            np.array(splits, np.uint8),
            digests,
            Regions(np.array(rows), np.array([1 - row % 2 for row in rows]), there),
            looked_at,
            sizes,
        )
        return self.datasets[name]

    def add_image(self, folder: Path, code: str, task: str = "classification") -> str:
        """Pack an image of a task with this code as the algorithm version, and return its digest."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "algorithm.toml").write_text(MANIFEST.replace("classification", task))
        (folder / "main.py").write_text(textwrap.dedent(code))
        packed = image.pack(folder)
        digest = self.algorithms[ALGORITHM] = image.digest(packed)
        self.images[digest] = packed
        return digest

    def of(self, job: str, attempt: int, token: Callable[[], str]) -> MemoryAttempt:
        return MemoryAttempt(self, job, attempt)


@dataclass
class MemoryAttempt:
    """MemoryStorage as one attempt sees it."""

    storage: MemoryStorage
    job: str
    attempt: int

    async def dataset(self, version: str) -> LabelledDataset:
        return self.storage.datasets[version]

    async def image(self, version: str) -> bytes:
        return self.storage.images[self.storage.algorithms[version]]

    async def fetch(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        for digest in digests:
            self.storage.fetched.append(digest)
            await asyncio.sleep(0)
            yield digest, self.storage.pictures[digest]

    async def file(self, digest: str, target: Path) -> None:
        if digest not in self.storage.files:
            raise NotFound(f"no file {digest}")
        await asyncio.to_thread(target.write_bytes, self.storage.files[digest])

    async def save_checkpoint(self, files: Sequence[LocalFile]) -> None:
        self._check_fence()
        content = {file.filename: file.path.read_bytes() for file in files}
        self.storage.checkpoints[self.job] = (self.attempt, content)

    async def load_checkpoint(self, folder: Path) -> str:
        kept = self.storage.checkpoints.get(self.job)
        if kept is None:
            return ""
        await asyncio.to_thread(folder.mkdir)
        for name, data in kept[1].items():
            await asyncio.to_thread((folder / name).write_bytes, data)
        return kept[2] if len(kept) > 2 else self.job

    async def save_artifacts(self, files: Sequence[LocalFile]) -> tuple[StoredFile, ...]:
        self._check_fence()
        for file in files:
            self.storage.files[file.digest] = file.path.read_bytes()
        return tuple(StoredFile(file.filename, file.digest, file.size) for file in files)

    def _check_fence(self) -> None:
        if self.attempt < self.storage.fences.get(self.job, 0):
            raise StaleAttempt(f"{self.job} attempt {self.attempt} is too old")


class FakeClock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class CountingSource:
    """Gives pictures, and counts."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = {hashlib.sha256(data).hexdigest(): data for data in files}
        self.digests = list(self.files)
        self.fetched = 0

    async def fetch(self, digests) -> AsyncIterator[tuple[str, bytes]]:
        for digest in digests:
            self.fetched += 1
            await asyncio.sleep(0)
            yield digest, self.files[digest]


def spec(attempt: int = 1, job: str = "j1", **changes: Any) -> AttemptSpec:
    """Return an attempt at a job of line-7."""
    values: dict[str, Any] = {
        "key": AttemptKey(f"projects/line-7/jobs/{job}", attempt),
        "dataset_version": "projects/line-7/datasets/screws/versions/1",
        "algorithm_version": ALGORITHM,
        "algorithm_digest": "a" * 64,
        "objective": Objective("accuracy", 0.9),
        "storage_token": "secret",
    } | changes
    return AttemptSpec(**values)


@dataclass
class Rig:
    """A trainer without its doors."""

    folder: Path
    storage: MemoryStorage
    slots: Slots
    pictures: PictureCache
    attempts: Attempts

    def spec(self, code: str, attempt: int = 1, task: str = "classification", **changes: Any) -> AttemptSpec:
        """Return an attempt at JOB that runs `code`, an image of a task, on six pictures."""
        name = "projects/line-7/datasets/screws/versions/1"
        if name not in self.storage.datasets:
            self.storage.add_dataset(name, [0, 200, 30, 220, 60, 240])
        spec = AttemptSpec(
            key=AttemptKey(JOB, attempt),
            dataset_version=name,
            algorithm_version=ALGORITHM,
            algorithm_digest=self.storage.add_image(self.folder / "source", code, task),
            objective=Objective("accuracy", 0.9),
            storage_token="secret",
            built_in=True,
        )
        return replace(spec, **changes)

    async def run(self, code: str, **changes: Any) -> list[Event]:
        """Start an attempt, and return all its events when it is over."""
        spec = self.spec(code, **changes)
        self.attempts.start(spec, 60)
        return await self.events(spec.key)

    async def events(self, key: AttemptKey, until: type | None = None) -> list[Event]:
        """Return an attempt's events to the last, or to the first of a kind."""
        seen: list[Event] = []
        async with asyncio.timeout(60):
            async for event in self.attempts.watch(key, 0):
                seen.append(event)
                if until is not None and isinstance(event.what, until):
                    break
        return seen


def make_sandbox(kind: str, folder: Path) -> Sandbox:
    """Make a sandbox whose code folder also has the bare runner."""
    code = make_code_folder(folder / "code")
    (code / "bare_runner.py").write_text(BARE_RUNNER)
    (code / "bare_runner.py").chmod(0o644)
    if kind == "plain":
        return PlainProcess(code)
    return Bubblewrap(code, folder / "seccomp.bpf", 300_000 + os.getpid() % 10_000 * 16)


@asynccontextmanager
async def make_rig(
    sandbox: Sandbox,
    folder: Path,
    *,
    count: int = 1,
    warm: int = 0,
    limits: Limits = LIMITS,
    grace: float = 5.0,
    plan: SlotPlan | None = None,
    clock=time.monotonic,
) -> AsyncIterator[Rig]:
    """Put a trainer together, and take it apart again."""
    storage = MemoryStorage()
    plan = plan or SlotPlan(count=count, warm=warm, limits=limits, runner="bare_runner:run_image")
    slots = Slots(sandbox, folder / "slots", plan, clock)
    decoders = Decoders(sandbox, folder / "decoders", plan.count, 1)
    packs = PackCache(folder / "packs", 1 << 30)
    pictures = PictureCache(folder / "arrays", packs, decoders, 1 << 30)
    executor = Executor(
        storage=storage,
        slots=slots,
        images=Images(folder / "images"),
        pictures=pictures,
        staging=folder / "staging",
        resources=Resources(threads=1, device="cpu"),
        limits=limits,
        clock=clock,
    )
    attempts = Attempts(
        executor.execute,
        slots=plan.count,
        isolated=sandbox.isolated,
        grace=grace,
        clock=clock,
        now=lambda: datetime.now(UTC),
    )
    slots.start()
    ticking = asyncio.create_task(attempts.keep_time())
    try:
        yield Rig(folder, storage, slots, pictures, attempts)
    finally:
        for attempt in attempts.live:
            attempt.stop(StopReason.DRAINING, 0)
        await attempts.drain()
        ticking.cancel()
        await slots.close()
        await decoders.close()


def alive(process: psutil.Process) -> bool:
    """Return whether a process can still do something."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def eventually(condition, seconds: float = 20.0) -> None:
    """Return when the condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
