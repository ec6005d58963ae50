"""The algorithm image `detect`: a light detector on a pretrained trunk, trained for as long as the budget lasts."""

from __future__ import annotations

import numpy as np
import torch

from loupe.algorithm import Context, UnusableData

from .augment import Changes
from .network import Detector, ready_to_export
from .sizes import choose_size
from .training import Plan, Training
from .trunk import MEAN, NAME, PACKAGE, STD, build_trunk

EPOCHS = 120


def train(context: Context) -> None:
    """Train a detector until its objective, its last epoch or the end of the budget. Raises UnusableData, Stopped."""
    check_data(context)
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


def check_data(context: Context) -> None:
    """Raise UnusableData where nothing can be learned, or nothing can tell what was."""
    data = context.data
    if not data.labels:
        raise UnusableData("the data set has no classes; a detector needs at least one")
    for name, pictures in (("training", data.train), ("validation", data.validation)):
        if not len(pictures):
            raise UnusableData(f"the data set has no {name} pictures among its {len(data)}; give each split some")
        if not np.isin(data.regions.pictures, pictures).any():
            raise UnusableData(
                f"none of the {len(pictures)} {name} pictures has a region; "
                "draw boxes around what is to be found in some of them"
            )
