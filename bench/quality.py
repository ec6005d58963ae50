"""How good the models are that a budget buys: `finetune`, its head alone, a plain script, and Ultralytics' classifier.

    python -m bench.quality --data FOLDER [--splits splits.csv] [--seconds 420] [--seeds 0 1 2] [--ways finetune plain]

FOLDER holds a table of splits (path,label,split) and the pictures that it names. Every way gets the same splits,
seconds and threads, one after the other, each in a process of its own; figures are those on the test pictures, which
none of them looked at before. Ultralytics' classifier starts at random, since its weights come from a hub; it is left
out where it is not installed. Prints a row for each way and seed as JSON, and the means over the seeds as a table.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FINETUNE = "services/trainer/algorithms/finetune"
UNREACHABLE = "1.0"
FIGURES = ("accuracy", "balanced_accuracy", "lowest_recall")


def with_splits(folder: Path, table: str, into: Path) -> Path:
    """Make a folder whose splits.csv names the pictures of another one where they are."""
    with (folder / table).open(newline="", encoding="utf-8") as file:
        rows = [{**row, "path": str((folder / row["path"]).resolve())} for row in csv.DictReader(file)]
    into.mkdir()
    with (into / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return into


def finetune(data: Path, seconds: float, seed: int, threads: int, work: Path, *more: str) -> dict[str, Any]:
    """Run the image and return its figures on the test pictures."""
    out = work / "out"
    command = [sys.executable, "-m", "loupe.algorithm", "run", FINETUNE, "--data", str(data), "--target", UNREACHABLE]
    command += ["--threads", str(threads), "--seconds", str(seconds), "--seed", str(seed), "--out", str(out), *more]
    # 3 says that the target, which nothing reaches, was missed.
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    report = json.loads((out / "report.json").read_text())
    return {name: report["test"][name] for name in FIGURES} | {"way": report["notes"]["way"]}


def head_alone(data: Path, seconds: float, seed: int, threads: int, work: Path) -> dict[str, Any]:
    """Run the image without fine-tuning."""
    return finetune(data, seconds, seed, threads, work, "--param", "depth=head")


def plain(data: Path, seconds: float, seed: int, threads: int, work: Path) -> dict[str, Any]:
    """Run the plain script."""
    command = [sys.executable, "-m", "bench.plain_finetune", "--data", str(data), "--seconds", str(seconds)]
    command += ["--threads", str(threads), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def ultralytics(data: Path, seconds: float, seed: int, threads: int, work: Path) -> dict[str, Any]:
    """Train Ultralytics' smallest classifier, and return its figures on the test pictures."""
    command = [sys.executable, "-m", "bench.ultralytics_classifier", "--data", str(data), "--seconds", str(seconds)]
    command += ["--threads", str(threads), "--seed", str(seed), "--work", str(work)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


WAYS = {"head": head_alone, "finetune": finetune, "plain": plain, "ultralytics": ultralytics}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the means over the seeds, a line for each way."""
    print(f"{'way':12} {'seeds':>5} {'accuracy':>9} {'balanced':>9} {'lowest':>9} {'seconds':>8}")
    for way in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == way]
        means = [statistics.fmean(row[name] for row in own) for name in FIGURES]
        seconds = statistics.fmean(row["wall_seconds"] for row in own)
        print(f"{way:12} {len(own):5} " + " ".join(f"{mean:9.2%}" for mean in means) + f" {seconds:8.0f}")


def main() -> None:
    """Run every way with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", default="splits.csv")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    asked = parser.parse_args()
    if "ultralytics" in asked.ways and importlib.util.find_spec("ultralytics") is None:
        print("ultralytics is not installed and is left out", file=sys.stderr)
        asked.ways.remove("ultralytics")
    rows: list[dict[str, Any]] = []
    for seed in asked.seeds:
        for way in asked.ways:
            with tempfile.TemporaryDirectory() as folder:
                data = with_splits(asked.data, asked.splits, Path(folder) / "data")
                began = time.perf_counter()
                figures = WAYS[way](data, asked.seconds, seed, asked.threads, Path(folder))
                wall = round(time.perf_counter() - began, 1)
            rows.append({"name": way, "seed": seed, "wall_seconds": wall, **figures})
            print(json.dumps(rows[-1]), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
