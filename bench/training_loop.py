"""How much of a training step's speed the whole training loop keeps: pictures from the cache, augmentation, reports.

    python -m bench.training_loop [--threads 2] [--rounds 5] [--contended]

Compares epochs of loupe.algorithm.training over a memory-mapped picture file with the same optimizer step on tensors
that are in memory already, in turns, and prints one JSON object; ratio is the median over the rounds. --contended runs
both with one thread and adds the loop's speed while another process keeps one core busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.figures import median_ratio
from loupe.algorithm.host import DatasetIndex, Progress, Result, RunSpec, Split
from loupe.algorithm.process import restart_for_training
from loupe.letterbox import Fit
from loupe.tasks import TASKS
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective

SIZE, BATCH, STEPS = 64, 32, 12
# Ends with its parent, so that a bench that is killed leaves no core busy.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


class CachedPictures:
    """A `Host` with random pictures in a .npy file, and nobody who listens."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        count = BATCH * STEPS + BATCH
        rng = np.random.default_rng(0)
        np.save(folder / "pictures.npy", rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))
        splits = np.full(count, Split.TRAIN, dtype=np.uint8)
        splits[-BATCH:] = Split.VALIDATION
        classes = rng.integers(0, 6, count).astype(np.int32)
        labels = [f"class {number}" for number in range(6)]
        self._index = DatasetIndex("random", labels, classes, splits, [""] * count)

    @property
    def work(self) -> Path:
        return self._folder

    def spec(self) -> RunSpec:
        return RunSpec({}, Objective("accuracy", 1.0), self._index, threads=self._threads)

    def pictures(self, height: int, width: int, fit: Fit = "stretch") -> Path:
        return self._folder / "pictures.npy"

    def reveal_test(self, answers: np.ndarray) -> np.ndarray:
        return self._index.classes

    def reveal_test_regions(self, found: Regions) -> Regions:
        return self._index.regions

    def hand_over_answers(self, found: Regions) -> None:
        raise NotImplementedError("nothing is answered here")

    def report(self, progress: Progress) -> None:
        json.dumps(dict(progress.metrics))

    def log(self, text: str) -> None:
        print(text, file=sys.stderr)

    def save_checkpoint(self, folder: Path) -> None:
        pass

    def restore_checkpoint(self) -> Path | None:
        return None

    def stop_requested(self) -> bool:
        return False

    def finish(self, result: Result) -> None:
        pass


def pictures_per_second(work: Callable[[], None]) -> float:
    """Time one pass over all training pictures."""
    began = time.perf_counter()
    work()
    return BATCH * STEPS / (time.perf_counter() - began)


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contended", action="store_true")
    options = parser.parse_args()
    restart_for_training("bench.training_loop", options.threads)
    import torch
    import torchvision

    from loupe.algorithm.context import Context
    from loupe.algorithm.plan import TrainingPlan
    from loupe.algorithm.training import TrainingLoop

    threads = 1 if options.contended else options.threads
    rates: dict[str, list[float]] = {"in_memory": [], "loop": [], "loop_contended": []}
    with tempfile.TemporaryDirectory(prefix="loupe-bench-") as folder:
        context = Context(CachedPictures(Path(folder), threads), TASKS["classification"])
        network = torchvision.models.resnet18(weights=None, num_classes=6)
        loop = TrainingLoop(context, network, TrainingPlan(size=SIZE, epochs=1000, batch_size=BATCH))
        torch.set_num_threads(loop.threads)
        batches = list(loop.batches(1))

        def in_memory() -> None:
            network.train()
            for pictures, classes in batches:
                loop.step(pictures, classes)

        in_memory()
        for _ in range(options.rounds):
            rates["in_memory"].append(pictures_per_second(in_memory))
            rates["loop"].append(pictures_per_second(loop.train_epoch))
            if options.contended:
                busy = subprocess.Popen([sys.executable, "-c", BUSY])
                try:
                    rates["loop_contended"].append(pictures_per_second(loop.train_epoch))
                finally:
                    busy.kill()
                    busy.wait()

    found: dict[str, object] = {
        "threads": threads,
        "pictures_per_second": {name: round(statistics.median(seen)) for name, seen in rates.items() if seen},
        "ratio": median_ratio(rates["loop"], rates["in_memory"]),
        "ratio_wanted": 0.9,
    }
    if options.contended:
        contended = median_ratio(rates["loop_contended"], rates["loop"])
        found |= {"contended_ratio": contended, "contended_ratio_wanted": 0.85}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
