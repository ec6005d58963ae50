"""From a folder of pictures to a pulled model: the whole mesh against a bare script that does only the arithmetic.

    python -m bench.folder_to_model [--data FOLDER] [--target 0.99] [--size 128] [--runs 3]

FOLDER holds splits.csv (path,label,split) and the pictures that it names; without it, tiles of photographs are made.
The mesh's clock starts with the first byte read and stops when the model stands on the terminal, checked; it is up and
warm before. The script (bench/neu_baseline.py) computes the same features at --size, fits the same probe and exports.
The two take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.mesh import PROJECT, bench_mesh, bench_terminal, wait_for_warm_slots
from deploy.demo.surfaces import write_surfaces
from loupe.names import DatasetName
from loupe.storage.v1 import dataset_pb2
from loupe.terminal.classifier import Classifier
from loupe.terminal.client import Terminal
from loupe.terminal.picture_source import read_csv

TARGET_RATIO = 1.5


async def through_the_mesh(
    terminal: Terminal, data: Path, folder: Path, target: float, run: int
) -> tuple[float, float]:
    """Return seconds and the accuracy on the test split, measured by the terminal."""
    await wait_for_warm_slots(terminal)
    began = time.perf_counter()
    collection = read_csv(data / "splits.csv")
    pushed = await terminal.datasets.push(DatasetName(PROJECT, f"run-{run}"), collection)
    job = await terminal.jobs.submit(pushed.version.name, target=target)
    async for _ in terminal.jobs.watch(job.name):
        pass
    job = await terminal.jobs.get(job.name)
    pulled = await terminal.models.pull(job.result.model_version, folder / f"model-{run}", allow_below_target=True)
    seconds = time.perf_counter() - began
    held_out = [one for one in collection.pictures if one.split == dataset_pb2.SPLIT_TEST]
    answers = await asyncio.to_thread(lambda: list(Classifier(pulled.folder).classify(one.path for one in held_out)))
    right = sum(answer.label == one.label for answer, one in zip(answers, held_out, strict=True))
    return seconds, right / len(held_out)


def by_script(data: Path, size: int) -> tuple[float, float]:
    """Return seconds and test accuracy of the bare script, a fresh process."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.neu_baseline", "--data", str(data), "--size", str(size)]
        done = subprocess.run([*command, "--out", f"{folder}/model.onnx"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, report["accuracy"]["test"]


async def measure(data: Path, target: float, size: int, runs: int) -> dict[str, object]:
    """Take turns; every run of the mesh begins with nothing uploaded and nothing decoded."""
    mesh_runs, script_runs = [], []
    for run in range(runs):
        with bench_mesh() as (mesh, folder):
            async with bench_terminal(mesh, folder) as terminal:
                mesh_runs.append(await through_the_mesh(terminal, data, folder, target, run))
        script_runs.append(await asyncio.to_thread(by_script, data, size))
    mesh_seconds = statistics.median(seconds for seconds, _ in mesh_runs)
    script_seconds = statistics.median(seconds for seconds, _ in script_runs)
    return {
        "bench": "folder_to_model",
        "mesh": [{"seconds": round(s, 1), "test_accuracy": round(a, 4)} for s, a in mesh_runs],
        "script": [{"seconds": round(s, 1), "test_accuracy": round(a, 4)} for s, a in script_runs],
        "ratio": round(mesh_seconds / script_seconds, 2),
        "targets": {"ratio": f"<= {TARGET_RATIO}"},
        "reached": mesh_seconds / script_seconds <= TARGET_RATIO,
    }


def write_default(folder: Path) -> Path:
    """Make the photographs' tiles and their splits.csv, for who has no pictures at hand."""
    write_surfaces(folder)
    with (folder / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for path in sorted(folder.rglob("*.png")):
            relative = path.relative_to(folder)
            writer.writerow([relative, relative.parts[1], relative.parts[0]])
    return folder


def main() -> None:
    """Read the arguments and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with splits.csv; tiles of photographs if not given")
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loupe-surfaces-") as own:
        data = given.data or write_default(Path(own))
        print(json.dumps(asyncio.run(measure(data, given.target, given.size, given.runs))))


if __name__ == "__main__":
    main()
