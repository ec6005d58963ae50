"""Few patches that stand for very many: what is remembered of the good parts."""

from __future__ import annotations

import math

import torch

CANDIDATES = 20_000
"""Patches that a choice is made from at most, drawn by the seed: the time of a choice grows with them."""
PROJECTED = 64
"""The dimensions in which distances are compared while choosing (Johnson and Lindenstrauss, 1984)."""

ROUNDING = 1e-5
"""How far the square of a distance may be off, as a part of the square of a feature's length."""


def greedy_coreset(patches: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return int64 [K], K at most `count`: rows such that no row is far from all of them; all where there are few.

    patches: float32 [N, D]. Each next one is the farthest from those chosen so far, in a random projection: Roth et
    al., "Towards Total Recall in Industrial Anomaly Detection", 2022, algorithm 1; of CANDIDATES of them. It ends where
    every row equals a chosen one.
    """
    rows = torch.randperm(len(patches), generator=generator)[:CANDIDATES]
    if len(rows) <= count:
        return rows.sort().values
    width = patches.shape[1]
    points = patches[rows]
    if width > PROJECTED:
        points = points @ torch.randn(width, PROJECTED, generator=generator) / math.sqrt(PROJECTED)
    squares = (points**2).sum(dim=1)
    nearest = torch.full((len(rows),), math.inf)
    chosen = [0]
    while len(chosen) < count:
        last = points[chosen[-1]]
        nearest = torch.minimum(nearest, squares - 2 * (points @ last) + last @ last)
        nearest[chosen[-1]] = -math.inf
        farthest = int(nearest.argmax())
        if nearest[farthest] <= ROUNDING * squares[farthest]:
            break
        chosen.append(farthest)
    return rows[torch.tensor(chosen)].sort().values
