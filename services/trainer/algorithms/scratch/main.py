"""The algorithm image `scratch`: a torchvision network trained from random weights."""

from __future__ import annotations

import torch
import torchvision

from loupe.algorithm import Context, TrainingPlan, fit
from loupe.algorithm.augmentation import Augmentation


def train(context: Context) -> None:
    """Fit the chosen network until the target accuracy, the plateau or the budget. Raises Stopped."""
    chosen = context.parameters
    name = chosen["network"]
    if name not in torchvision.models.list_models(module=torchvision.models):
        known = ", ".join(torchvision.models.list_models(module=torchvision.models, include="resnet*"))
        raise ValueError(f"parameter 'network': torchvision has no classifier {name!r}; for example {known}")
    torch.manual_seed(context.seed)
    network = torchvision.models.get_model(name, weights=None, num_classes=len(context.data.labels))
    plan = TrainingPlan(
        size=chosen["size"],
        epochs=chosen["epochs"],
        batch_size=chosen["batch_size"],
        learning_rate=chosen["learning_rate"],
        optimizer=chosen["optimizer"],
        patience=chosen["patience"],
        augmentation=Augmentation(flips=chosen["flips"]),
    )
    fitted = fit(context, network, plan)
    context.finish(
        network,
        size=plan.size,
        mean=plan.mean,
        std=plan.std,
        architecture=f"torchvision/{name}",
        outcome=fitted.outcome,
        notes={"weights": "trained from random weights", "epochs": fitted.epochs},
    )
