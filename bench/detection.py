"""How good the detectors are that a time buys: `detect`, and a plain script with detectors of torchvision.

    python -m bench.detection --data FOLDER [--minutes 15] [--seeds 0] [--ways detect fcos_lite0]
    python -m bench.detection --data FOLDER --table [--minutes 2 5 15] [--sizes 96 128 160 224]

FOLDER holds annotations/train.json, val.json and test.json, COCO files that name pictures by their paths in FOLDER.
Every way gets the same splits, minutes and threads, set up alike, one after the other, each in a process of its own;
figures are those on the test pictures, which none of them looked at before. torchvision's detectors start at random,
since their weights come from a hub, but for "fcos_lite0", whose trunk has the weights that ours has. --table runs
`detect` alone, at each size for each of the minutes. Prints a row for each run as JSON, and the means over the seeds as
a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.algorithm.process import training_environment

DETECT = "services/trainer/algorithms/detect"
UNREACHABLE = "map50=1.0"
FIGURES = ("map50", "map")
SPLITS = {"train": "train", "val": "validation", "test": "test"}
PLAIN = (
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_lite0",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
)


def arrange(folder: Path, into: Path) -> Path:
    """Make a folder as `loupe.algorithm` reads it: one COCO file, and a folder of links for each split."""
    whole: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    for name, split in SPLITS.items():
        part = json.loads((folder / "annotations" / f"{name}.json").read_text(encoding="utf-8"))
        whole["categories"] = part["categories"]
        (into / split).mkdir(parents=True)
        for image in part["images"]:
            path = f"{split}/{image['id']}{Path(image['file_name']).suffix}"
            (into / path).symlink_to((folder / image["file_name"]).resolve())
            whole["images"].append({**image, "id": f"{split} {image['id']}", "file_name": path})
        for box in part["annotations"]:
            row = {**box, "id": len(whole["annotations"]) + 1, "image_id": f"{split} {box['image_id']}"}
            whole["annotations"].append(row)
    (into / "annotations.json").write_text(json.dumps(whole), encoding="utf-8")
    return into


@dataclass(frozen=True)
class Run:
    """One run of a way. size: of the pictures in pixels, for `detect` alone; 0 lets it choose."""

    way: str
    minutes: float
    seed: int
    size: int = 0

    @property
    def name(self) -> str:
        """What the runs that differ by their seed alone are called."""
        return f"{self.way}{f' at {self.size} px' if self.size else ''}, {self.minutes:g} min"

    def figures(self, data: Path, threads: int) -> dict[str, Any]:
        """Train and return the figures on the test pictures, and how long all of it took."""
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            found = self._detect(data, threads, Path(work)) if self.way == "detect" else self._plain(data, threads)
        return {"name": self.name, "seed": self.seed, "wall_seconds": round(time.perf_counter() - began, 1), **found}

    def _detect(self, data: Path, threads: int, out: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "loupe.algorithm", "run", DETECT, "--data", str(data), "--target", UNREACHABLE]
        command += ["--threads", str(threads), "--seconds", str(60 * self.minutes), "--seed", str(self.seed)]
        command += ["--param", f"size={self.size}", "--out", str(out)]
        # 3 says that the target, which nothing reaches, was missed.
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return {name: report["test"][name] for name in FIGURES} | {"way": report["notes"]["way"]}

    def _plain(self, data: Path, threads: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "bench.plain_detector", "--data", str(data), "--network", self.way]
        command += ["--seconds", str(60 * self.minutes), "--threads", str(threads), "--seed", str(self.seed)]
        environment = {**os.environ, **training_environment(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the means over the seeds, a line for each name."""
    width = max(len(row["name"]) for row in rows)
    print(f"{'way':{width}} {'seeds':>10} {'mAP50':>8} {'mAP':>8} {'seconds':>8}")
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        seeds = " ".join(str(row["seed"]) for row in own)
        means = [statistics.fmean(row[figure] for row in own) for figure in FIGURES]
        seconds = statistics.fmean(row["wall_seconds"] for row in own)
        print(f"{name:{width}} {seeds:>10} " + " ".join(f"{mean:8.2%}" for mean in means) + f" {seconds:8.0f}")


def asked_runs(asked: argparse.Namespace) -> list[Run]:
    """Return what to do, in its order."""
    if asked.table:
        return [
            Run("detect", minutes, seed, size)
            for seed in asked.seeds
            for minutes in asked.minutes
            for size in asked.sizes
        ]
    return [Run(way, minutes, seed) for seed in asked.seeds for minutes in asked.minutes for way in asked.ways]


def main() -> None:
    """Do all runs, one at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[15])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=["detect", *PLAIN], default=["detect", PLAIN[0], "fcos_lite0"])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 160, 224], help="of --table")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = arrange(asked.data, Path(folder) / "data")
        for run in asked_runs(asked):
            rows.append(run.figures(data, asked.threads))
            print(json.dumps(rows[-1]), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
