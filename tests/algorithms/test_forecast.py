"""What finetune foretells after its first head: pictures, the class that lacks them, and the time of the next step."""

from __future__ import annotations

import doctest
import json
from typing import Any

import numpy as np
import pytest
import torch

from loupe.algorithm.context import run_image
from loupe.algorithm.local import PictureFolder, read_folder
from loupe.tasks.classification import OVERALL, Scorer
from loupe.tasks.objective import Objective
from tests.algorithms.conftest import IMAGES, Bench, Cut, Recorder, write_pictures
from tests.algorithms.test_finetune import part_of_finetune

forecast = part_of_finetune("forecast")
PICTURES = np.array([250, 500, 1000, 2000])


def law(level: float, exponent: float, floor: float = 0.0) -> np.ndarray:
    return level * ((1 - floor) * (PICTURES / PICTURES[-1]) ** -exponent + floor)


@pytest.mark.parametrize(("level", "exponent", "floor"), [(0.1, 0.3, 0.0), (0.2, 0.6, 0.0), (0.1, 0.8, 0.75)])
def test_the_law_behind_a_curve_is_found(level: float, exponent: float, floor: float) -> None:
    found = forecast.fit_laws(PICTURES, law(level, exponent, floor)[None])[0]
    assert found == pytest.approx([level, exponent, floor], abs=0.1)
    now = level * ((1 - floor) * 2.0**-exponent + floor)
    low, high = forecast.pictures_needed(found[None] / [level, 1, 1], 2000, level, now)
    assert low == high == pytest.approx(2000, rel=0.25)


def test_errors_that_rise_or_stand_still_reach_nothing() -> None:
    """More pictures that bring nothing are told as out of reach, not as many."""
    flat, rising = np.full(4, 0.1), np.array([0.08, 0.09, 0.1, 0.1])
    laws = forecast.fit_laws(PICTURES, np.stack([flat, rising])) / [0.1, 1, 1]
    assert forecast.pictures_needed(laws, 2000, 0.1, 0.05) == (None, None)


def test_what_needs_more_than_ten_times_the_pictures_is_out_of_reach() -> None:
    steep, gentle = [1.0, 0.5, 0.0], [1.0, 0.1, 0.0]
    assert forecast.pictures_needed(np.array([steep]), 2000, 0.1, 0.05) == (6000, 6000)
    assert forecast.pictures_needed(np.array([gentle]), 2000, 0.1, 0.05) == (None, None)
    assert forecast.pictures_needed(np.array([steep, gentle]), 2000, 0.1, 0.05) == (6000, None)
    assert forecast.pictures_needed(np.array([[1.0, 0.5, 0.6]]), 2000, 0.1, 0.05) == (None, None), "below the floor"


