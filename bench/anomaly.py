"""How well bad pictures are told from good ones by what was learned from good ones alone, beside plain ways.

    python -m bench.anomaly [--data FOLDER] [--good CLASS ...] [--split test] [--seed 0] [--size 128] [--threads 1]

FOLDER holds splits.csv (path,label,split) and the pictures that it names; without it, tiles of photographs are made.
Each class in turn is that of the good parts, all others are bad. Every way sees the training pictures of the good class
only, and is judged by AUROC on the split.
`inspector` is what the image `anomaly` makes; `farthest_patch` is the largest distance of a patch alone, `whole_knn`
and `whole_mahalanobis` take the means of the same maps, `last_knn` and `last_mahalanobis` the pooled features of the
whole network. `flaws` are figures of a second question: drawn parts, of which the bad ones have one small spot. Also
times the exported model, a picture at a time. Prints one JSON object; ends with 1 where the mean of `inspector` is
below 0.97, or a picture takes more than 20 ms at 128 pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.neu_baseline import SPLITS
from loupe.algorithm.process import restart_for_training

WANTED, MILLISECONDS, TIMED = 0.97, 20.0, 50
LEARNED, FLAWED = 100, 60


@dataclass(frozen=True)
class Seen:
    """What the networks see in M pictures: patches [M, P, D], their mean over the map [M, D], last features [M, F]."""

    patches: np.ndarray
    wholes: np.ndarray
    last: np.ndarray

    def of(self, rows: np.ndarray) -> Seen:
        """Return the same of some of the pictures."""
        return Seen(self.patches[rows], self.wholes[rows], self.last[rows])


def read(root: Path, size: int, wanted: Callable[[str, int], bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels uint8 [M, size, size, 3], labels and splits of the pictures whose label and split are wanted."""
    import csv

    from loupe.picture import decode

    with (root / "splits.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if wanted(row["label"], SPLITS[row["split"]])]
    pixels = np.stack([decode((root / row["path"]).read_bytes(), size, size) for row in rows])
    return pixels, np.array([row["label"] for row in rows]), np.array([SPLITS[row["split"]] for row in rows])


def parts(count: int, size: int, seed: int) -> np.ndarray:
    """Draw grey discs with holes, each turned, moved, lit and noisy in its own way: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    drawn = np.empty((count, size, size, 3), np.uint8)
    for number in range(count):
        middle, turn = rng.normal(0, 0.01, 2), rng.uniform(0, np.pi / 3)
        row, column = rows - middle[0], columns - middle[1]
        grey = 60 + 20 * rows
        holes = [(0.27 * np.sin(turn + k * np.pi / 3), 0.27 * np.cos(turn + k * np.pi / 3), 0.04, 45) for k in range(6)]
        for down, right, radius, level in ((0, 0, 0.4, 150), (0, 0, 0.12, 50), *holes):
            inside = ((radius - np.hypot(row - down, column - right)) * size).clip(0, 1)
            grey = grey * (1 - inside) + level * inside
        lit = grey * rng.uniform(0.95, 1.05) + rng.normal(0, 3, grey.shape)
        drawn[number] = lit.clip(0, 255).astype(np.uint8)[..., None]
    return drawn


def spotted(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return pictures with a soft ellipse each, 4 to 12 % of the side long, 60 levels brighter or darker."""
    rng = np.random.default_rng(seed)
    side = pixels.shape[1]
    rows, columns = np.mgrid[:side, :side]
    spots = np.empty((len(pixels), side, side, 1), np.float32)
    for number in range(len(pixels)):
        row, column = rng.uniform(0.15 * side, 0.85 * side, 2)
        long, short, turn = rng.uniform(0.02, 0.06) * side, 0.015 * side, rng.uniform(0, np.pi)
        along = (columns - column) * np.cos(turn) + (rows - row) * np.sin(turn)
        across = (rows - row) * np.cos(turn) - (columns - column) * np.sin(turn)
        strength = np.exp(-(((along / long) ** 2 + (across / short) ** 2) ** 2))
        spots[number] = strength[..., None] * rng.choice([-60, 60])
    return (pixels + spots).clip(0, 255).astype(np.uint8)


class Networks:
    """The image's trunk and the whole network, both by onnxruntime."""

    def __init__(self, size: int, threads: int) -> None:
        import torch

        from bench.neu_baseline import pretrained as whole_network
        from loupe.algorithm.export import Preprocessing, export_onnx
        from loupe.algorithm.onnx_model import OnnxModel
        from services.trainer.algorithms.anomaly.trunk import Flat, pretrained

        self.trunk = pretrained("tf_efficientnet_lite0")
        self.preprocessing = Preprocessing(size, size, self.trunk.mean, self.trunk.std)
        with torch.inference_mode():
            self.depth, self.grid, _ = self.trunk(torch.zeros(1, 3, size, size))[0].shape[1:]
        networks = Flat(self.trunk), whole_network()
        self._flat, self._last = (
            OnnxModel(export_onnx(each, self.preprocessing, "features"), threads) for each in networks
        )

    def see(self, pixels: np.ndarray) -> Seen:
        """Return what there is in pictures, uint8 [M, size, size, 3]."""
        every = np.arange(len(pixels))
        flat = self._flat.predict(pixels, every)
        patches = flat[:, : -self.depth].reshape(len(pixels), self.depth, self.grid**2).transpose(0, 2, 1)
        return Seen(np.ascontiguousarray(patches), flat[:, -self.depth :], self._last.predict(pixels, every))


def mahalanobis(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return distances from the mean of known rows [K, F], in their covariance, shrunk as Ledoit and Wolf do."""
    from sklearn.covariance import LedoitWolf

    found: np.ndarray = LedoitWolf().fit(known.astype(np.float64)).mahalanobis(asked.astype(np.float64))
    return found


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return distances to the nearest of known rows [K, F]."""
    import torch

    return torch.cdist(torch.from_numpy(asked), torch.from_numpy(known)).min(dim=1).values.numpy()


def scores(networks: Networks, known: Seen, asked: Seen, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each way's scores of the asked pictures, by what it learned of the known ones."""
    import torch

    from services.trainer.algorithms.anomaly.memory import Inspector, remember

    generator = torch.Generator().manual_seed(seed)
    memory = remember(
        torch.from_numpy(known.patches), torch.from_numpy(known.wholes), networks.trunk.depths, 1000, generator
    )
    inspector = Inspector(networks.trunk, memory, networks.grid)
    with torch.inference_mode():
        found, heat = inspector.compare(torch.from_numpy(asked.patches), torch.from_numpy(asked.wholes))
    yield "inspector", found.numpy()
    yield "farthest_patch", heat.amax(dim=1).numpy()
    yield "whole_knn", nearest(known.wholes, asked.wholes)
    yield "whole_mahalanobis", mahalanobis(known.wholes, asked.wholes)
    yield "last_knn", nearest(known.last, asked.last)
    yield "last_mahalanobis", mahalanobis(known.last, asked.last)


def milliseconds(networks: Networks, known: Seen, pixels: np.ndarray, seed: int, threads: int) -> dict[str, float]:
    """Return the median time of a picture alone through the exported model, by how many patches it remembers."""
    import torch

    from loupe.algorithm.anomaly.export import InspectedBy, export_inspector, map_side
    from services.trainer.algorithms.anomaly.memory import Inspector, remember

    found = {}
    for patches in (250, 1000, 4000):
        generator = torch.Generator().manual_seed(seed)
        memory = remember(
            torch.from_numpy(known.patches), torch.from_numpy(known.wholes), networks.trunk.depths, patches, generator
        )
        network = Inspector(networks.trunk, memory, networks.grid).eval()
        model = export_inspector(network, networks.preprocessing, map_side(network, networks.preprocessing))
        run, taken = InspectedBy(model, threads), []
        for at in range(TIMED):
            row = at % len(pixels)
            began = time.perf_counter()
            run(pixels[row : row + 1])
            taken.append(1000 * (time.perf_counter() - began))
        found[str(patches)] = round(statistics.median(taken), 2)
    return found


def measure(data: Path, asked: argparse.Namespace) -> int:
    """Measure every class, print all of it, and return 1 where a target was missed."""
    from loupe.tasks.anomaly_scores import auroc

    split = SPLITS[asked.split]
    pixels, labels, splits = read(
        data,
        asked.size,
        lambda label, of: of == split or (of == SPLITS["train"] and (not asked.good or label in asked.good)),
    )
    networks = Networks(asked.size, asked.threads)
    seen = networks.see(pixels)
    judged, classes = splits == split, asked.good or sorted(set(labels.tolist()))
    figures: dict[str, dict[str, float | None]] = {}
    known = seen
    for good in classes:
        known = seen.of((splits == SPLITS["train"]) & (labels == good))
        for way, found in scores(networks, known, seen.of(judged), asked.seed):
            figures.setdefault(way, {})[good] = auroc(found, labels[judged] != good)
    drawn = networks.see(parts(LEARNED, asked.size, asked.seed))
    whole, spoiled = parts(FLAWED, asked.size, asked.seed + 1), parts(FLAWED, asked.size, asked.seed + 2)
    both = networks.see(np.concatenate([whole, spotted(spoiled, asked.seed)]))
    flaws = {
        way: auroc(found, np.arange(2 * FLAWED) >= FLAWED) for way, found in scores(networks, drawn, both, asked.seed)
    }
    taken = milliseconds(networks, known, pixels[judged], asked.seed, asked.threads)
    means = {way: round(statistics.fmean(filter(None, each.values())), 4) for way, each in figures.items()}
    print(
        json.dumps(
            {
                "bench": "anomaly",
                "split": asked.split,
                "seed": asked.seed,
                "size": asked.size,
                "mean_auroc": means,
                "auroc": figures,
                "flaws": flaws,
                "milliseconds_by_patches": taken,
                "wanted": WANTED,
            }
        )
    )
    return int(means["inspector"] < WANTED or (asked.size == 128 and taken["1000"] > MILLISECONDS))


def main() -> int:
    """Measure the folder that is named, or one that is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with splits.csv; tiles of photographs if not given")
    parser.add_argument("--good", nargs="+", help="the classes that are good in turn; all if not given")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    restart_for_training("bench.anomaly", asked.threads)
    from bench.folder_to_model import write_default

    with tempfile.TemporaryDirectory(prefix="loupe-surfaces-") as own:
        return measure(asked.data or write_default(Path(own)), asked)


if __name__ == "__main__":
    sys.exit(main())
