"""What is remembered of good parts, and the network that says how far a picture is from it, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .coreset import ROUNDING, greedy_coreset
from .trunk import Trunk

WHOLES = 1000
"""Pictures that are remembered as wholes at most."""
JUDGED = 100
"""Pictures of the memory by which usual distances are measured at most."""
FINER = 4
"""The heat map's cells along a patch's side."""
LEAST_SPREAD = 0.1, 0.01
"""Distances are told apart no finer than by these parts of the usual distance, and of the length of a feature: where
good pictures are all the same, rounding would be an anomaly."""


@dataclass(frozen=True)
class Usual:
    """What a distance is measured against: its mean over good pictures, and its spread."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Memory:
    """Good parts.

    patches: float32 [M, D], in units of `scale`, [D]: a block's features are as long as another's. wholes: float32
    [K, D]. of_patches, of_wholes: the usual distance of a picture's farthest patch, and of a picture as a whole.
    """

    scale: torch.Tensor
    patches: torch.Tensor
    wholes: torch.Tensor
    of_patches: Usual
    of_wholes: Usual


class Inspector(nn.Module):
    """From normalised pictures [N, 3, H, W] to [N, 1 + h w]: the score, and a heat map row by row.

    A distance is that to the nearest one in the memory, less its usual mean, by its usual spread. The score is that of
    the picture's farthest patch, or of the picture as a whole where that is larger: a flaw is seen by the first, a part
    or texture that is another one altogether by the second. The map is of the patches, between which it is
    interpolated and blurred.
    """

    patches: torch.Tensor
    wholes: torch.Tensor

    def __init__(self, trunk: Trunk, memory: Memory, grid: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("scale", memory.scale)
        self.register_buffer("patches", memory.patches.T.contiguous())
        self.register_buffer("patch_squares", (memory.patches**2).sum(dim=1))
        self.register_buffer("wholes", memory.wholes.T.contiguous())
        self.register_buffer("whole_squares", (memory.wholes**2).sum(dim=1))
        self.register_buffer("finer", finer(grid))
        self._of_patches, self._of_wholes = memory.of_patches, memory.of_wholes
        self._grid = grid

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        around, whole = self.trunk(pictures)
        # What is known of shapes is said, so that an export has it as constants.
        depth = self.patches.shape[0]
        score, heat = self.compare(around.reshape(-1, depth, self._grid**2).transpose(1, 2), whole)
        weights = self.get_buffer("finer")
        heat = weights @ heat.reshape(-1, self._grid, self._grid) @ weights.T
        return torch.cat([score[:, None], heat.reshape(-1, len(weights) ** 2)], dim=1)

    def compare(self, patches: torch.Tensor, wholes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores [N] and relative distances of patches [N, P], for patches [N, P, D] and wholes [N, D]."""
        distances = _nearest(patches * self.get_buffer("scale"), self.patches, self.get_buffer("patch_squares"))
        whole = _nearest(wholes, self.wholes, self.get_buffer("whole_squares"))
        score = torch.maximum(_relative(distances.amax(dim=1), self._of_patches), _relative(whole, self._of_wholes))
        return score, _relative(distances, self._of_patches)


def remember(
    patches: torch.Tensor, wholes: torch.Tensor, depths: Sequence[int], count: int, generator: torch.Generator
) -> Memory:
    """Return the memory of good pictures.

    patches: float32 [N, P, D]. wholes: [N, D]. depths: how many of the D are of each block. count: patches to keep at
    most. Usual distances are those of pictures from what is remembered of the others.
    """
    pictures, places, _ = patches.shape
    lengths_of_blocks = [
        each.norm(dim=-1).mean().clamp(min=1e-6) for each in patches.split_with_sizes(list(depths), dim=-1)
    ]
    scale = torch.cat([(1 / length).expand(depth) for length, depth in zip(lengths_of_blocks, depths, strict=True)])
    patches = patches * scale
    chosen = greedy_coreset(patches.flatten(0, 1), count, generator)
    kept = patches.flatten(0, 1)[chosen]
    order = torch.randperm(pictures, generator=generator)
    whole_rows, judged = order[:WHOLES].sort().values, order[: min(JUDGED, WHOLES)]
    bank, lengths = wholes[whole_rows], (float(kept.norm(dim=1).mean()), float(wholes.norm(dim=1).mean()))
    patch_distances, whole_distances = [], []
    for row in judged.tolist():
        others, other_wholes = kept[chosen // places != row], bank[whole_rows != row]
        if len(others) and len(other_wholes):
            distances = _nearest(patches[row], others.T, (others**2).sum(dim=1))
            patch_distances.append(float(distances.max()))
            whole = _nearest(wholes[row : row + 1], other_wholes.T, (other_wholes**2).sum(dim=1))
            whole_distances.append(float(whole[0]))
    return Memory(scale, kept, bank, _usual(patch_distances, lengths[0]), _usual(whole_distances, lengths[1]))


def finer(grid: int) -> torch.Tensor:
    """Return float32 [FINER grid, grid], rows of sum 1: linear interpolation, then a Gaussian of half a patch."""
    side = grid * FINER
    at = (torch.arange(side) + 0.5) / FINER - 0.5
    linear = (1 - (at[:, None] - torch.arange(grid)).abs()).clamp(min=0)
    blur = torch.exp(-((torch.arange(side)[:, None] - torch.arange(side)) ** 2) / (2 * (FINER / 2) ** 2))
    weights = blur @ (linear / linear.sum(dim=1, keepdim=True))
    return weights / weights.sum(dim=1, keepdim=True)


def _usual(distances: Sequence[float], length: float) -> Usual:
    """Return the mean and spread of distances. length: of a usual feature, above all where there are no distances."""
    found = torch.tensor(distances or [0.0])
    mean, spread = float(found.mean()), float(found.std(unbiased=False))
    return Usual(mean, max(spread, LEAST_SPREAD[0] * mean, LEAST_SPREAD[1] * length, 1e-6))


def _nearest(rows: torch.Tensor, bank: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Return the distance of each of rows [..., D] to the nearest column of bank [D, M]; squares: of its columns.

    It is 0 within rounding, so that what is the same is the same on every machine.
    """
    length = (rows**2).sum(dim=-1)
    distances = length * (1 - ROUNDING) + (squares - 2 * (rows @ bank)).min(dim=-1).values
    return distances.clamp(min=0).sqrt()


def _relative(distances: torch.Tensor, usual: Usual) -> torch.Tensor:
    return (distances - usual.mean) / usual.spread
