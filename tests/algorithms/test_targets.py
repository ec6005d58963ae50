"""A run is judged by the metric that its target is one of: the best epoch, the end, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from loupe.algorithm.__main__ import app
from loupe.algorithm.context import Context
from loupe.algorithm.host import Outcome
from loupe.algorithm.local import read_folder
from loupe.algorithm.plan import TrainingPlan
from loupe.algorithm.training import TrainingLoop
from tests.algorithms.conftest import CLASSIFICATION, IMAGES, Recorder, write_pictures

RARE, COMMON = 0, 1
EPOCHS = ((0, 8), (2, 5), (1, 8))
"""How many of the 2 rare and of the 8 common validation pictures are found in each epoch."""


def answers(classes: np.ndarray, found: tuple[int, int]) -> np.ndarray:
    """Return answers that find so many pictures of each class."""
    said = 1 - classes
    for number, right in enumerate(found):
        said[np.flatnonzero(classes == number)[:right]] = number
    return said


class Scripted(TrainingLoop):
    """A training whose network says what it is told to."""

    said: np.ndarray

    def validate(self) -> tuple[np.ndarray, float]:
        return self.said, 0.5


@pytest.mark.parametrize(
    ("asked", "best", "reached"),
    [
        (("accuracy", 0.9), 3, True),
        (("lowest_recall", 0.9), 2, False),
        (("lowest_recall", 0.625), 2, True),
        (("balanced_accuracy", 0.8), 2, True),
        (("recall[a rare one]", 0.9), 2, True),
        (("recall[common]", 0.99), 3, True),
    ],
)
def test_the_best_epoch_and_the_end_go_by_the_metric(
    bench, tmp_path, asked: tuple[str, float], best: int, reached: bool
) -> None:
    metric, target = asked
    folder = read_folder(write_pictures(tmp_path / "p", {"a rare one": 10, "common": 40}))
    recorder = Recorder()
    context = Context(bench.host("scratch", folder, target=target, metric=metric, recorder=recorder), CLASSIFICATION)
    assert context.objective.metric == metric
    classes = context.data.classes[context.data.validation]
    assert np.bincount(classes).tolist() == [2, 8]
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loop = Scripted(context, network, TrainingPlan(size=32, epochs=30))
    for epoch, found in enumerate(EPOCHS, start=1):
        loop.said = answers(classes, found)
        loop.epoch = epoch
        loop.validate_epoch()
    assert loop.best_epoch == best
    assert loop.verdict() is (Outcome.TARGET_REACHED if reached else None)
    assert [report.metrics["validation_accuracy"] for report in recorder.reports] == [0.8, 0.7, 0.9]
    told = [report.metrics.get("validation_score") for report in recorder.reports]
    scores = {"accuracy": [None] * 3, "lowest_recall": [0, 0.625, 0.5], "balanced_accuracy": [0.5, 0.8125, 0.75]}
    scores |= {"recall[a rare one]": [0, 1, 0.5], "recall[common]": [1, 0.625, 1]}
    assert told == scores[metric]
    again = TrainingLoop(context, network, TrainingPlan(size=32, epochs=30))
    again.load(loop.state())
    assert (again.best_score, again.verdict()) == (loop.best_score, loop.verdict())
    older = {name: value for name, value in loop.state().items() if name != "best_score"}
    again.load(older)
    assert again.best_score == loop.best_accuracy


def test_validation_answers_are_in_the_order_of_the_pictures(bench, textures) -> None:
    """A network whose answer is told by the picture alone, in more than one batch."""
    context = Context(bench.host("scratch", textures, target=0.9), CLASSIFICATION)
    data = context.data
    same = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(same.weight)
    network = nn.Sequential(same, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loop = TrainingLoop(context, network, TrainingPlan(size=32, epochs=1))
    tints = data.images(32)[data.validation].reshape(len(data.validation), -1, 3).mean(axis=1)
    assert loop.validate()[0].tolist() == tints.argmax(axis=1).tolist()


def run(*words: str):
    return CliRunner().invoke(app, ["run", str(IMAGES / "scratch"), *words], catch_exceptions=False)


def test_the_command_line_takes_a_metric_and_says_all_three(tmp_path: Path) -> None:
    """The report holds the target, its metric and the score; the last lines the figures of both splits."""
    pictures = write_pictures(tmp_path / "p", {"stripes": 20, "checks": 20})
    small = ("--param", "network=squeezenet1_1", "--param", "size=32", "--epochs", "1")
    ended = run("--data", str(pictures), "--target", "balanced_accuracy=0.4", *small, "--out", str(tmp_path / "out"))
    assert ended.exit_code in (0, 3), ended.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["objective"] == {"metric": "balanced_accuracy", "bound": 0.4, "at_most": False}
    validation = report["validation"]
    assert report["validation_score"] == validation["balanced_accuracy"]
    assert validation["lowest_recall"] == min(row["recall"] for row in validation["per_class"])
    assert (report["outcome"] == "target_reached") == (report["validation_score"] >= 0.4) == (ended.exit_code == 0)
    assert report["history"][0]["validation_score"] == pytest.approx(report["validation_score"])
    assert f"lowest recall {report['test']['lowest_recall']:.2%}" in ended.output


@pytest.mark.parametrize("target", ["f1=0.9", "1.2", "0", "many"])
def test_the_command_line_refuses_what_is_no_target(tmp_path: Path, target: str) -> None:
    told = run("--data", str(tmp_path), "--target", target)
    assert told.exit_code == 2
    assert "accuracy, balanced_accuracy, lowest_recall or recall" in " ".join(told.output.replace("│", " ").split())
