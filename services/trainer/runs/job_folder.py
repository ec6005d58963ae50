"""A run's data folder: all that a run may read, put there by the trainer and read-only inside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.host import Split
from loupe.algorithm.region_file import no_regions, write_regions
from loupe.tasks.average_precision import Regions
from loupe.tasks.task import Task
from services.trainer.attempts.spec import AttemptSpec
from services.trainer.cache.pictures import link_or_copy
from services.trainer.runs.task_data import NO_CLASS, TaskData

ALGORITHM, CHECKPOINT, WEIGHTS = "algorithm", "checkpoint", "weights"
TEST_CLASSES, TEST_REGIONS = "test_classes.npy", "test_regions.npy"


@dataclass(frozen=True)
class Resources:
    """What a trainer gives a run: CPU threads, and "cpu" or "cuda"."""

    threads: int
    device: str


class JobFolder:
    """Fills the data folder of a sandbox in the layout that loupe.algorithm.pipe reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(
        self,
        spec: AttemptSpec,
        parameters: Mapping[str, Any],
        weights: Mapping[str, str],
        dataset: TaskData,
        resources: Resources,
        *,
        task: Task,
        resumes: bool = False,
    ) -> None:
        """Put the run's description there; the labels and regions of test pictures are withheld.

        weights: file below this folder by parameter name. resumes: whether the checkpoint is another job's.
        """
        job = {
            "dataset": dataset.name,
            "labels": list(dataset.labels),
            "parameters": dict(parameters),
            "weights": dict(weights),
            "objective": asdict(spec.objective),
            "seed": spec.seed,
            "threads": resources.threads,
            "device": resources.device,
            "max_seconds": spec.max_seconds,
            "max_epochs": spec.max_epochs,
            "resumes": resumes,
            "kind": str(spec.kind),
            "task": task.name,
        }
        withheld = np.where(dataset.splits == Split.TEST, NO_CLASS, dataset.classes).astype(np.int32)
        digests = np.frombuffer(bytes.fromhex("".join(dataset.digests)), np.uint8).reshape(-1, 32)
        (self.path / "job.json").write_text(json.dumps(job), encoding="utf-8")
        np.save(self.path / "classes.npy", withheld)
        np.save(self.path / "splits.npy", dataset.splits.astype(np.uint8))
        np.save(self.path / "digests.npy", digests)
        regions = dataset.regions or no_regions()
        write_regions(self.path / "regions.npy", regions.where(dataset.splits[regions.pictures] != Split.TEST))

    def put_image(self, image: Path) -> None:
        """Link an unpacked algorithm image into the folder."""
        shutil.copytree(image, self.path / ALGORITHM, copy_function=_link)
        # mkdtemp gave the folder to its owner alone.
        (self.path / ALGORITHM).chmod(0o755)

    def put_weights(self, parameter: str, file: Path) -> str:
        """Link an uploaded file into the folder, and return where."""
        name = f"{WEIGHTS}/{parameter}.safetensors"
        (self.path / WEIGHTS).mkdir(exist_ok=True)
        link_or_copy(file, self.path / name)
        return name

    def reveal_classes(self, classes: np.ndarray) -> str:
        """Write every picture's class into the folder, and return the file's name."""
        return self._reveal(TEST_CLASSES, lambda path: np.save(path, classes.astype(np.int32)))

    def reveal_regions(self, regions: Regions) -> str:
        """Write every picture's regions into the folder, and return the file's name."""
        return self._reveal(TEST_REGIONS, lambda path: write_regions(path, regions))

    def _reveal(self, name: str, write: Callable[[Path], None]) -> str:
        partial = self.path / "revealing.npy"
        write(partial)
        partial.rename(self.path / name)
        return name


def _link(source: str, target: str) -> str:
    link_or_copy(Path(source), Path(target))
    os.chmod(target, 0o644)  # noqa: PTH101 - copytree speaks text
    return target
