"""The algorithm image `finetune`: a ladder from frozen features with a linear head up to fine-tuning everything."""

from __future__ import annotations

import torch

from loupe.algorithm import Context

from .backbones import build_backbone, with_levels
from .ladder import Ladder


def train(context: Context) -> None:
    """Climb the ladder, the cheap stages first, until the target accuracy, the plateau or the budget."""
    torch.manual_seed(context.seed)
    backbone = build_backbone(context.parameters["backbone"], context.weights.get("weights"))
    if backbone.pretrained and context.parameters["levels"] == "several":
        backbone = with_levels(backbone)
    Ladder(context, backbone).climb()
