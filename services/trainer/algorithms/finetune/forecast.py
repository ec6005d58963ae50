"""What the first head tells about the rest: how many more pictures the target needs, and of which class.

Errors fall with the pictures as error(n) = a * n^-b + c: Cortes et al., "Learning Curves: Asymptotic Values and Rate of
Convergence", 1994; Hestness et al., "Deep Learning Scaling is Predictable, Empirically", 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from loupe.forecast import BEYOND, SHOWN_LABELS, more_pictures
from loupe.tasks.classification import ACCURACY, LOWEST_RECALL, Scorer
from loupe.tasks.objective import Objective, spoken

from .head import COMPARED, Head, Table, solve_head
from .pace import Step, spoken_seconds

PARTS = ((1 / 8, 3), (1 / 4, 3), (1 / 2, 2))
"""The parts of the training pictures that heads are fitted to, and how many draws of each; the whole has its head."""

FEWEST = 32
REPLICATES = 200
STEEPEST = 1.0
FLOORS = (0.0, 0.25, 0.5, 0.75, 0.9)
"""What c may be, as parts of the least error."""

SUPPORT = 4.0
"""A floor must make the squared residuals so many times smaller."""

RANGE = (0.1, 0.9)
CLOSE = 0.7
HELPFUL = 0.75
"""More pixels must have brought the errors down to such a part before a guess is made for still more."""


@dataclass(frozen=True)
class Forecast:
    """What a learning curve says about a target, once more for each model that is better than the first head.

    curve: of `learning_curve`; None without one. objective: a share that is to be reached. score: the best model's.
    labels: all class names. A better model's errors are taken to fall with the pictures as the first head's do.
    """

    curve: Mapping[str, Any] | None
    objective: Objective
    score: float
    labels: Sequence[str]

    def message(self, scores: Mapping[int, float], step: Step | None, left: float) -> str:
        """Return the line for people; empty where there is nothing to say.

        scores: of the heads so far, by size. step: the next one, None at the top. left: seconds of the budget.
        """
        parts = []
        if self.curve is not None:
            low, high = self._range()
            parts.append(more_pictures(self._wanted(), low, high, self._classes()))
        if step is None:
            return "; ".join(parts)
        if step.depth == "head" and (guess := score_at(scores, step.size)) is not None:
            parts.append(f"{step.size} px may bring {guess[0]:.1%} to {guess[1]:.1%}")
        if left <= 0:
            parts.append("the budget is used up")
        elif step.seconds is not None:
            way = f"{step.size} px" if step.depth == "head" else f"fine-tuning at {step.size} px"
            took = spoken_seconds(step.seconds)
            if step.seconds > left:
                parts.append(f"the next step, {way}, takes about {took}, but the budget ends in {spoken_seconds(left)}")
            else:
                parts.append(f"the next step, {way}, is done in about {took}")
        return "; ".join(parts)

    def notes(self, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return what goes into the report, JSON-able; None without a curve. steps: those foretold, with their seconds.

        low, high: more training pictures needed; None is more than BEYOND times as many. points: of the first head.
        """
        if self.curve is None:
            return None
        _, exponent, floor = np.median(np.asarray(self.curve["laws"]), axis=0)
        low, high = self._range()
        return {
            "low": low,
            "high": high,
            "classes": self._classes(),
            "metric": self.objective.metric,
            "points": self.curve["points"],
            "exponent": round(float(exponent), 3),
            "floor": round(float(floor), 3),
            "steps": list(steps),
        }

    def _range(self) -> tuple[int | None, int | None]:
        assert self.curve is not None
        least, pictures = self.curve["least"], self.curve["points"][-1]["pictures"]
        laws = np.asarray(self.curve["laws"])
        return pictures_needed(laws, pictures, max(1 - self.score, least), max(1 - self.objective.bound, least))

    def _classes(self) -> list[str]:
        return [self.labels[each] for each in self.curve["classes"]] if self.curve else []

    def _wanted(self) -> str:
        share = f"{100 * self.objective.bound:.4g} %"
        return share if self.objective.metric == ACCURACY else f"{spoken(self.objective.metric)} {share}"


