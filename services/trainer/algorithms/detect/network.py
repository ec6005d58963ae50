"""A detector without anchors: a class and four distances for each point of three maps (FCOS: Tian et al., 2019)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from .points import Points, points_of
from .trunk import FoldedConvolution, Trunk, fold

PRIOR = 0.01


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, [N, C, H, W] to [N, C', H, W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Dense(nn.Sequential):
    """An ordinary convolution, [N, C, H, W] to [N, C', H, W]: dear on a CPU, what a GPU is made for."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


Block = Callable[[int, int], nn.Module]
"""Makes a part that takes maps of so many channels to maps of so many others."""


class Head(nn.Module):
    """One level's answers, [N, C + 4, H, W]: class logits, and distances to the sides in strides."""

    def __init__(self, classes: int, width: int, block: Block) -> None:
        super().__init__()
        self.kinds = nn.Sequential(block(width, width), block(width, width))
        self.sides = nn.Sequential(block(width, width), block(width, width))
        self.logits, self.distances = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        for last, bias in ((self.logits, math.log(PRIOR / (1 - PRIOR))), (self.distances, 1.5)):
            nn.init.normal_(last.weight, std=0.01)
            assert last.bias is not None
            nn.init.constant_(last.bias, bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.logits(self.kinds(maps)), self.distances(self.sides(maps))], dim=1)


class Detector(nn.Module):
    """Takes normalised pictures [N, 3, size, size] to boxes [N, A, 4] in 0..1 and scores [N, A, C] in 0..1.

    size: a multiple of 32. width: channels of what comes behind the trunk, made of blocks.
    """

    centres: torch.Tensor
    strides: torch.Tensor

    def __init__(self, trunk: Trunk, size: int, classes: int, width: int, block: Block) -> None:
        super().__init__()
        self.trunk, self.size, self.classes = trunk, size, classes
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
            for channels in trunk.channels
        )
        self.merged = nn.ModuleList(block(width, width) for _ in trunk.channels[1:])
        self.heads = nn.ModuleList(Head(classes, width, block) for _ in trunk.channels)
        for name, values in points_of(size)._asdict().items():
            self.register_buffer(name, values, persistent=False)

    @property
    def points(self) -> Points:
        """Return the A points that the answers are for."""
        return Points(self.centres, self.strides)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, boxes = self.raw(pictures)
        return (boxes / self.size).clamp(0, 1), logits.sigmoid()

    def raw(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [N, A, C] and boxes [N, A, 4], x0 y0 x1 y1 in pixels, which may lie outside."""
        levels = [lateral(maps) for lateral, maps in zip(self.laterals, self.trunk(pictures), strict=True)]
        for at in range(len(levels) - 2, -1, -1):
            above = functional.interpolate(levels[at + 1], scale_factor=2.0, mode="nearest")
            levels[at] = self.merged[at](levels[at] + above)
        answers = torch.cat(
            [head(maps).flatten(2) for head, maps in zip(self.heads, levels, strict=True)], dim=2
        ).transpose(1, 2)
        logits, sides = torch.split(answers.float(), [self.classes, 4], dim=2)
        reach = functional.softplus(sides) * self.strides[:, None]
        return logits, torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=2)


def ready_to_export(network: Detector) -> nn.Module:
    """Return a copy on the CPU, in eval mode, whose trunk has plain convolutions; it answers the same."""
    plain = copy.deepcopy(network).cpu().float().eval()
    fold(plain.trunk)
    for name, part in list(plain.named_modules()):
        if isinstance(part, FoldedConvolution):
            plain.set_submodule(name, part.as_convolution())
    return plain
