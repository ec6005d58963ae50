"""`make demo`: a mesh on free ports, the main job on it, and one JSON object as the last line of stdout.

Exit 0: the target was reached, in validation and on the held-out pictures. Exit 3: it was not; the verdict says why.
Exit 1: something broke. Whatever happens, nothing is left running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from deploy.demo.scenes import Story, play
from deploy.demo.surfaces import write_surfaces
from deploy.local.errors import DeployError
from deploy.local.mesh import LocalMesh
from loupe.errors import LoupeError
from loupe.scheduler.v1 import training_job_pb2

DEFAULT_TARGET = 0.95
TARGET_MISSED = 3
BROKEN = 1


def target_accuracy(text: str) -> float:
    """Read --target; empty means the default."""
    value = float(text) if text else DEFAULT_TARGET
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def pictures_folder(text: str) -> Path | None:
    """Read --data; empty means the pictures that ship with scikit-image."""
    if text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist; give a folder with a folder of pictures per class")
    return Path(text) if text else None


def main() -> int:
    """Play the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pictures_folder, default=None, help="folder with a folder of pictures per class")
    parser.add_argument("--target", type=target_accuracy, default=DEFAULT_TARGET, help="accuracy to reach, 0 to 1")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="loupe-demo-") as temporary:
        folder = Path(temporary)
        pictures = arguments.data or folder / "surfaces"
        if arguments.data is None:
            console.print(f"{write_surfaces(pictures)} tiles of brick, grass and gravel, cut from photographs")
        try:
            mesh = LocalMesh(folder / "mesh", lifeline=True, say=lambda line: console.print(f"  {line}", style="dim"))
            console.print("\n[bold]The mesh starts on this machine[/bold]")
            with mesh:
                story = Story(console, mesh.endpoints, folder, pictures, arguments.target)
                story.seconds["start_mesh"] = time.perf_counter() - began
                job = asyncio.run(play(story))
        except (DeployError, LoupeError) as error:
            console.print(f"\nThe demo broke: {error}", style="red", markup=False)
            return BROKEN
    story.seconds["total"] = time.perf_counter() - began
    print(json.dumps(summary(story)), flush=True)
    reached = job.state == training_job_pb2.JOB_STATE_SUCCEEDED and story.accuracy >= story.target
    return 0 if reached else TARGET_MISSED


def summary(story: Story) -> dict[str, object]:
    """Return the last line: what came out, and how long each part took in seconds."""
    order = ("start_mesh", "upload", "submit_to_first_step", "train", "pull", "total")
    return {
        "model": story.model,
        "target": story.target,
        "accuracy": round(story.accuracy, 4),
        "balanced_accuracy": round(story.balanced_accuracy, 4),
        "test_images": story.test_images,
        "trainer": story.trainer,
        "seconds": {name: round(story.seconds[name], 2) for name in order if name in story.seconds},
    }


if __name__ == "__main__":
    sys.exit(main())