@dataclass(frozen=True)
class Measured:
    """Heads fitted to parts of the training pictures, the smallest first; the last one to all.

    counts: int64 [S, C], pictures of each class in each part. right: S arrays of bool [draws, V], the validation
    pictures that were told right. truth: int64 [V], their classes.
    """

    counts: np.ndarray
    right: Sequence[np.ndarray]
    truth: np.ndarray

    @property
    def pictures(self) -> np.ndarray:
        """The pictures of each part, int64 [S]."""
        total: np.ndarray = self.counts.sum(axis=1)
        return total

    def recalls(self) -> np.ndarray:
        """Return the right pictures of each class and part, on average over the draws: float [S, C]."""
        found: np.ndarray = np.stack(
            [each.mean(axis=0) @ _one_hot(self.truth, self.counts.shape[1]) for each in self.right]
        )
        return found

    def errors(self, scorer: Scorer) -> np.ndarray:
        """Return 1 - score of each part, float [S], the mean over the draws."""
        sums = np.ones((1, len(self.truth)))
        return np.array([np.mean([_errors(scorer, sums, one, self) for one in each]) for each in self.right])


def measure(train: Table, validation: Table, head: Head, seed: int) -> Measured | None:
    """Fit heads to parts of the training rows, stratified by class; None for fewer than FEWEST rows.

    head: the one of all rows. seed: draws the parts. Parts are of COMPARED rows where there are more.
    """
    classes, truth = train.classes.numpy(), validation.classes.numpy()
    if len(classes) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    base = rng.permutation(len(classes))[:COMPARED]
    counts, right = [], []
    for part, draws in PARTS:
        drawn = [stratified(classes, rng.permutation(base), part) for _ in range(draws)]
        heads = [solve_head(train.rows(rows), head.decay) for rows in drawn]
        counts.append(np.bincount(classes[drawn[0]], minlength=len(train.weights)))
        right.append(np.stack([_right(validation, each[:, :-1], each[:, -1]) for each in heads]))
    counts.append(np.bincount(classes, minlength=len(train.weights)))
    right.append(_right(validation, head.weight, head.bias)[None])
    return Measured(np.stack(counts), right, truth)


def stratified(classes: np.ndarray, rows: np.ndarray, part: float) -> np.ndarray:
    """Return the first of the rows, a part of each class, at least one; all draws of the same rows are as many."""
    kept = []
    for number in np.unique(classes[rows]):
        members = rows[classes[rows] == number]
        kept.append(members[: max(1, round(part * len(members)))])
    return np.sort(np.concatenate(kept))


