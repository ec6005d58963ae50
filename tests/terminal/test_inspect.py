"""loupe inspect: good and bad parts by a threshold that can be set anew, heat maps, and models that lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe import errors
from loupe.terminal.heat_map import MOST, strength
from loupe.terminal.inspector import Inspector
from tests.terminal.conftest import picture_bytes

SIDE = 8


@pytest.fixture
def make_inspector(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model's folder: the score is the mean of a picture in 0..10, the map that of its quarters."""

    def make(
        name: str = "inspector",
        *,
        scale: float = 10 / 255,
        golden_shift: float = 0.0,
        score: str = "score",
        **told: Any,
    ) -> Path:
        from onnx import TensorProto, helper, numpy_helper, save

        constants: dict[str, np.ndarray] = {"scale": np.array(scale, np.float32), "channel": np.array([1], np.int64)}
        nodes = [
            helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["grey"], axes=[3], keepdims=0),
            helper.make_node("Mul", ["grey", "scale"], ["scaled"]),
            helper.make_node("Unsqueeze", ["scaled", "channel"], ["planes"]),
            helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Squeeze", ["pooled", "channel"], ["map"]),
            helper.make_node("ReduceMean", ["map"], [score], axes=[1, 2], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "brightness",
            [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
            [
                helper.make_tensor_value_info(score, TensorProto.FLOAT, ["batch"]),
                helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", 2, 2]),
            ],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        place = tmp_path / name
        place.mkdir()
        save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
            str(place / "model.onnx"),
        )
        pictures = np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 51, 255)])
        scores = pictures.mean(axis=(1, 2, 3)) / 25.5
        maps = np.broadcast_to(scores[:, None, None], (3, 2, 2))
        np.savez(
            place / "golden.npz",
            pictures=pictures,
            scores=(scores + golden_shift).astype(np.float32),
            maps=maps.astype(np.float32),
        )
        # The scores of twenty good pictures are 2.0, 1.9, …
        calibration = {"split": "validation", "pictures": 20, "scores": [2.0 - each / 10 for each in range(20)]}
        document = {
            "format": "loupe-model/1",
            "task": "anomaly",
            "labels": ["good", "crack"],
            "input": {"height": SIDE, "width": SIDE, "channels": "RGB", "type": "uint8"},
            "inspection": {"good": "good", "false_alarms": 0.05, "threshold": 2.0, "calibration": calibration, **told},
            "files": {"model.onnx": hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()},
        }
        (place / "model.json").write_text(json.dumps(document), encoding="utf-8")
        return place

    return make


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A dark part, one that is brighter than any good one, and one with a bright corner."""
    root = tmp_path / "parts"
    root.mkdir()
    for name, value in (("dark", 20), ("bright", 200)):
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(root / f"{name}.png")
    corner = np.full((40, 40, 3), 20, np.uint8)
    corner[:20, 20:] = 220
    Image.fromarray(corner).save(root / "corner.png")
    return root


def test_parts_are_good_or_bad_by_the_threshold(make_inspector: Callable[..., Path], parts: Path) -> None:
    inspector = Inspector(make_inspector())
    inspector.check_golden()
    found = {one.path.stem: one for one in inspector.inspect(sorted(parts.iterdir()))}
    assert {name: one.bad for name, one in found.items()} == {"dark": False, "bright": True, "corner": True}
    assert inspector.threshold.value == 2.0 and inspector.threshold.lacking == 0
    heat = found["corner"].heat
    assert heat is not None and heat.argmax() == 1


def test_the_rate_of_false_alarms_sets_the_threshold_anew(make_inspector: Callable[..., Path]) -> None:
    """By the scores that the model keeps; where these are too few for a rate, it is said which one they vouch for."""
    folder = make_inspector()
    more, fewer = Inspector(folder, false_alarms=0.2), Inspector(folder, false_alarms=0.01)
    assert more.threshold.value == pytest.approx(1.7) and more.threshold.lacking == 0
    assert fewer.threshold.value == 2.0 and fewer.threshold.lacking == 79
    assert fewer.threshold.false_alarms == pytest.approx(1 / 21)
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(errors.InvalidArgument, match="a share above 0"):
            Inspector(folder, false_alarms=wrong)


@pytest.mark.parametrize(
    "told",
    [
        {"calibration": {"pictures": 20, "scores": []}},
        {"calibration": {"pictures": 1, "scores": [1.0, 2.0]}},
        {"calibration": {"pictures": 20, "scores": [float("nan")]}},
        {"calibration": {"pictures": 20, "scores": ["much"]}},
        {"calibration": None},
        {"false_alarms": 0},
        {"false_alarms": "often"},
    ],
)
def test_a_document_that_cannot_be_is_told(make_inspector: Callable[..., Path], told: dict[str, Any]) -> None:
    with pytest.raises(errors.DataLoss, match="damaged"):
        Inspector(make_inspector(**told))


def test_no_number_is_never_taken_for_good(make_inspector: Callable[..., Path]) -> None:
    """A comparison with it is false, whatever it is of."""
    with pytest.raises(errors.DataLoss, match="no number"):
        Inspector(make_inspector(scale=float("nan")))


def test_altered_models_are_refused(make_inspector: Callable[..., Path]) -> None:
    for shift in (0.2, float("nan")):
        with pytest.raises(errors.GateFailed, match="golden"):
            Inspector(make_inspector(f"shifted-{shift}", golden_shift=shift))
    with pytest.raises(errors.DataLoss, match="expected one input, and the outputs score, map"):
        Inspector(make_inspector("other", score="probabilities"))
    folder = make_inspector("bytes")
    document = json.loads((folder / "model.json").read_text())
    document["files"]["model.onnx"] = "0" * 64
    (folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(errors.DataLoss, match="sha256"):
        Inspector(folder)


def test_a_model_of_another_task_is_sent_to_its_command(make_model: Callable[..., Path]) -> None:
    with pytest.raises(errors.InvalidArgument, match="`loupe classify` answers with this one"):
        Inspector(make_model())


def test_the_command_tells_the_threshold_each_part_and_where_it_is_drawn(
    make_inspector: Callable[..., Path], command_line: Callable[..., Any], parts: Path, tmp_path: Path
) -> None:
    """A broken picture is named, the others go on, and the exit code says so."""
    (parts / "broken.png").write_bytes(picture_bytes(1)[:60])
    result = command_line("inspect", make_inspector(), parts, "--draw", tmp_path / "drawn", "--false-alarms", "0.01")
    assert result.exit_code == 6
    rows = {Path(row.split("\t")[0]).stem: row.split("\t")[1:] for row in result.stdout.splitlines()}
    assert [rows[name][0] for name in ("dark", "bright", "corner")] == ["good", "bad", "bad"]
    assert rows["broken"][0].startswith("error: ") and len(rows["broken"]) == 1
    said = " ".join(result.stderr.split())
    assert "bad is what scores above 2, for at most 4.76 % false alarms" in said
    assert "the 20 good validation pictures are too few for 1.00 %; 79 more would do" in said
    drawn = np.asarray(Image.open(rows["corner"][2]).convert("RGB")).astype(int)
    red = drawn[..., 0] - drawn[..., 2]
    side = red.shape[0]
    assert red[: side // 4, -side // 4 :].min() > 60 and red[-side // 4 :, : side // 4].max() == 0
    dark = np.asarray(Image.open(rows["dark"][2]).convert("RGB")).astype(int)
    assert (dark[..., 0] == dark[..., 2]).all(), "a good part stays grey"


def test_programs_get_json(make_inspector: Callable[..., Path], command_line: Callable[..., Any], parts: Path) -> None:
    result = command_line("inspect", make_inspector(), parts / "bright.png", parts / "dark.png", "--json")
    first, *answers = [json.loads(row) for row in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert first["inspection"]["threshold"] == 2.0 and first["inspection"]["validation_pictures"] == 20
    assert [(one["answer"], one["problem"], one["drawing"]) for one in answers] == [
        ("bad", "", None),
        ("good", "", None),
    ]
    assert answers[0]["score"] == pytest.approx(200 / 25.5, abs=1e-3)


def test_nothing_is_drawn_into_what_is_read(
    make_inspector: Callable[..., Path], command_line: Callable[..., Any], parts: Path, tmp_path: Path
) -> None:
    assert command_line("inspect", make_inspector(), parts, "--draw", parts / "drawn").exit_code == 6
    (empty := tmp_path / "empty").mkdir()
    assert command_line("inspect", tmp_path / "inspector", empty).exit_code == 6
    assert command_line("inspect", tmp_path / "inspector").exit_code == 6


def test_the_place_that_sticks_out_is_the_reddest() -> None:
    """Where none does, none is."""
    shown = strength(np.array([[0.0, 0.1], [2.0, 10.0]], np.float32))
    assert shown.tolist() == [[0.0, 0.0], [0.0, pytest.approx(MOST)]]
    assert strength(np.zeros((2, 2), np.float32)).max() == 0
    assert strength(np.array([[5.0, 5.0], [5.1, 5.0]], np.float32)).max() < 0.1
