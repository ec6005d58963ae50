"""The algorithm image `detect`: a light detector on a pretrained trunk, trained for as long as the budget lasts."""

from __future__ import annotations

import torch

from loupe.algorithm import Context

from .augment import Changes
from .network import ready_to_export
from .sizes import choose_size
from .training import Plan, Training
from .trunk import MEAN, STD
from .variants import VARIANTS, choose_variant

EPOCHS = 120


def train(context: Context) -> None:
    """Train a detector until its objective, its last epoch or the end of the budget. Raises Stopped."""
    torch.manual_seed(context.seed)
    chosen = context.parameters
    kept = context.restore()
    variant = VARIANTS[kept["variant"]] if kept else choose_variant(chosen["network"], context.device)
    size = kept["size"] if kept else choose_size(context, variant)
    network = variant.build(size, len(context.data.labels))
    plan = Plan(
        variant=variant.name,
        epochs=chosen["epochs"] or EPOCHS,
        batch_size=chosen["batch_size"] or variant.batch_size,
        learning_rate=chosen["learning_rate"] or variant.learning_rate,
        changes=Changes(across=chosen["flips"] != "none", down=chosen["flips"] == "both", zoom=chosen["zoom"]),
    )
    training = Training(context, network, plan)
    if kept:
        training.load(kept)
    outcome = training.run()
    context.finish_detector(
        ready_to_export(network),
        size=size,
        architecture=variant.architecture,
        outcome=outcome,
        mean=MEAN,
        std=STD,
        notes={
            "weights": f"trunk from package {variant.backbone.package}",
            "network": variant.name,
            "way": f"{training.epoch} epochs at {size} px, the best of them was {training.best_epoch}",
            "epochs": training.epoch,
            "best_epoch": training.best_epoch,
        },
    )
