"""Unknown where an error rate would be exceeded: chosen by validation pictures, kept on fresh ones, else refused."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe import errors
from loupe.algorithm.evaluation import operating_points, softmax
from loupe.proportions import rate_is_below
from loupe.terminal.abstention import (
    DOUBT,
    STARTS,
    NotVouchedFor,
    OperatingPoint,
    fewest_pictures,
    lowest_rate,
    more_pictures,
    point_for,
)
from loupe.terminal.classifier import Classifier
from loupe.terminal.precision import Precision
from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.test_classify import NAME, lines, running

SURE = 0.6
POINTS = [[0.99, 1, 0], [SURE, 60, 0], [0.59, 61, 1], [0.55, 80, 8], [0.5, 100, 20]]
"""Of 100 pictures the surest 60 are right. At 5 %, 59 have to be."""


def points_of(rows: list[Any]) -> list[OperatingPoint]:
    return [OperatingPoint(*row) for row in rows]


def with_points(model: Path, rows: object) -> Path:
    document = json.loads((model / "model.json").read_text(encoding="utf-8"))
    document["operating_points"] = {"split": "validation", "rows": rows}
    (model / "model.json").write_text(json.dumps(document), encoding="utf-8")
    return model


def test_the_point_is_the_one_worked_out_by_hand() -> None:
    """0.95 ** 59 is the first power below 0.05, half of the doubt; 0.95 ** 60 + 60 * 0.05 * 0.95 ** 59 is 0.19."""
    assert 0.95**59 < DOUBT / 2 < 0.95**58
    assert point_for(points_of(POINTS), 0.05) == OperatingPoint(SURE, 60, 0)
    assert point_for(points_of(POINTS), 0.048) is None
    assert point_for(points_of([*POINTS[:1], [SURE, 58, 0], [0.59, 59, 1]]), 0.05) is None
    everything = points_of([[0.99, 1, 0], [0.51, 300, 0]])
    assert point_for(everything, 0.05) == everything[-1]


def test_a_sequence_of_tests_does_not_pass_over_a_point_that_fails() -> None:
    """Twelve wrong among the surest 200 are too many for 5 %; that later ones are all right does not mend it."""
    rows = [[0.99, 50, 0], [0.98, 51, 1], [0.97, 62, 12], [0.96, 200, 12], [0.5, 800, 12]]
    assert rate_is_below(0.05, 12, 800, DOUBT / 4)
    assert point_for(points_of(rows), 0.05) is None


def test_a_wrong_label_among_the_surest_does_not_stop_all_sequences() -> None:
    rows = [[0.999, 1, 1], [0.5, 600, 1]]
    assert point_for(points_of(rows), 0.01) == OperatingPoint(0.5, 600, 1)
    assert point_for(points_of([[0.999, 1, 1], [0.5, 500, 1]]), 0.01) is None


def test_equal_confidences_are_answered_together() -> None:
    """Inside of them there is nothing to test: two wrong of 400 with one confidence."""
    assert point_for(points_of([[0.999, 400, 2]]), 0.03) == OperatingPoint(0.999, 400, 2)


def test_the_parts_of_the_doubt_are_all_of_it() -> None:
    assert sum(doubt for _, doubt in STARTS) == pytest.approx(DOUBT)


def test_the_lowest_rate_and_the_missing_pictures_are_told() -> None:
    points = points_of(POINTS)
    lowest = lowest_rate(points, 0.01)
    assert lowest == 0.049 and point_for(points, 0.049) and not point_for(points, 0.048)
    more = more_pictures(points, 0.01)
    assert more is not None
    times = (100 + more) / 100
    assert fewest_pictures(0, 0.01, DOUBT / 2) == 299 and 299 <= 60 * times < 1.1 * 299
    assert more_pictures(points_of([[0.9, 10, 5], [0.5, 20, 10]]), 0.01) is None
    assert lowest_rate(points_of([[0.9, 1, 1]]), 0.01) is None


@pytest.mark.parametrize("mislabelled", [0.0, 0.01])
def test_the_named_rate_is_kept_on_fresh_pictures(mislabelled: float) -> None:
    """In 200 trials with calibrated probabilities, where a rule that takes the best point breaks its promise."""

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        probabilities = softmax(rng.normal(0, 4, (count, 4)))
        classes = (probabilities.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
        return probabilities, np.where(rng.random(count) < mislabelled, rng.integers(0, 4, count), classes)

    exceeded = chosen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        point = point_for(points_of(operating_points(*draw(rng, 300))), 0.05)
        if point:
            probabilities, classes = draw(rng, 10_000)
            answered = probabilities.max(axis=1) >= point.min_confidence
            exceeded += (probabilities.argmax(axis=1) != classes)[answered].mean() > 0.05
            chosen += 1
    assert chosen > 100 and exceeded <= DOUBT * 200


def test_confidences_that_say_nothing_vouch_for_nothing() -> None:
    """Every point has a rate just above the named one: whichever is taken is a mistake.

    Two standard deviations more than promised may come by chance; the rule that takes the best point errs in 38 %.
    """
    taken = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sure = rng.uniform(0.5, 1, 1000)
        wrong = (rng.random(1000) < 0.0301).astype(int)
        taken += point_for(points_of(operating_points(np.stack([sure, 1 - sure], axis=1), wrong)), 0.03) is not None
    assert taken <= DOUBT * 200 + 2 * (200 * DOUBT * (1 - DOUBT)) ** 0.5


def test_a_picture_below_the_point_is_unknown(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    model, middle, answers = with_points(make_model(), POINTS), tmp_path / "middle.png", tmp_path / "answers.csv"
    Image.new("RGB", (8, 8), (119, 119, 119)).save(middle)
    words = ("classify", model, middle, folder / "scratch" / "02.png", "--max-error", "0.05")
    result = command_line(*words, "--csv", answers)
    assert result.exit_code == 0, result.output
    assert [line[1] for line in lines(result)] == ["unknown", "dark"]
    assert (
        "answers from a confidence of 0.6 on, for at most 5 % wrong: of the 100 validation pictures 60 are answered "
        "(60.00 %), 0 of them wrongly"
    ) in " ".join(result.stderr.split())
    with answers.open(encoding="utf-8", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["unknown", "dark"]
    first, *rest = map(json.loads, command_line(*words, "--json").stdout.splitlines())
    assert first == {
        "operating_point": {
            "max_error": 0.05, "min_confidence": SURE, "answered": 60, "wrong": 0, "validation_pictures": 100,
        }
    }  # fmt: skip
    assert [value["unknown"] for value in rest] == [True, False]


def test_what_is_unknown_is_in_no_score(
    command_line: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "test"
    for index in range(4):
        place = root / ("bright 零件" if index % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.png").write_bytes(picture_bytes(index))
    Image.new("RGB", (8, 8), (121, 121, 121)).save(root / "dark" / "wrong.png")
    model = with_points(make_model(), POINTS)
    *_, last = command_line("classify", model, root, "--max-error", "0.05", "--json").stdout.splitlines()
    score = json.loads(last)["score"]
    assert (score["answered"], score["right"], score["unknown_per_class"]) == (4, 4, [1, 0])


def test_a_rate_that_nothing_vouches_for_is_refused(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path
) -> None:
    model = with_points(make_model(), POINTS)
    result = command_line("classify", model, folder, "--max-error", "0.01")
    assert result.exit_code == 3 and result.stdout == ""
    told = " ".join(result.stderr.split())
    assert "100 validation pictures" in told and "an error rate of 1 %: they can for 4.9 % and more" in told
    with pytest.raises(NotVouchedFor) as refused:
        Classifier(model, max_error=0.01)
    assert refused.value.lowest == 0.049
    assert f"about {refused.value.more_pictures} more would" in told
    assert Classifier(model, max_error=refused.value.lowest).operating_point


def test_a_model_of_an_earlier_loupe_says_so(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path
) -> None:
    model = make_model()
    result = command_line("classify", model, folder, "--max-error", "0.01")
    assert result.exit_code == 8 and "(models of an earlier Loupe do not); train it anew" in " ".join(
        result.stderr.split()
    )
    document = json.loads((model / "model.json").read_text(encoding="utf-8"))
    forms: list[object] = ["later", {"rows": {}}, {}]
    for later in forms:
        (model / "model.json").write_text(json.dumps(document | {"operating_points": later}))
        assert command_line("classify", model, folder).exit_code == 0
        with pytest.raises(errors.FailedPrecondition, match="earlier Loupe"):
            Classifier(model, max_error=0.01)


@pytest.mark.parametrize(
    "rows",
    [
        [[0.9, 1]],
        [[0.9, 1, 2]],
        [["high", 1, 0]],
        [[float("nan"), 1, 0]],
        [[0.9, 2, 0], [0.95, 3, 0]],
        [[0.9, 2, 0], [0.8, 2, 0]],
        [[0.9, 2, 1], [0.8, 3, 0]],
        [[0.9, 1 << 40, 0]],
        7 * [None],
    ],
)
def test_points_that_cannot_be_are_damage(make_model: Callable[..., Path], rows: list[Any]) -> None:
    with pytest.raises(errors.DataLoss, match=r"model\.json is damaged"):
        Classifier(with_points(make_model(), rows))


def test_fp32_answers_since_its_pictures_vouch(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loupe.terminal.classifier.quicker", lambda *_: Precision.INT8)
    model = with_points(make_model(int8=True), POINTS)
    assert Classifier(model).precision is Precision.INT8
    assert Classifier(model, max_error=0.05).precision is Precision.FP32
    with pytest.raises(errors.InvalidArgument, match="max_error rests on the confidences of FP32"):
        Classifier(model, max_error=0.05, precision=Precision.INT8)


@pytest.mark.parametrize("wrong", ["0", "1", "-0.1", "nan"])
def test_a_rate_that_is_none_is_told(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path, wrong: str
) -> None:
    told = command_line("classify", with_points(make_model(), POINTS), folder, "--max-error", wrong)
    assert told.exit_code == 6 and "a share above 0 and below 1" in " ".join(told.stderr.split())


def test_a_rate_and_a_confidence_exclude_each_other(
    command_line: Callable[..., Any], make_model: Callable[..., Path], folder: Path
) -> None:
    both = ("--max-error", "0.05", "--min-confidence", "0.9")
    told = command_line("classify", with_points(make_model(), POINTS), folder, *both)
    assert told.exit_code == 6 and "either max_error" in told.stderr


def test_a_watch_goes_on_without_a_version_that_cannot_vouch(
    command_line: Callable[..., Any],
    store: ProfileStore,
    add_version: Callable[..., Any],
    make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    add_version(1, folder=with_points(make_model("first"), POINTS))
    assert command_line("follow", "--once").exit_code == 0
    camera, files = tmp_path / "camera", tmp_path / "data"
    camera.mkdir()
    (camera / "0.png").write_bytes(picture_bytes(1))
    environment = {"LOUPE_PROFILE": str(store.path), "XDG_DATA_HOME": str(files)}
    words = ("classify", "screws", camera / "0.png", "--watch", camera, "--max-error", "0.05")
    with running(*words, **environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(f"{camera}/0.png\tbright")
        add_version(2, folder=make_model("second"))
        assert command_line("follow", "--once").exit_code == 0
        for index in (1, 2):
            (camera / f"{index}.png").write_bytes(picture_bytes(index))
            assert process.stdout.readline().startswith(f"{camera}/{index}.png\t")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        told = " ".join(process.stderr.read().split())
        assert told.count("answers from a confidence of 0.6") == 1
        assert told.count(f"goes on without {NAME.format(2)}") == 1 and "from now on" not in told
