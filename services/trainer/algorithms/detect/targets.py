"""Which points learn which box: those that already answer it best (TOOD: Feng et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision.ops import box_iou

from .points import Points

TOP = 10
CLASS_POWER, OVERLAP_POWER = 0.5, 6.0


@dataclass(frozen=True)
class Targets:
    """What the points of a picture learn: scores float [A, C], and for some of them boxes.

    learning: int64 [P], the points with a box. boxes: float [P, 4]. weights: float [P], each one's score.
    """

    scores: torch.Tensor
    learning: torch.Tensor
    boxes: torch.Tensor
    weights: torch.Tensor


@torch.no_grad()
def assign(
    scores: torch.Tensor,
    predicted: torch.Tensor,
    points: Points,
    boxes: torch.Tensor,
    classes: torch.Tensor,
) -> Targets:
    """Choose for each box its TOP best points within it; a point between boxes learns the one that it overlaps most.

    scores: [A, C] in 0..1. predicted: [A, 4]. boxes: [G, 4], classes: int64 [G].
    A box that holds no point gets those whose cells it lies in.
    """
    wanted = torch.zeros_like(scores)
    if not len(boxes):
        return Targets(wanted, classes[:0], boxes, boxes[:, 0])
    overlaps = box_iou(boxes, predicted)
    quality = (scores[:, classes].T ** CLASS_POWER * overlaps**OVERLAP_POWER + 1e-9) * _within(boxes, points)
    best, at = quality.topk(min(TOP, len(scores)), dim=1)
    chosen = torch.zeros_like(quality).scatter_(1, at, (best > 0).float())
    overlap, owner = ((overlaps + 1e-9) * chosen).max(dim=0)
    learning = (overlap > 0).nonzero().squeeze(1)
    owner = owner[learning]
    own = torch.zeros_like(quality)
    own[owner, learning] = quality[owner, learning]
    largest = torch.where(own > 0, overlaps, 0).amax(dim=1)
    weights = own[owner, learning] / own.amax(dim=1)[owner] * largest[owner]
    wanted[learning, classes[owner]] = weights
    return Targets(wanted, learning, boxes[owner], weights)


def _within(boxes: torch.Tensor, points: Points) -> torch.Tensor:
    """Say of each box and point, bool [G, A], whether the point is in the box, grown to the point's stride."""
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    reach = torch.maximum(halves[:, None], points.strides[None, :, None] * 0.501)
    return ((points.centres[None] - centres[:, None]).abs() < reach).all(dim=2)
