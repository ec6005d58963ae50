"""The algorithm image `detect`: a light detector on a pretrained trunk, trained for as long as the budget lasts."""

from __future__ import annotations

import torch

from loupe.algorithm import Context

from .augment import Changes
from .network import Detector, ready_to_export
from .sizes import choose_size
from .training import Plan, Training
from .trunk import MEAN, NAME, PACKAGE, STD, build_trunk

EPOCHS = 120


def train(context: Context) -> None:
    """Train a detector until its objective, its last epoch or the end of the budget. Raises Stopped."""
    torch.manual_seed(context.seed)
    chosen = context.parameters
    kept = context.restore()
    size = kept["size"] if kept else choose_size(context)
    network = Detector(build_trunk(), size, len(context.data.labels))
    plan = Plan(
        epochs=chosen["epochs"] or EPOCHS,
        batch_size=chosen["batch_size"],
        learning_rate=chosen["learning_rate"],
        changes=Changes(across=chosen["flips"] != "none", down=chosen["flips"] == "both", zoom=chosen["zoom"]),
    )
    training = Training(context, network, plan)
    if kept:
        training.load(kept)
    outcome = training.run()
    context.finish_detector(
        ready_to_export(network),
        size=size,
        architecture=f"{NAME} + anchor-free head",
        outcome=outcome,
        mean=MEAN,
        std=STD,
        notes={
            "weights": f"trunk from package {PACKAGE}",
            "way": f"{training.epoch} epochs at {size} px, the best of them was {training.best_epoch}",
            "epochs": training.epoch,
            "best_epoch": training.best_epoch,
        },
    )
