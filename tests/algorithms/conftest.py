"""Tiny pictures, tiny networks and a host that can fail on command, for tests of algorithms and their SDK."""

from __future__ import annotations

import logging
import os

from loupe.algorithm.process import training_environment

os.environ.update(training_environment(threads=1))  # before torch is loaded

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe.algorithm import quantization
from loupe.algorithm.context import run_image
from loupe.algorithm.host import Progress, Result
from loupe.algorithm.local import LocalHost, PictureFolder, local_spec, read_folder
from loupe.algorithm.manifest import read_manifest, resolve_parameters
from loupe.tasks import TASKS
from loupe.tasks.objective import Objective

IMAGES = Path(__file__).parents[2] / "services" / "trainer" / "algorithms"
CLASSIFICATION = TASKS["classification"]
SIDE = 32


class Cut(BaseException):
    """Stands for a process that is killed: nothing in the run may catch it."""


def texture(kind: int, rng: np.random.Generator, noise: float = 25.0) -> np.ndarray:
    """Return uint8 [32, 32, 3]: stripes, checks or blobs with their own tint, and noise."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    phase = rng.integers(0, 8)
    pattern = (
        np.sin((rows + phase) * 1.1),
        np.sign(np.sin((rows + phase) * 0.6) * np.sin((columns + phase) * 0.6)),
        np.cos(np.hypot(rows - 16 + phase, columns - 16) * 0.5),
    )[kind % 3]
    tint = np.array([(60, 20, 20), (20, 60, 20), (20, 20, 60)][kind % 3])
    pixels = 120 + pattern[..., None] * tint + rng.normal(0, noise, (SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write_pictures(root: Path, counts: Mapping[str, int], *, seed: int = 0, scrambled: bool = False) -> Path:
    """Make a folder per class of textures; scrambled: textures that say nothing about the class."""
    rng = np.random.default_rng(seed)
    for kind, (label, count) in enumerate(counts.items()):
        (root / label).mkdir(parents=True)
        for number in range(count):
            drawn = int(rng.integers(0, 3)) if scrambled else kind
            Image.fromarray(texture(drawn, rng)).save(root / label / f"{number:03}.png")
    return root


@dataclass
class Recorder:
    """Keeps what a run tells its host; raises Cut when `cut_after` says so."""

    cut_after: Callable[[Progress], bool] = lambda progress: False
    stop_after: Callable[[Progress], bool] = lambda progress: False
    reports: list[Progress] = field(default_factory=list)
    stopping: bool = False

    def __call__(self, progress: Progress) -> None:
        self.reports.append(progress)
        self.stopping = self.stopping or self.stop_after(progress)
        if self.cut_after(progress):
            raise Cut

    def phases(self) -> list[str]:
        """Return the phases in the order in which they began."""
        return list(dict.fromkeys(report.phase for report in self.reports))


class RecordingHost(LocalHost):
    """A LocalHost that a Recorder can stop."""

    def __init__(self, recorder: Recorder, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, show=recorder, **named)
        self._recorder = recorder

    def stop_requested(self) -> bool:
        return self._recorder.stopping


@dataclass
class Bench:
    """Runs the built-in images on picture folders inside a test's own folder."""

    tmp: Path

    def host(
        self,
        image: str,
        folder: PictureFolder,
        *,
        target: float,
        metric: str = "accuracy",
        recorder: Recorder | None = None,
        work: str = "run",
        parameters: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> RecordingHost:
        """Return a host for one run of a built-in image."""
        resolved = resolve_parameters(read_manifest(IMAGES / image), parameters or {})
        asked = local_spec(folder, resolved, Objective(metric, target), **{"seed": 7, "threads": 1, **spec})
        return RecordingHost(recorder or Recorder(), folder, asked, work=self.tmp / work, cache=self.tmp / "cache")

    def run(self, image: str, folder: PictureFolder, **named: Any) -> Result:
        """Run an image to its end and return what it handed over."""
        host = self.host(image, folder, **named)
        run_image(IMAGES / image, host)
        assert host.result is not None
        return host.result


@pytest.fixture(scope="session", autouse=True)
def quiet_exports() -> None:
    """Keep pytest from collecting torch's trace of every export, which takes longer than the export."""
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the INT8 model out, however long a run takes here: its own tests make it."""
    monkeypatch.setattr(quantization, "SHORTEST_RUN_SECONDS", float("inf"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Run images in the test's folder."""
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    """Make three classes of twenty pictures, 32 x 32, easy to tell apart."""
    root = tmp_path_factory.mktemp("textures")
    return read_folder(write_pictures(root, {"stripes": 20, "checks": 20, "blobs": 20}))