def fit_laws(pictures: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Fit a law to each row of errors by least squares in log space: float [R, 3], the level, the exponent, the floor.

    pictures: [S], rising. errors: [R, S], above 0. error(n) = level * ((1 - floor) * (n / pictures[-1]) ** -exponent
    + floor), with exponents of 0 to STEEPEST; a floor only where four points or more are far better met with it.
    """
    x = np.log(pictures / pictures[-1])
    centred = x - x.mean()
    best, least = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for part in FLOORS if len(pictures) >= 4 else FLOORS[:1]:
        floor = part * errors.min(axis=1)
        y = np.log(errors - floor[:, None])
        exponent = np.clip(-(y @ centred) / (centred @ centred), 0.0, STEEPEST)
        now = y.mean(axis=1) + exponent * x.mean()
        residuals = np.square(y - now[:, None] + exponent[:, None] * x)
        # In logarithms of errors, not of what is above the floor, so that floors can be compared.
        squares = (residuals * np.square(1 - floor[:, None] / errors)).sum(axis=1)
        better = squares * (SUPPORT if part else 1.0) < least
        level = np.exp(now) + floor
        best[better] = np.stack([level, exponent, floor / level], axis=1)[better]
        least = np.where(better, squares * (SUPPORT if part else 1.0), least)
    return best


def learning_laws(measured: Measured, scorer: Scorer, seed: int) -> np.ndarray:
    """Return REPLICATES laws as `fit_laws` does, of resampled draws and validation pictures; levels relative to the
    error of all training pictures as it was measured.
    """
    rng = np.random.default_rng(seed)
    often = np.zeros((REPLICATES, len(measured.truth)))
    for number in np.unique(measured.truth):
        members = np.flatnonzero(measured.truth == number)
        often[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), REPLICATES)
    columns = []
    for each in measured.right:
        errors = np.stack([_errors(scorer, often, one, measured) for one in each])
        chosen = rng.integers(0, len(each), (len(each), REPLICATES))
        columns.append(np.take_along_axis(errors, chosen, axis=0).mean(axis=0))
    least = smallest_error(measured)
    laws = fit_laws(measured.pictures, np.maximum(np.stack(columns, axis=1), least))
    laws[:, 0] /= max(measured.errors(scorer)[-1], least)
    return laws


def learning_curve(measured: Measured, scorer: Scorer, seed: int) -> dict[str, Any]:
    """Return what a `Forecast` needs, fit for a checkpoint: points, laws, the neediest classes, the least error."""
    pairs = zip(measured.pictures.tolist(), measured.errors(scorer).tolist(), strict=True)
    return {
        "points": [{"pictures": pictures, "score": round(1 - error, 6)} for pictures, error in pairs],
        "laws": learning_laws(measured, scorer, seed),
        "classes": neediest(measured, scorer),
        "least": smallest_error(measured),
    }


def smallest_error(measured: Measured) -> float:
    """Return the error of half a validation picture: less cannot be told from none."""
    return 0.5 / len(measured.truth)


def pictures_needed(laws: np.ndarray, pictures: int, error: float, wanted: float) -> tuple[int | None, int | None]:
    """Return how many more pictures bring an error down to the wanted one: low and high of RANGE, two digits each.

    None is more than BEYOND times as many. pictures: those that gave the error. laws: of `learning_laws`.
    """
    level, exponent, floor = laws.T
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        above = (wanted / (error * level) - floor) / (1 - floor)
        times = np.where(above >= 1, 1.0, np.where((above > 0) & (exponent > 0), above ** (-1 / exponent), np.inf))
    ends = np.quantile(times, RANGE, method="nearest")
    low, high = (None if end > BEYOND else _two_digits((end - 1) * pictures) for end in ends)
    return low, high


def neediest(measured: Measured, scorer: Scorer) -> list[int]:
    """Return the classes, at most two, of which one more picture lowers the error most; none where nothing helps.

    A class's error falls with its own pictures, with an exponent between that of its own curve, noisy, and that of
    all classes: its slope is exponent * error / pictures.
    """
    total = np.bincount(measured.truth, minlength=measured.counts.shape[1])
    seen = total > 0
    errors = (total - measured.recalls() + 0.5) / (total + 1)
    x = np.log(measured.pictures / measured.pictures[-1])
    x = x - x.mean()
    own = np.clip(-(x @ np.log(errors)) / (x @ x), 0.0, STEEPEST)
    common = np.clip(-(x @ np.log(errors @ total / total.sum())) / (x @ x), 0.0, STEEPEST)
    slopes = np.where(seen, (own + common) / 2 * errors[-1] / np.maximum(measured.counts[-1], 1), 0.0)
    if scorer.number is not None:
        slopes = np.where(np.arange(len(slopes)) == scorer.number, slopes, 0.0)
    elif scorer.metric == ACCURACY:
        slopes = slopes * total
    elif scorer.metric == LOWEST_RECALL:
        slopes = np.where(errors[-1] >= errors[-1][seen].max() * CLOSE, slopes, 0.0)
    order = np.argsort(-slopes, kind="stable")[:SHOWN_LABELS]
    return [int(each) for each in order if slopes[each] > 0 and slopes[each] >= CLOSE * slopes[order[0]]]


def score_at(scores: Mapping[int, float], size: int) -> tuple[float, float] | None:
    """Return the range in which a head's score may fall at a larger size; None where more pixels did not clearly help.

    scores: by size. The low end is the last one, the high end what comes out if errors go on falling per pixel.

    >>> [round(each, 4) for each in score_at({64: 0.92, 128: 0.96}, 256)]
    [0.96, 0.98]
    """
    if len(scores) < 2:
        return None
    before, last = sorted(scores)[-2:]
    errors = 1 - scores[before], 1 - scores[last]
    if not 0 < errors[1] <= HELPFUL * errors[0]:
        return None
    exponent = np.log(errors[1] / errors[0]) / np.log(last / before)
    return scores[last], 1 - float(errors[1] * (size / last) ** exponent)


def _right(validation: Table, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
    answers = (validation.features @ weight.T + bias).argmax(dim=1)
    right: np.ndarray = (answers == validation.classes).numpy()
    return right


def _one_hot(truth: np.ndarray, classes: int) -> np.ndarray:
    rows: np.ndarray = np.eye(classes)[truth]
    return rows


def _errors(scorer: Scorer, often: np.ndarray, right: np.ndarray, measured: Measured) -> np.ndarray:
    """Return 1 - score, float [R], of validation pictures that count so often, [R, V]."""
    hot = _one_hot(measured.truth, measured.counts.shape[1])
    found, total = often @ (hot * right[:, None]), often @ hot
    return np.array([1 - scorer.of_counts(*row) for row in zip(found.tolist(), total.tolist(), strict=True)])


def _two_digits(number: float) -> int:
    """Round to two digits; at least 1."""
    return max(1, int(float(f"{number:.2g}")))
