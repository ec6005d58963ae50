"""The training loop by itself: blended inputs and weights, the rate at the end of a budget, and leaving in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from loupe.algorithm import training
from loupe.algorithm.context import Context
from loupe.algorithm.host import Outcome
from loupe.algorithm.plan import TrainingPlan, learning_rate
from loupe.algorithm.training import TrainingLoop, fit
from loupe.tasks.objective import Objective
from tests.algorithms.conftest import CLASSIFICATION

SIZE = 8


class ByLight(nn.Module):
    """Tells three classes by a picture's mean, by a weight that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(pictures.mean(dim=(2, 3)))
        return logits


@pytest.fixture
def loop_for(bench, textures) -> Callable[..., TrainingLoop]:
    """Make loops over the textures, with a plan's own settings."""

    def make(*, seconds: float | None = None, resumes: bool = False, **plan: Any) -> TrainingLoop:
        host = bench.host("scratch", textures, target=1.0, max_seconds=seconds, resumes=resumes)
        settings = {"epochs": 4, "batch_size": 6, "augmentation": None, "label_smoothing": 0.0, "balance": 0.0}
        return TrainingLoop(Context(host, CLASSIFICATION), ByLight(), TrainingPlan(SIZE, **{**settings, **plan}))

    return make


def test_mixup_blends_labels_in_the_share_of_their_pictures(loop_for, monkeypatch) -> None:
    """A network that says a picture's place in the batch has the loss of the labels that were mixed in."""
    loop = loop_for(mixup=0.4)
    given: list[torch.Tensor] = []

    class Places(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            given.append(inputs)
            return (inputs * 5).requires_grad_()

    monkeypatch.setattr(loop, "network", Places())
    classes = torch.tensor([0, 1, 2])
    loss = loop.step(torch.eye(3), classes)
    # Each row of the input says how much of which picture it is, and so how much of which class.
    expected = functional.cross_entropy(given[0] * 5, given[0])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert 0 < given[0].max() <= 1
    assert torch.allclose(given[0].sum(dim=1), torch.ones(3))


def test_blended_weights_are_kept_where_they_measure_best(loop_for, monkeypatch) -> None:
    """Half of the way from the first weights to the trained ones is best here, a quarter the same."""
    loop = loop_for(blends=(0.25, 0.5, 0.75))
    first = {name: value.clone() for name, value in loop.network.state_dict().items()}
    trained = {name: value + 1 for name, value in first.items()}
    loop.best, loop.best_score, loop.best_accuracy = trained, 0.8, 0.8

    def measure() -> tuple[float, float, float]:
        way = (loop._judged.state_dict()["head.bias"] - first["head.bias"]).mean().item()
        score = 0.9 if way < 0.6 else 0.7
        return score, score, 0.0

    monkeypatch.setattr(loop, "measure", measure)
    monkeypatch.setattr(type(loop.context), "objective", Objective("balanced_accuracy", 0.99))
    loop.blend()
    assert loop.best_score == 0.9
    assert torch.allclose(loop.best["head.bias"], first["head.bias"] + 0.25)
    assert loop.context.history[-1]["validation_score"] == 0.9, "the score that is shown is the blend's"


def test_trained_weights_stay_where_no_blend_is_better(loop_for, monkeypatch) -> None:
    loop = loop_for(blends=(0.5,))
    loop.best, loop.best_score, loop.best_accuracy = dict(loop.network.state_dict()), 0.8, 0.8
    monkeypatch.setattr(loop, "measure", lambda: (0.79, 0.79, 0.0))
    loop.blend()
    assert loop.best_score == 0.8
    assert torch.equal(loop.best["head.bias"], loop.network.head.bias)


@pytest.mark.parametrize(("left", "behind"), [(100.0, 0.0), (50.0, 0.5), (0.0, 1.0), (-5.0, 1.0)])
def test_the_rate_falls_with_the_time_that_is_left(loop_for, monkeypatch, left: float, behind: float) -> None:
    loop = loop_for(seconds=100.0)
    monkeypatch.setattr(loop, "_seconds", 100.0)
    monkeypatch.setattr(loop.context, "seconds_left", lambda: left)
    assert loop._place(1, 1) == pytest.approx(behind * loop.steps * loop.epochs)
    rate = learning_rate(loop.plan, loop._place(1, 1), loop.steps * loop.epochs)
    assert rate <= loop.plan.learning_rate * (1.0 if behind < 1 else 0.011)


def test_with_time_enough_the_rate_depends_on_the_steps_alone(loop_for, monkeypatch) -> None:
    """The same weights come out of a run that was cut off, however long its steps took."""
    loop = loop_for(seconds=14_400.0)
    monkeypatch.setattr(loop, "_seconds", 14_400.0)
    monkeypatch.setattr(loop.context, "seconds_left", lambda: 14_398.7)
    assert [loop._place(1, 1), loop._place(1, 2)] == [0, 1]


def test_without_a_budget_the_rate_depends_on_the_steps_alone(loop_for) -> None:
    loop = loop_for()
    assert math.isinf(loop.context.seconds_left())
    assert [loop._place(1, 1), loop._place(2, 3)] == [0, loop.steps + 2]
    assert loop.state()["seconds"] is None


def test_what_is_written_after_the_budget_has_cut_a_training_off_replaces_nothing(bench, textures) -> None:
    """An image that winds up takes what was cut for done; who resumes it does not."""
    host = bench.host("scratch", textures, target=1.0, max_seconds=1e-6)
    context = Context(host, CLASSIFICATION)
    plan = TrainingPlan(SIZE, epochs=4, batch_size=6, augmentation=None)
    assert fit(context, ByLight(), plan).outcome is Outcome.BUDGET
    context.checkpoint({"done": True})
    kept = Context(host, CLASSIFICATION).restore()
    assert kept is not None and kept["epoch"] == 1


def test_a_job_that_resumes_another_ends_with_its_own_budget(loop_for) -> None:
    """The rate would be that of the other's last seconds."""
    state = loop_for(seconds=14_400.0).state()
    resumed, restarted = loop_for(seconds=60.0, resumes=True), loop_for(seconds=60.0)
    for loop in (resumed, restarted):
        loop.load({**state, "best": {}})
    assert resumed._place(1, 1) == 0
    assert restarted._place(1, 1) > 0.9 * restarted.steps * restarted.epochs


@pytest.mark.parametrize(
    ("accuracies", "left"),
    [
        ([0.85, 0.85, 0.85, 0.85], False),
        ([0.60, 0.60, 0.90, 0.90], True),
        ([0.60, 0.90, 0.60, 0.90], False),
        ([0.90, 0.90, 0.70, 0.70], True),
    ],
    ids=["a dip in the beginning", "a collapse", "two single looks", "below at the end"],
)
def test_a_training_is_left_when_it_collapses_or_stays_below(loop_for, monkeypatch, accuracies, left: bool) -> None:
    """Two looks in a row count; a beginning is allowed a few points."""
    loop = loop_for(floor=0.88)
    monkeypatch.setattr(loop.context.data, "validation", np.arange(1000))
    for epoch, accuracy in enumerate(accuracies, start=1):
        monkeypatch.setattr(loop, "measure", lambda accuracy=accuracy: (accuracy, accuracy, 0.0))
        loop._look(epoch if accuracy != 0.85 else 1, 1)
    assert loop.left == left


def test_the_precision_is_chosen_for_the_network_that_learns(loop_for, monkeypatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(training, "autocast", lambda *given: asked.append(given) or nullcontext())
    loop = loop_for()
    loop.train_epoch()
    assert asked == [(torch.device("cpu"), loop.network)]
