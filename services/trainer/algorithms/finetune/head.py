"""Linear heads on features: logistic regression by L-BFGS, its weight decay picked on validation pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from loupe.algorithm.threads import on_threads
from loupe.tasks.classification import ACCURACY, Scorer

DECAYS = (3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4)
ITERATIONS = 40
# Weight decays are compared on at most so many pictures; the winner is fitted to all.
COMPARED = 8_000
FOLDS = 3
# Matrix products with fewer multiplications than this are done sooner by one thread than shared out to several.
SHARED_WORK = 200_000_000


ON_ALL = Scorer(ACCURACY)


@dataclass(frozen=True)
class Head:
    """Gives logits = features @ weight.T + bias.

    weight: float32 [C, D]. bias: float32 [C]. accuracy, score: on the validation rows, 0..1, the latter by the
    metric that was asked for. decay: the weight decay picked.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    accuracy: float
    score: float
    decay: float


@dataclass(frozen=True)
class Table:
    """Features float32 [N, D] with classes int64 [N]; weights, float32 [C], say how much a row of each class counts."""

    features: torch.Tensor
    classes: torch.Tensor
    weights: torch.Tensor

    def rows(self, chosen: np.ndarray) -> Table:
        """Return the table of the chosen rows, int64 indices."""
        index = torch.from_numpy(chosen)
        return Table(self.features[index], self.classes[index], self.weights)


def fit_head(train: Table, validation: Table, seed: int, scorer: Scorer = ON_ALL) -> Head:
    """Return the head of the weight decay among DECAYS that does best on the validation rows.

    Best is the highest score by the scorer, then the highest accuracy, then the lowest log-loss.
    seed: draws the rows that decays are compared on.
    """
    mean, spread = _scale(train.features)
    compared = train
    if len(train.classes) > COMPARED:
        order = torch.randperm(len(train.classes), generator=torch.Generator().manual_seed(seed))
        compared = train.rows(order[:COMPARED].numpy())
    standard = (compared.features - mean) / spread
    held_out = (validation.features - mean) / spread
    truth, classes = validation.classes.numpy(), len(train.weights)
    best: tuple[float, float, float, float] | None = None
    solution = start = torch.zeros(len(train.weights), train.features.shape[1] + 1)
    for decay in DECAYS:
        start = _solve(standard, compared.classes, train.weights, decay, start)
        logits = held_out @ start[:, :-1].T + start[:, -1]
        answers = logits.argmax(dim=1).numpy()
        rank = (
            scorer.of_answers(truth, answers, classes),
            ON_ALL.of_answers(truth, answers, classes),
            -functional.cross_entropy(logits, validation.classes).item(),
            decay,
        )
        if best is None or rank > best:
            best, solution = rank, start
    assert best is not None
    if compared is not train:
        solution = _solve((train.features - mean) / spread, train.classes, train.weights, best[-1], solution)
    weight = solution[:, :-1] / spread
    bias = solution[:, -1] - weight @ mean
    answers = (validation.features @ weight.T + bias).argmax(dim=1).numpy()
    accuracy, wanted = (each.of_answers(truth, answers, classes) for each in (ON_ALL, scorer))
    return Head(weight, bias, accuracy, wanted, best[-1])


def solve_head(table: Table, decay: float) -> torch.Tensor:
    """Return [C, D + 1], weights and bias, fitted to a table with one weight decay."""
    mean, spread = _scale(table.features)
    start = torch.zeros(len(table.weights), table.features.shape[1] + 1)
    solution = _solve((table.features - mean) / spread, table.classes, table.weights, decay, start)
    weight = solution[:, :-1] / spread
    return torch.cat([weight, (solution[:, -1] - weight @ mean)[:, None]], dim=1)


def cross_validated(table: Table, decay: float, seed: int) -> np.ndarray:
    """Return float32 [N, C], each row's probabilities by a head that was not fitted to it, of FOLDS heads.

    seed: draws the folds. A fold that holds all rows has zeros.
    """
    fold = torch.randint(0, FOLDS, (len(table.classes),), generator=torch.Generator().manual_seed(seed)).numpy()
    probabilities = np.zeros((len(table.classes), len(table.weights)), dtype=np.float32)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if not len(outside) or not len(inside):
            continue
        train = table.rows(inside)
        mean, spread = _scale(train.features)
        start = torch.zeros(len(table.weights), table.features.shape[1] + 1)
        solution = _solve((train.features - mean) / spread, train.classes, table.weights, decay, start)
        logits = (table.features[torch.from_numpy(outside)] - mean) / spread @ solution[:, :-1].T + solution[:, -1]
        probabilities[outside] = logits.softmax(dim=1).numpy()
    return probabilities


def _scale(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-3)


def _solve(
    features: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, decay: float, start: torch.Tensor
) -> torch.Tensor:
    """Return [C, D + 1], weights and bias, that minimise weighted cross entropy + decay * |weights|^2 / 2.

    By L-BFGS: Liu and Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", 1989.
    """
    solution = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [solution], lr=1.0, max_iter=ITERATIONS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features @ solution[:, :-1].T + solution[:, -1]
        loss = functional.cross_entropy(logits, classes, weight=weights)
        loss = loss + 0.5 * decay * solution[:, :-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return loss

    shared = features.numel() * len(weights) >= SHARED_WORK
    with on_threads(torch.get_num_threads() if shared else 1):
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch has no types here
    return solution.detach()
