"""What a detector's answers cost: classes by their wanted scores, boxes by their overlap (CIoU: Zheng et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from torchvision.ops import complete_box_iou_loss

from .points import Points
from .targets import assign

BOX_WEIGHT = 2.0


def detection_loss(
    logits: torch.Tensor,
    predicted: torch.Tensor,
    points: Points,
    truth: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """Return the mean loss, a scalar, of logits [N, A, C] and boxes [N, A, 4].

    truth: boxes [G, 4] in pixels and classes int64 [G] of each picture.
    """
    scores = logits.detach().sigmoid()
    targets = [
        assign(own, boxes, points, *wanted)
        for own, boxes, wanted in zip(scores, predicted.detach(), truth, strict=True)
    ]
    wanted = torch.stack([each.scores for each in targets])
    mass = wanted.sum().clamp(min=1.0)
    kinds = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    got = torch.cat([boxes[each.learning] for boxes, each in zip(predicted, targets, strict=True)])
    boxes, weights = torch.cat([each.boxes for each in targets]), torch.cat([each.weights for each in targets])
    sides = (complete_box_iou_loss(got, boxes) * weights).sum()
    loss: torch.Tensor = (kinds + BOX_WEIGHT * sides) / mass
    return loss
