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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy.demo.flaws import write_flaws
from deploy.demo.scenes import play
from deploy.demo.story import Story
from deploy.demo.surfaces import write_surfaces
from deploy.local.errors import DeployError
from deploy.local.mesh import LocalMesh
from loupe.errors import LoupeError
from loupe.scheduler.v1 import training_job_pb2
from loupe.tasks import DEFAULT, TASKS


@dataclass(frozen=True)
class Example:
    """Pictures that are made where none are given.

    write: fills a folder and returns how many they are. folder: its name. said: a sentence with that number. target:
    what is asked for.
    """

    write: Callable[[Path], int]
    folder: str
    said: str
    target: float


EXAMPLES: Mapping[str, Example] = {
    "classify": Example(
        write_surfaces, "surfaces", "{} tiles of brick, grass and gravel, cut from photographs", target=0.95
    ),
    "detect": Example(
        write_flaws, "flaws", "{} tiles of photographed surfaces with scratches and stains drawn on them", target=0.7
    ),
}
"""By the terminal's command that answers with such a model."""
DRAWINGS = Path(".state/demo")
"""Where pictures are drawn into, in a folder for each run."""
TARGET_MISSED = 3
BROKEN = 1


def target(text: str) -> float | None:
    """Read --target; empty means the default of the task."""
    if not text:
        return None
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def pictures_folder(text: str) -> Path | None:
    """Read --data; empty means pictures that are made of those which ship with scikit-image."""
    if text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist; give a folder with a folder of pictures per class")
    return Path(text) if text else None


def _shown() -> list[str]:
    """Return the names of the tasks that the demo has pictures for."""
    return [name for name, task in TASKS.items() if task.command in EXAMPLES]


def main() -> int:
    """Play the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pictures_folder, default=None, help="pictures in any format that a push takes")
    parser.add_argument("--target", type=target, default=None, help="what to reach, 0 to 1, of the task's first metric")
    parser.add_argument("--task", choices=_shown(), default=DEFAULT.name, help="what the model is to answer")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    example = EXAMPLES[task.command]
    console = Console(stderr=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="loupe-demo-") as temporary:
        folder = Path(temporary)
        pictures = arguments.data or folder / example.folder
        if arguments.data is None:
            console.print(example.said.format(example.write(pictures)))
        try:
            mesh = LocalMesh(folder / "mesh", lifeline=True, say=lambda line: console.print(f"  {line}", style="dim"))
            console.print("\n[bold]The mesh starts on this machine[/bold]")
            with mesh:
                wanted = example.target if arguments.target is None else arguments.target
                drawings = DRAWINGS / time.strftime("%Y%m%d-%H%M%S")
                story = Story(console, mesh.endpoints, folder, pictures, task, wanted, drawings)
                story.seconds["start_mesh"] = time.perf_counter() - began
                job = asyncio.run(play(story))
        except (DeployError, LoupeError) as error:
            console.print(f"\nThe demo broke: {error}", style="red", markup=False)
            return BROKEN
    story.seconds["total"] = time.perf_counter() - began
    print(json.dumps(summary(story)), flush=True)
    reached = job.state == training_job_pb2.JOB_STATE_SUCCEEDED and story.score >= story.target
    return 0 if reached else TARGET_MISSED


def summary(story: Story) -> dict[str, object]:
    """Return the last line: what came out, and how long each part took in seconds."""
    order = ("start_mesh", "upload", "submit_to_first_step", "train", "pull", "total")
    return {
        "model": story.model,
        "target": story.target,
        **{metric: round(value, 4) for metric, value in story.figures.items()},
        "test_images": story.test_images,
        "trainer": story.trainer,
        "seconds": {name: round(story.seconds[name], 2) for name in order if name in story.seconds},
    }


if __name__ == "__main__":
    sys.exit(main())
