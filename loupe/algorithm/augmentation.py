"""Random changes to training pictures that do not change what they show, a whole batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

Flips = Literal["both", "horizontal", "none"]


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed; each number is the most, and a picture's own is drawn evenly from -most..most.

    flips: which mirrorings do not change what a picture shows. rotation in degrees; shift and scale as a part of the
    side; brightness and contrast as a part of the range of values.
    """

    flips: Flips = "both"
    rotation: float = 10.0
    shift: float = 0.08
    scale: float = 0.1
    brightness: float = 0.15
    contrast: float = 0.2


def augment(pictures: torch.Tensor, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return changed pictures, float [N, 3, H, W] as they came; values 0..1 in, about 0..1 out.

    Geometry is one affine resampling, bilinear; what lies beyond the border is the reflection of what lies within.
    generator: on the CPU, whatever device the pictures are on.
    """
    count, device = len(pictures), pictures.device

    def draw(reach: float) -> torch.Tensor:
        return ((torch.rand(count, generator=generator) * 2 - 1) * reach).to(device)

    def flip(wanted: bool) -> torch.Tensor:
        heads = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        return heads.to(device) if wanted else torch.ones(count, device=device)

    angle, scale = draw(math.radians(how.rotation)), 1 + draw(how.scale)
    across, down = flip(how.flips != "none"), flip(how.flips == "both")
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (
        torch.stack([cosine * across, -sine * down, draw(2 * how.shift)], dim=1),
        torch.stack([sine * across, cosine * down, draw(2 * how.shift)], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    gain = (1 + draw(how.contrast)).view(-1, 1, 1, 1)
    lift = draw(how.brightness).view(-1, 1, 1, 1)
    return moved.sub_(0.5).mul_(gain).add_(0.5 + lift)


def augment_pixels(pictures: np.ndarray, how: Augmentation, generator: torch.Generator) -> np.ndarray:
    """Return changed pictures, uint8 [N, H, W, 3] as they came."""
    floats = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)
    moved = augment(floats, how, generator).mul_(255).round_().clamp_(0, 255)
    return np.ascontiguousarray(moved.to(torch.uint8).permute(0, 2, 3, 1).numpy())
