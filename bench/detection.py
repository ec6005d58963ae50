"""How good the detectors are that a budget buys: `detect`, and a plain script with detectors of torchvision.

    python -m bench.detection --data FOLDER [--seconds 900] [--seeds 0] [--ways detect ssdlite320_mobilenet_v3_large]

FOLDER holds annotations/train.json, val.json and test.json, COCO files that name pictures by their paths in FOLDER.
Every way gets the same splits, seconds and threads, one after the other, each in a process of its own; figures are
those on the test pictures, which none of them looked at before. torchvision's detectors start at random, since their
weights come from a hub. Prints a row for each way and seed as JSON, and the means over the seeds as a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DETECT = "services/trainer/algorithms/detect"
UNREACHABLE = "map50=1.0"
FIGURES = ("map50", "map")
SPLITS = {"train": "train", "val": "validation", "test": "test"}
PLAIN = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "retinanet_resnet50_fpn")


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


def detect(data: Path, seconds: float, seed: int, threads: int, work: Path) -> dict[str, Any]:
    """Run the image and return its figures on the test pictures."""
    out = work / "out"
    command = [sys.executable, "-m", "loupe.algorithm", "run", DETECT, "--data", str(data), "--target", UNREACHABLE]
    command += ["--threads", str(threads), "--seconds", str(seconds), "--seed", str(seed), "--out", str(out)]
    # 3 says that the target, which nothing reaches, was missed.
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {name: report["test"][name] for name in FIGURES} | {"way": report["notes"]["way"]}


def plain(name: str, data: Path, seconds: float, seed: int, threads: int) -> dict[str, Any]:
    """Run the plain script with one of torchvision's detectors."""
    command = [sys.executable, "-m", "bench.plain_detector", "--data", str(data), "--seconds", str(seconds)]
    command += ["--threads", str(threads), "--seed", str(seed), "--network", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the means over the seeds, a line for each way."""
    print(f"{'way':32} {'seeds':>5} {'mAP50':>8} {'mAP':>8} {'seconds':>8}")
    for way in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == way]
        means = [statistics.fmean(row[name] for row in own) for name in FIGURES]
        seconds = statistics.fmean(row["wall_seconds"] for row in own)
        print(f"{way:32} {len(own):5} " + " ".join(f"{mean:8.2%}" for mean in means) + f" {seconds:8.0f}")


def main() -> None:
    """Run every way with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=["detect", *PLAIN], default=["detect", PLAIN[0]])
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = arrange(asked.data, Path(folder) / "data")
        for seed in asked.seeds:
            for way in asked.ways:
                began = time.perf_counter()
                with tempfile.TemporaryDirectory() as work:
                    if way == "detect":
                        figures = detect(data, asked.seconds, seed, asked.threads, Path(work))
                    else:
                        figures = plain(way, data, asked.seconds, seed, asked.threads)
                wall = round(time.perf_counter() - began, 1)
                rows.append({"name": way, "seed": seed, "wall_seconds": wall, **figures})
                print(json.dumps(rows[-1]), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