def measured(recalls: dict[int, tuple[float, float, float]], trained: list[int], judged: int = 200):
    """Make measurements of three parts in which so many of the pictures of each class are right."""
    classes = len(trained)
    truth = np.repeat(np.arange(classes), judged)
    right = [
        np.concatenate([np.arange(judged) < judged * recalls[number][part] for number in range(classes)])[None]
        for part in range(3)
    ]
    counts = np.stack([np.array(trained) // 4, np.array(trained) // 2, np.array(trained)])
    return forecast.Measured(counts, right, truth)


@pytest.mark.parametrize("metric", OVERALL)
def test_the_class_that_lacks_pictures_is_named(metric: str) -> None:
    """The one with few pictures, many errors and a curve that rises."""
    curves = {0: (0.90, 0.93, 0.95), 1: (0.4, 0.55, 0.68), 2: (0.91, 0.94, 0.96)}
    assert forecast.neediest(measured(curves, [400, 40, 400]), Scorer(metric)) == [1]


def test_a_class_whose_curve_is_flat_gives_way_to_one_that_rises() -> None:
    curves = {0: (0.6, 0.6, 0.6), 1: (0.3, 0.5, 0.65), 2: (0.95, 0.96, 0.97)}
    assert forecast.neediest(measured(curves, [400, 400, 400]), Scorer("accuracy"))[0] == 1


def clouds(counts: list[int], seed: int):
    """Make features of overlapping classes, which more pictures tell apart better."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(99).normal(0, 0.14, (len(counts), 300))
    features = centres[classes] + rng.normal(0, 1, (len(classes), 300))
    return part_of_finetune("head").Table(
        torch.from_numpy(features.astype(np.float32)), torch.from_numpy(classes), torch.ones(len(counts))
    )


def test_a_curve_of_half_the_pictures_foretells_what_all_reach() -> None:
    """The error of twice as many lies where the laws put it, and the pictures for it within their range."""
    head, validation = part_of_finetune("head"), clouds([1000] * 3, 1)
    half, whole = clouds([200] * 3, 2), clouds([400] * 3, 3)
    fitted, better = (head.fit_head(each, validation, 0) for each in (half, whole))
    curve = forecast.learning_curve(forecast.measure(half, validation, fitted, 0), Scorer("accuracy"), 0)
    assert curve["points"][-1] == {"pictures": 600, "score": pytest.approx(fitted.score, abs=1e-6)}
    level, exponent, floor = np.median(curve["laws"], axis=0)
    foretold = (1 - fitted.score) * level * ((1 - floor) * 2.0**-exponent + floor)
    assert 1 - better.score == pytest.approx(foretold, rel=0.2)
    low, high = forecast.pictures_needed(curve["laws"], 600, 1 - fitted.score, 1 - better.score)
    assert low is not None and low <= 600
    assert high is None or high >= 600


def test_a_part_keeps_every_class_and_is_the_same_for_a_seed() -> None:
    classes = np.array([0] * 80 + [1] * 3)
    order = np.random.default_rng(0).permutation(83)
    part = forecast.stratified(classes, order, 0.125)
    assert np.bincount(classes[part]).tolist() == [10, 1]
    assert part.tolist() == forecast.stratified(classes, order, 0.125).tolist()


def told(left: float, seconds: float | None = 12.3, scores: dict[int, float] | None = None, score: float = 0.9) -> str:
    curve = {
        "points": [{"pictures": 1000, "score": 0.9}],
        "laws": np.tile([1.0, 0.5, 0.0], (9, 1)),
        "classes": [1],
        "least": 1e-3,
    }
    step = forecast.Step("head", 128, seconds)
    told = forecast.Forecast(curve, Objective("accuracy", 0.95), score, ["a", "dent"])
    return told.message(scores or {64: 0.9}, step, left)


def test_the_line_tells_pictures_class_and_the_next_step() -> None:
    assert told(float("inf")) == (
        "about 3,000 more training pictures, of dent first, for 95 %; the next step, 128 px, is done in about 12 s"
    )


def test_a_budget_that_ends_before_the_next_step_is_told() -> None:
    assert told(8.0).endswith("the next step, 128 px, takes about 12 s, but the budget ends in 8 s")
    assert told(-1.0).endswith("; the budget is used up")
    assert told(9.0, None).endswith("for 95 %"), "no time is made up"


def test_a_better_model_needs_fewer_pictures() -> None:
    """The first head's law goes on from the best model's errors."""
    assert told(9.0, None, score=0.93) == "about 960 more training pictures, of dent first, for 95 %"


def test_more_pixels_are_only_guessed_at_where_they_clearly_helped() -> None:
    low, high = forecast.score_at({64: 0.92, 128: 0.96}, 224)
    assert low == 0.96 and 0.976 < high < 0.978
    assert forecast.score_at({64: 0.92, 128: 0.93}, 224) is None
    assert forecast.score_at({64: 0.92}, 128) is None


def test_the_examples_say_what_comes_out() -> None:
    examples = doctest.testmod(forecast)
    assert examples.attempted and not examples.failed


def test_the_next_steps_time_grows_with_the_pixels() -> None:
    pace = part_of_finetune("pace")
    measured = pace.Pace(opening=2.0, picture=0.01, whole=30.0)
    assert pace.seconds_of_head(measured, 1000, 4.0, 3.0) == pytest.approx(45.0)


@pytest.fixture(scope="module")
def scrambled(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    """Textures that say nothing about the class: the target is out of reach."""
    root = tmp_path_factory.mktemp("scrambled")
    return read_folder(write_pictures(root, {"a": 40, "b": 40}, scrambled=True))


@pytest.mark.attack
def test_a_run_tells_its_forecast_and_a_resumed_one_the_same(
    bench: Bench, scrambled: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured once, whatever cuts the run off later."""
    ladder = part_of_finetune("ladder")
    monkeypatch.setattr(ladder, "SIZES", (32, 48))
    asked: dict[str, Any] = {"target": 0.99, "parameters": {"depth": "head"}}
    whole = Recorder()
    host = bench.host("finetune", scrambled, recorder=whole, **asked)
    run_image(IMAGES / "finetune", host)
    lines = [each.message for each in whole.reports if each.phase == "forecast"]
    assert len(lines) == 2 and all("training pictures" in line for line in lines)
    assert "the next step, 48 px, is done in about" in lines[0] and "next step" not in lines[1]
    notes = host.result.report["notes"]["forecast"]
    assert json.loads(json.dumps(notes)) == notes
    assert [each["pictures"] for each in notes["points"]] == [6, 12, 24, 48]
    assert [(each["depth"], each["size"]) for each in notes["steps"]] == [("head", 48)]

    cut = Recorder(cut_after=lambda each: each.phase == "features" and "48 px" in each.message)
    with pytest.raises(Cut):
        run_image(IMAGES / "finetune", bench.host("finetune", scrambled, recorder=cut, work="cut", **asked))
    monkeypatch.setattr(ladder, "measure", lambda *arguments: pytest.fail("measured again"))
    again = bench.host("finetune", scrambled, work="cut", **asked)
    run_image(IMAGES / "finetune", again)
    resumed = again.result.report["notes"]["forecast"]
    assert {**resumed, "steps": 0} == {**notes, "steps": 0}
    assert [each["size"] for each in resumed["steps"]] == [48]


def test_a_target_that_is_reached_needs_no_forecast(bench: Bench, textures: PictureFolder) -> None:
    recorder = Recorder()
    host = bench.host("finetune", textures, target=0.5, recorder=recorder, parameters={"size": 32, "depth": "head"})
    run_image(IMAGES / "finetune", host)
    assert "forecast" not in recorder.phases()
    assert host.result.report["notes"]["forecast"] is None
