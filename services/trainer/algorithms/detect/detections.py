"""What a detector finds in pictures: the best of the boxes that overlap."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import batched_nms

from .network import Detector
from .trunk import MEAN, STD

MOST = 100
CANDIDATES = 1000
OVERLAP = 0.6
LOWEST_SCORE = 0.01
BATCH = 16

Detection = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes float32 [K, 4] in 0..1, their scores [K], and classes int64 [K]."""


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures [N, 3, H, W] in 0..1 as the network takes them; they are changed."""
    mean, std = (torch.tensor(part).view(1, 3, 1, 1).to(pictures.device) for part in (MEAN, STD))
    return pictures.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def detect(network: Detector, pictures: np.ndarray, rows: np.ndarray, device: torch.device) -> list[Detection]:
    """Return what a network in eval mode finds in pictures[rows], uint8 [N, size, size, 3], in their order.

    In float32, as the delivered model computes: in bfloat16 a score may be a hundredth off, and a target missed by it.
    """
    found: list[Detection] = []
    for at in range(0, len(rows), BATCH):
        batch = torch.from_numpy(pictures[rows[at : at + BATCH]]).to(device)
        boxes, scores = network(normalised(batch.permute(0, 3, 1, 2).float().div_(255)))
        found += [_best(*own) for own in zip(boxes.cpu(), scores.cpu(), strict=True)]
    return found


def _best(boxes: torch.Tensor, scores: torch.Tensor) -> Detection:
    """Return the MOST best of a picture's boxes [A, 4] by their scores [A, C]."""
    points, classes = (scores > LOWEST_SCORE).nonzero(as_tuple=True)
    values, order = scores[points, classes].topk(min(CANDIDATES, len(points)))
    boxes, classes = boxes[points[order]], classes[order]
    kept = batched_nms(boxes, values, classes, OVERLAP)[:MOST]
    return boxes[kept].numpy(), values[kept].numpy(), classes[kept].numpy()
