"""How fast the image `detect` learns, beside a plain script with the same network, loss, batches and pictures.

    python -m bench.detection_loop [--threads 2] [--rounds 7] [--size 160]

The image runs epochs of its own `Training`: pictures from a memory-mapped file, changed by the batch, an average of the
weights, reports, looks at clock and host. The plain script changes each picture with torchvision.transforms.v2, then
does forward, loss, backward and step; a third way has the changed batches ready, and shows what is left to gain. They
take turns in one process. Prints one JSON object; ratios are medians over the rounds, of CPU time where
there is one thread, else of the clock.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import median_ratio
from bench.training_loop import CachedPictures
from loupe.algorithm.host import DatasetIndex, RunSpec, Split
from loupe.algorithm.image import load_entry
from loupe.algorithm.manifest import read_manifest, resolve_parameters
from loupe.algorithm.process import restart_for_training
from loupe.tasks import TASKS
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective

DETECT = Path(__file__).parents[1] / "services" / "trainer" / "algorithms" / "detect"
BATCH, STEPS, BOXES, CLASSES = 16, 8, 3, 6
WANTED = 0.9


class CachedBoxes(CachedPictures):
    """A `Host` with random pictures in a .npy file, BOXES random boxes in each, and nobody who listens."""

    def __init__(self, folder: Path, threads: int, size: int) -> None:
        self._folder, self._threads = folder, threads
        rng = np.random.default_rng(0)
        count = BATCH * STEPS + BATCH
        np.save(folder / "pictures.npy", rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
        splits = np.full(count, Split.TRAIN, dtype=np.uint8)
        splits[-BATCH:] = Split.VALIDATION
        corners = rng.uniform(0, 0.6, (count * BOXES, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, corners.shape)], axis=1, dtype=np.float32)
        regions = Regions(np.arange(count).repeat(BOXES), rng.integers(0, CLASSES, count * BOXES), boxes)
        labels = [f"class {number}" for number in range(CLASSES)]
        self._index = DatasetIndex("random", labels, np.full(count, -1, np.int32), splits, [""] * count, regions)

    def spec(self) -> RunSpec:
        parameters = resolve_parameters(read_manifest(DETECT), {"batch_size": BATCH})
        return RunSpec(parameters, Objective("map50", 1.0), self._index, threads=self._threads)


def part_of_detect(name: str) -> Any:
    """Return a module of the image."""
    package = load_entry(DETECT, "main:train").__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}")


def plain_epoch(network: Any, pictures: np.ndarray, regions: Regions) -> Callable[[], None]:
    """Return what trains a network once on all pictures but the last batch, as a script of torchvision would."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from loupe.algorithm.precision import autocast

    trunk, detection_loss = part_of_detect("trunk"), part_of_detect("loss").detection_loss
    how, fill = part_of_detect("augment").Changes(), 114
    size, device = network.size, torch.device("cpu")
    samples = []
    for row, pixels in enumerate(pictures[: BATCH * STEPS]):
        own = regions.pictures == row
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(regions.boxes[own]) * size, format="XYXY", canvas_size=(size, size)
        )
        known = {"boxes": boxes, "labels": torch.from_numpy(regions.classes[own])}
        samples.append((tv_tensors.Image(torch.tensor(pixels).permute(2, 0, 1).contiguous()), known))
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine(0, translate=(0.07, 0.07), scale=(1 / how.zoom, how.zoom), fill=fill),
            v2.ColorJitter(brightness=how.brightness, contrast=how.contrast),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(trunk.MEAN, trunk.STD),
        ]
    )
    learned = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.05, fused=True)

    def epoch() -> None:
        network.train()
        for batch in torch.split(torch.randperm(len(samples)), BATCH):
            changed, truth = zip(*(change(*samples[row]) for row in batch.tolist()), strict=True)
            with autocast(device):
                stacked = torch.stack(changed).contiguous(memory_format=torch.channels_last)
                logits, boxes = network.raw(stacked.as_subclass(torch.Tensor))
            known = [(each["boxes"].as_subclass(torch.Tensor), each["labels"]) for each in truth]
            loss = detection_loss(logits, boxes, network.points, known)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 10.0)
            optimizer.step()

    return epoch


def pictures_per_second(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time one pass over all training pictures."""
    began = clock()
    work()
    return BATCH * STEPS / (clock() - began)


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=160)
    options = parser.parse_args()
    restart_for_training("bench.detection_loop", options.threads)
    import torch

    from loupe.algorithm.context import Context

    training, variant = part_of_detect("training"), part_of_detect("variants").LIGHT
    with tempfile.TemporaryDirectory(prefix="loupe-bench-") as folder:
        host = CachedBoxes(Path(folder), options.threads, options.size)
        context = Context(host, TASKS["detection"])
        torch.manual_seed(0)
        ours = variant.build(options.size, CLASSES)
        theirs = copy.deepcopy(ours).to(memory_format=torch.channels_last)
        changes = part_of_detect("augment").Changes()
        loop = training.Training(context, ours, training.Plan(variant.name, 1000, BATCH, 1e-4, changes))
        batches = list(loop.batches(1))

        def ready() -> None:
            ours.train()
            for pictures, truth in batches:
                loop.step(pictures, truth)

        ways: dict[str, Callable[[], object]] = {
            "loop": loop.train_epoch,
            "plain": plain_epoch(theirs, context.data.letterboxed(options.size), context.data.regions),
            "ready": ready,
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        # One thread's CPU time is what others do not slow; that of several has no waiting for each other in it.
        clock = time.process_time if options.threads == 1 else time.perf_counter
        for _ in range(options.rounds):
            for name, way in ways.items():
                rates[name].append(pictures_per_second(way, clock))
    found = {
        "threads": options.threads,
        "size": options.size,
        "pictures_per_second": {name: round(statistics.median(seen), 1) for name, seen in rates.items()},
        "ratio": median_ratio(rates["loop"], rates["plain"]),
        "ratio_wanted": WANTED,
        "ratio_of_ready_batches": median_ratio(rates["loop"], rates["ready"]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
