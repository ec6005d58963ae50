"""What is decided before a training starts: its plan, and the rates, weights and optimizer that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

from loupe.algorithm.augmentation import Augmentation


@dataclass(frozen=True)
class TrainingPlan:
    """Everything about a training that is decided before it starts.

    size: picture side in pixels. epochs: at most so many; the learning rate falls along a cosine over all of them.
    optimizer: "sgd" has Nesterov's momentum of 0.9. learning_rate: the highest. weight_decay: of matrices and filters,
    not of biases and norms. label_smoothing: the part of a label that is shared out over all classes. warm_up: the
    part of all steps over which the rate rises. patience: epochs without a better validation accuracy after which
    training has reached its plateau. balance: 0 counts every picture the same, 1 every class the same.
    mean, std: what pictures in 0..1 are normalised with, per RGB channel. augmentation: None changes no picture.
    batch_norm: "freeze" keeps the statistics and learns scale and shift only. rates: learning rates of parts of the
    network as a part of learning_rate, by the beginning of their parameters' names; 1 for the others.
    mixup: inputs and labels are blended in pairs, in shares drawn from Beta(mixup, mixup) (Zhang et al., "mixup: Beyond
    Empirical Risk Minimization", 2018); 0 for none. average: the decay, a step, of a moving average of the weights,
    which is then what is measured and kept (Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", 1992); 0 for none. blends: at the end, weights that are by these parts the trained ones and else those
    that training began with are tried too (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).
    looks: how often the validation pictures are looked at in the first epoch; in later ones it is once. floor: the
    validation accuracy that training began with; it is left when it is clearly below that at two looks in a row, in the
    beginning far below.
    """

    size: int
    epochs: int
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    warm_up: float = 0.05
    patience: int = 10
    balance: float = 0.5
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    batch_norm: Literal["learn", "freeze"] = "learn"
    rates: Mapping[str, float] = field(default_factory=dict)
    mixup: float = 0.0
    average: float = 0.0
    blends: Sequence[float] = ()
    looks: int = 1
    floor: float = 0.0


def steps_per_epoch(pictures: int, batch_size: int) -> int:
    """Return the number of batches; a last one of a single picture is left out, as batch norm cannot take it.

    >>> steps_per_epoch(64, batch_size=32), steps_per_epoch(65, batch_size=32), steps_per_epoch(66, batch_size=32)
    (2, 2, 3)
    """
    steps = math.ceil(pictures / batch_size)
    return steps - 1 if steps > 1 and pictures % batch_size == 1 else steps


def learning_rate(plan: TrainingPlan, step: int, steps: int) -> float:
    """Return the rate of a step, from 0: it rises evenly in the warm-up and then falls along a cosine to a hundredth.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017; without restarts.
    """
    warm_up = max(1, int(plan.warm_up * steps))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    part = (step - warm_up) / max(1, steps - warm_up)
    return plan.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def class_weights(counts: np.ndarray, balance: float) -> torch.Tensor:
    """Return float32 [C], larger for rarer classes, 1 on average over the pictures.

    counts: int [C], pictures of each class. balance: as in TrainingPlan. A class without pictures gets 1: no picture
    of it occurs in the loss.

    >>> class_weights(np.array([30, 10]), balance=1.0)
    tensor([0.6667, 2.0000])
    """
    known = counts > 0
    weights = np.ones(len(counts))
    weights[known] = (counts[known].mean() / counts[known]) ** balance
    weights[known] *= counts[known].sum() / (weights[known] * counts[known]).sum()
    return torch.tensor(weights, dtype=torch.float32)


def make_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Return the plan's optimizer over the network's trainable parameters; biases and norms do not decay.

    Each group's "part" says by how much its learning rate differs from the plan's.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = next((part for prefix, part in plan.rates.items() if name.startswith(prefix)), 1.0)
            members.setdefault((part, parameter.ndim > 1), []).append(parameter)
    groups = [
        {"params": parameters, "part": part, "weight_decay": plan.weight_decay if decays else 0.0}
        for (part, decays), parameters in sorted(members.items(), key=lambda each: each[0], reverse=True)
    ]
    # Fused, an AdamW step over resnet18 takes a third of the time on a CPU.
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)
