"""How fast a job answers pictures with a model, beside a bare loop of onnxruntime with the same file.

    python -m bench.evaluate [--pictures 1000] [--size 128] [--rounds 5]

A mesh with one trainer makes a small classifier; then an `evaluate` job over all pictures, through queue, trainer and
sandbox, takes turns with a loop over the same pictures, decoded, in memory, in the same batches and with as many
threads. `ratio` is of the rates of the part that runs, by the job's own last progress; `seconds` are those of the whole
job, from its submission to its figures, of the loop, and of the first job, before which nothing was decoded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.figures import median_ratio
from bench.mesh import PROJECT, bench_mesh, bench_terminal, wait_for_warm_slots
from loupe import picture
from loupe.algorithm.onnx_model import PREDICT_BATCH
from loupe.job_kinds import PictureSelection
from loupe.names import DatasetName
from loupe.scheduler.v1 import training_job_pb2
from loupe.terminal.client import Terminal

WANTED = 0.9


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write noisy stripes across and along, 160 pixels wide, in a folder for each class; return where."""
    draw, paths = np.random.default_rng(0), []
    rows, columns = np.mgrid[0:160, 0:160]
    for number in range(count):
        label, places = (("across", rows), ("along", columns))[number % 2]
        grey = 128 + 70 * np.sin(places * 0.6 + draw.uniform(0, 6)) + draw.normal(0, 20, rows.shape)
        paths.append(folder / label / f"{number:05}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB").save(paths[-1])
    return paths


async def ended(terminal: Terminal, job: training_job_pb2.TrainingJob) -> tuple[training_job_pb2.TrainingJob, float]:
    """Follow a job to its end, and return it and the last pictures per second that it told."""
    rate = 0.0
    async for event in terminal.jobs.watch(job.name):
        rate = event.progress.metrics.get("pictures_per_second", rate)
    job = await terminal.jobs.get(job.name)
    if job.state not in (training_job_pb2.JOB_STATE_SUCCEEDED, training_job_pb2.JOB_STATE_TARGET_MISSED):
        raise RuntimeError(f"{job.name} did not end well: {job.state_message}")
    return job, rate


def bare(session: Any, pictures: np.ndarray) -> float:
    """Answer all pictures, and return the seconds."""
    (door,) = session.get_inputs()
    began = time.perf_counter()
    for start in range(0, len(pictures), PREDICT_BATCH):
        session.run(None, {door.name: pictures[start : start + PREDICT_BATCH]})
    return time.perf_counter() - began


async def measure(count: int, size: int, rounds: int) -> dict[str, object]:
    """Make the model, and take turns."""
    import onnxruntime

    with bench_mesh() as (mesh, folder):
        source = folder / "pictures"
        source.mkdir()
        paths = await asyncio.to_thread(write_pictures, source, count)
        async with bench_terminal(mesh, folder) as terminal:
            pushed = await terminal.datasets.push(DatasetName(PROJECT, "stripes"), source)
            version = pushed.version.name
            await wait_for_warm_slots(terminal)
            trained, _ = await ended(
                terminal, await terminal.jobs.submit(version, target=0.6, parameters={"size": size}, max_epochs=1)
            )
            pulled = await terminal.models.pull(trained.result.model_version, folder / "model", allow_below_target=True)
            document = json.loads((pulled.folder / "model.json").read_text(encoding="utf-8"))
            shape = document["input"]["height"], document["input"]["width"]
            pictures = np.stack([picture.decode(path.read_bytes(), *shape) for path in paths])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads = len(os.sched_getaffinity(0))
            session = onnxruntime.InferenceSession(str(pulled.folder / "model.onnx"), options, ["CPUExecutionProvider"])
            rates, loops, seconds, answered = [], [], [], 0
            for _ in range(1 + rounds):
                await wait_for_warm_slots(terminal)
                began = time.perf_counter()
                asked = await terminal.jobs.evaluate(
                    trained.result.model_version, version, pictures=PictureSelection.LABELLED
                )
                job, rate = await ended(terminal, asked)
                seconds.append(time.perf_counter() - began)
                answered = job.result.evaluation.picture_count
                rates.append(rate)
                loops.append(await asyncio.to_thread(bare, session, pictures))
    first, ratio = seconds[0], median_ratio(rates[1:], [count / each for each in loops[1:]])
    return {
        "bench": "evaluate",
        "pictures": answered,
        "size": list(shape),
        "threads": threads,
        "pictures_per_second": {
            "job": round(statistics.median(rates[1:]), 1),
            "bare": round(count / statistics.median(loops[1:]), 1),
        },
        "seconds": {
            "job": round(statistics.median(seconds[1:]), 2),
            "first_job": round(first, 2),
            "bare": round(statistics.median(loops[1:]), 2),
        },
        "ratio": ratio,
        "targets": {"ratio": f">= {WANTED}"},
        "reached": ratio >= WANTED,
    }


def main() -> None:
    """Read the arguments and print one JSON object; end with 1 below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    measured = asyncio.run(measure(given.pictures, given.size, given.rounds))
    print(json.dumps(measured))
    sys.exit(0 if measured["reached"] else 1)


if __name__ == "__main__":
    main()
