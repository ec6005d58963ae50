"""Random changes to a batch of training pictures, which their boxes follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from torchvision.ops import box_area

FILL = 114 / 255
LEAST_LEFT = 0.3
"""The part of a box that must be left of it when it is cut at the border; else it is nobody's."""

Truth = tuple[torch.Tensor, torch.Tensor]
"""A picture's boxes, float32 [G, 4], and their classes, int64 [G]."""


@dataclass(frozen=True)
class Changes:
    """How far pictures are changed, each by its own draw.

    across, down: whether they are mirrored. zoom: they are enlarged and reduced by up to this factor, and cut or put
    anywhere in the square. brightness, contrast: as a part of the range of values.
    """

    across: bool = True
    down: bool = True
    zoom: float = 1.15
    brightness: float = 0.15
    contrast: float = 0.25


@dataclass(frozen=True)
class _Moves:
    """Where pictures go: mirrored where signs [N, 2] are -1, then shrunk to zoom [N], their corner at place [N, 2]."""

    signs: torch.Tensor
    zoom: torch.Tensor
    place: torch.Tensor


def change(
    pictures: torch.Tensor, truth: list[Truth], how: Changes, generator: torch.Generator
) -> tuple[torch.Tensor, list[Truth]]:
    """Return changed pictures, float [N, 3, S, S] in 0..1 as they came, and what is left of their boxes in 0..1.

    What lies beyond the border is grey. The pictures stay on their device; generator and boxes are on the CPU, so that
    every device gets the same.
    """
    moves = _draw(len(pictures), how, generator)
    grid = _grid(moves, pictures)
    moved = functional.grid_sample(pictures - FILL, grid, align_corners=False).add_(FILL)
    gain, lift = (
        ((torch.rand(len(pictures), 1, 1, 1, generator=generator) * 2 - 1) * reach).to(pictures.device)
        for reach in (how.contrast, how.brightness)
    )
    moved = moved.sub_(0.5).mul_(1 + gain).add_(0.5 + lift).clamp_(0, 1)
    return moved, [_moved(*own, moves, at) for at, own in enumerate(truth)]


def _draw(count: int, how: Changes, generator: torch.Generator) -> _Moves:
    signs = torch.randint(0, 2, (count, 2), generator=generator) * 2 - 1
    zoom = how.zoom ** (torch.rand(count, generator=generator) * 2 - 1)
    # What is smaller than the square lies anywhere within, what is larger covers all of it.
    place = torch.rand(count, 2, generator=generator) * (1 - zoom)[:, None]
    return _Moves(torch.where(torch.tensor([how.across, how.down]), signs, 1), zoom, place)


def _grid(moves: _Moves, pictures: torch.Tensor) -> torch.Tensor:
    """Return for each point of the changed pictures where it comes from, [N, S, S, 2] in -1..1, on their device."""
    centres = 2 * moves.place + moves.zoom[:, None] - 1
    theta = torch.diag_embed(moves.signs / moves.zoom[:, None])
    shift = -moves.signs * centres / moves.zoom[:, None]
    theta = torch.cat([theta, shift[..., None]], dim=2).to(pictures.device)
    return functional.affine_grid(theta, list(pictures.shape), align_corners=False)


def _moved(boxes: torch.Tensor, classes: torch.Tensor, moves: _Moves, at: int) -> Truth:
    low, high = boxes[:, :2], boxes[:, 2:]
    mirrored = moves.signs[at] < 0
    low, high = torch.where(mirrored, 1 - high, low), torch.where(mirrored, 1 - low, high)
    whole = torch.cat([low, high], dim=1) * moves.zoom[at] + moves.place[at].repeat(2)
    cut = whole.clamp(0, 1)
    left = box_area(cut) >= LEAST_LEFT * box_area(whole)
    return cut[left], classes[left]
