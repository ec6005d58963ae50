"""Ultralytics' smallest classifier in the same time: what many an engineer would try first.

    python -m bench.ultralytics_classifier --data FOLDER --work FOLDER [--seconds 420] [--size 224] [--threads 2]

It starts at random, since its weights come from a hub. --data holds splits.csv; --work gets the folders of pictures
that it wants, as links. `pip install ultralytics` first. The last line printed is one JSON object.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from bench.figures import budget_arguments

FOLDERS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def link_pictures(data: Path, work: Path) -> Path:
    """Return a folder with train, val and test, each with a folder per class, of links to the pictures."""
    with (data / "splits.csv").open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            source = data / row["path"]
            link = work / "pictures" / FOLDERS[row["split"]] / row["label"] / f"{number}{source.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve())
    return work / "pictures"


def main() -> None:
    """Train, answer the test pictures, and print the figures."""
    parser = budget_arguments(__doc__)
    parser.add_argument("--work", type=Path, required=True)
    asked = parser.parse_args()
    import numpy as np
    import torch
    from ultralytics import YOLO  # type: ignore[import-not-found]  # installed by who wants this figure

    from loupe.tasks.classification import OVERALL, Scorer

    torch.set_num_threads(asked.threads)
    pictures = link_pictures(asked.data, asked.work)
    model = YOLO("yolo11n-cls.yaml")
    model.train(
        data=str(pictures), imgsz=asked.size, time=asked.seconds / 3600, epochs=1000, device="cpu", workers=0,
        seed=asked.seed, project=str(asked.work / "runs"), plots=False, verbose=False,
    )  # fmt: skip
    labels = {name: number for number, name in model.names.items()}
    truth, said = [], []
    for folder in sorted((pictures / "test").iterdir()):
        for result in model.predict(str(folder), imgsz=asked.size, stream=True, verbose=False):
            truth.append(labels[folder.name])
            said.append(int(result.probs.top1))
    figures = {metric: Scorer(metric).of_answers(np.array(truth), np.array(said), len(labels)) for metric in OVERALL}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
