"""Short trials on features: which changes to training pictures these pictures bear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from loupe.algorithm.augmentation import Augmentation, Flips, augment_pixels

from .head import Table, solve_head

SAMPLE = 400
"""Pictures of each part that a trial looks at."""

Features = Callable[[np.ndarray], np.ndarray]
"""uint8 [B, size, size, 3] to float32 [B, D]."""


def candidates(flips: Flips) -> dict[str, Augmentation | None]:
    """Return the ways to change pictures, by name, the gentlest first."""
    mirrored = Augmentation(flips, rotation=0.0, shift=0.0, scale=0.0, brightness=0.0, contrast=0.0)
    return {
        "none": None,
        "flips": mirrored,
        "light": Augmentation(flips, rotation=3.0, shift=0.03, scale=0.05, brightness=0.05, contrast=0.1),
        "full": Augmentation(flips),
    }


def sample(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return at most SAMPLE of the rows, drawn by the seed, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLE])


def choose_augmentation(
    ways: dict[str, Augmentation | None],
    features: Features,
    *,
    train: tuple[np.ndarray, torch.Tensor],
    validation: tuple[np.ndarray, torch.Tensor],
    weights: torch.Tensor,
    decay: float,
    seed: int,
) -> tuple[str, dict[str, float]]:
    """Return the way under which a head gets better on unchanged validation pictures, and each way's loss there.

    A head learns from the sample and a changed copy of it: changes that a class does not survive (a flaw of a few
    pixels that is resampled, light that is itself the class) give it wrong examples, and the loss rises.
    train, validation: pictures uint8 [N, size, size, 3] and classes int64 [N]. weights: float32 [C], of the classes in
    the loss. decay: the head's weight decay. Losses are mean negative log-likelihoods in nats.
    """
    pictures, classes = train
    plain = torch.from_numpy(_batched(features, pictures))
    held_out, truth = torch.from_numpy(_batched(features, validation[0])), validation[1]
    losses: dict[str, float] = {}
    for name, way in ways.items():
        # Without changes the pictures stand there twice as well, so that every head learns from equally many.
        changed = (
            plain
            if way is None
            else torch.from_numpy(
                _batched(features, augment_pixels(pictures, way, torch.Generator().manual_seed(seed)))
            )
        )
        table = Table(torch.cat([plain, changed]), torch.cat([classes, classes]), weights)
        head = solve_head(table, decay)
        losses[name] = functional.cross_entropy(held_out @ head[:, :-1].T + head[:, -1], truth).item()
    return min(losses, key=lambda name: losses[name]), losses


def _batched(features: Features, pictures: np.ndarray, batch: int = 32) -> np.ndarray:
    return np.concatenate([features(pictures[at : at + batch]) for at in range(0, len(pictures), batch)])
