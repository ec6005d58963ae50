"""Submit to the first finished training step, through the whole mesh, against a fresh process that imports torch.

    python -m bench.first_step [--runs 7] [--network squeezenet1_1]

The mesh's clock starts at the terminal's SubmitTrainingJob and stops when the first step's progress is at the terminal;
sandbox, data and image are warm. The other side is what a user would do by hand: start Python, import torch and
torchvision, make the same network, take one step on pictures in memory; what the step alone takes there, after the
imports, is the least that the mesh could take. The network is a small one, so that the mesh is measured and not the
arithmetic. The two take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

from bench.mesh import PROJECT, bench_mesh, bench_terminal, wait_for_warm_slots
from deploy.demo.surfaces import write_surfaces
from loupe.algorithm.process import training_environment
from loupe.names import DatasetName
from loupe.terminal.client import Terminal

TARGET_SECONDS, TARGET_RATIO = 0.2, 10.0

BY_HAND = """
import sys, time, torch, torchvision
began = time.perf_counter()
torch.manual_seed(0)
network = torchvision.models.get_model(sys.argv[1], num_classes=3)
optimizer = torch.optim.AdamW(network.parameters())
pictures, classes = torch.randn(32, 3, 32, 32), torch.randint(3, (32,))
torch.nn.functional.cross_entropy(network(pictures), classes).backward()
optimizer.step()
print(time.perf_counter() - began)
"""


async def through_the_mesh(terminal: Terminal, version: str, network: str) -> float:
    """Return the seconds from submission to the first step at the terminal, and end the job."""
    began = time.perf_counter()
    job = await terminal.jobs.submit(
        version,
        target=1.0,
        algorithm_version="algorithms/scratch/versions/latest",
        parameters={"network": network, "size": 32},
        max_epochs=1,
    )
    async for event in terminal.jobs.watch(job.name):
        if event.WhichOneof("event") == "progress" and event.progress.step >= 1:
            seconds = time.perf_counter() - began
            break
    else:
        raise SystemExit("the job ended before its first step")
    await terminal.jobs.cancel(job.name)
    await wait_for_warm_slots(terminal)
    return seconds


def by_hand(network: str) -> tuple[float, float]:
    """Return the seconds of a fresh process up to the end of its first step, and those after its imports."""
    began = time.perf_counter()
    environment = os.environ | training_environment(os.cpu_count() or 1)
    command = [sys.executable, "-c", BY_HAND, network]
    step = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    return time.perf_counter() - began, step


async def measure(runs: int, network: str) -> dict[str, object]:
    """Take turns and return the medians and their ratio."""
    with bench_mesh() as (mesh, folder):
        pictures = folder / "surfaces"
        write_surfaces(pictures)
        async with bench_terminal(mesh, folder) as terminal:
            pushed = await terminal.datasets.push(DatasetName(PROJECT, "surfaces"), pictures)
            await wait_for_warm_slots(terminal)
            await through_the_mesh(terminal, pushed.version.name, network)  # fills the caches of image and pictures
            mesh_seconds, hand_seconds = [], []
            for _ in range(runs):
                mesh_seconds.append(await through_the_mesh(terminal, pushed.version.name, network))
                hand_seconds.append(await asyncio.to_thread(by_hand, network))
    median, fresh = statistics.median(mesh_seconds), statistics.median(total for total, _ in hand_seconds)
    return {
        "bench": "first_step",
        "network": network,
        "mesh_seconds": [round(value, 3) for value in sorted(mesh_seconds)],
        "fresh_process_seconds": [round(total, 3) for total, _ in sorted(hand_seconds)],
        "median_seconds": round(median, 3),
        "median_seconds_of_the_step_alone": round(statistics.median(step for _, step in hand_seconds), 3),
        "times_faster": round(fresh / median, 1),
        "targets": {"median_seconds": f"<= {TARGET_SECONDS}", "times_faster": f">= {TARGET_RATIO}"},
        "reached": median <= TARGET_SECONDS and fresh / median >= TARGET_RATIO,
    }


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--network", default="squeezenet1_1", help="a torchvision classifier")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.runs, options.network))))


if __name__ == "__main__":
    main()
