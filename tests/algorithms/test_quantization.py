"""The INT8 model: made from training pictures, delivered only where it answers what FP32 answers, else told why not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from loupe.algorithm import quantization
from loupe.algorithm.classification import finishing
from loupe.algorithm.context import Context
from loupe.algorithm.evaluation import softmax
from loupe.algorithm.export import Preprocessing, export_onnx
from loupe.algorithm.host import Outcome, Result
from loupe.algorithm.onnx_model import OnnxModel, append_softmax
from loupe.algorithm.quantization import NotQuantized, Slack, agreement, make_int8, quantize
from tests.algorithms.conftest import CLASSIFICATION, Recorder

SIDE = 32
AMPLE = Slack(elapsed=60.0, left=float("inf"))


@pytest.fixture(autouse=True)
def long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run that takes no time make an INT8 model."""
    monkeypatch.setattr(quantization, "SHORTEST_RUN_SECONDS", 0.0)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip


def small_model() -> onnx.ModelProto:
    how = Preprocessing(SIDE, SIDE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    return append_softmax(export_onnx(small_network(), how), 1.0)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def finished(bench, textures, recorder: Recorder | None = None) -> Result:
    host = bench.host("scratch", textures, target=0.5, recorder=recorder)
    Context(host, CLASSIFICATION).finish(small_network(), size=SIDE, architecture="tiny", outcome=Outcome.PLATEAU)
    return host.result


def test_convolutions_are_in_int8_and_the_answers_stay() -> None:
    """What normalises the pictures, and the last linear layer, are not quantized; any onnxruntime loads it."""
    pictures = noise(12)
    quantized = quantize(small_model(), lambda number: pictures[4 * number :][:4] if number < 3 else None, threads=1)
    onnx.checker.check_model(quantized)
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("Conv") == 2 and "QuantizeLinear" in kinds
    assert {each.domain for each in quantized.opset_import} == {""}
    source = {name: node.op_type for node in quantized.graph.node for name in node.output}
    weights = {node.op_type: source.get(node.input[1]) for node in quantized.graph.node if len(node.input) > 1}
    assert weights["Conv"] == "DequantizeLinear"
    assert weights["Mul"] is weights["Gemm"] is None
    session = onnxruntime.InferenceSession(quantized.SerializeToString())
    (answers,) = session.run(None, {"pictures": pictures})
    np.testing.assert_allclose(answers, OnnxModel(small_model(), 1)(pictures), atol=0.05)


def test_an_int8_model_that_agrees_is_delivered(bench, textures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "MOST_FLIPS", 1.0)  # the network is untrained: its answers lie close together
    monkeypatch.setattr(quantization, "MOST_ACCURACY_LOST", 1.0)
    recorder = Recorder()
    result = finished(bench, textures, recorder)
    assert "quantize" in recorder.phases()
    told = result.report["int8"]
    assert told["delivered"] and not told["reason"] and told["split"] == "test" and told["pictures"] == 12
    assert 0 <= told["flipped"] <= 12 and set(told["accuracy"]) == set(told["bytes"]) == {"fp32", "int8"}
    file = Path(result.artifacts["model.int8.onnx"])
    document = json.loads(Path(result.artifacts["model.json"]).read_text(encoding="utf-8"))
    assert document["format"] == "loupe-model/1"
    assert document["files"]["model.int8.onnx"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert document["int8"]["file"] == file.name
    golden = np.load(result.artifacts["golden.npz"], allow_pickle=False)
    answers = OnnxModel(onnx.load(file), 1)(golden["pictures"])
    np.testing.assert_allclose(document["int8"]["golden_probabilities"], answers, atol=1e-6)


def test_answers_that_flip_leave_the_int8_model_out(bench, textures, monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(*arguments: object, **named: object) -> quantization.Int8Model:
        made = make_int8(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came
        return quantization.Int8Model(made.model, np.roll(made.answers, 1, axis=1), made.golden, made.seconds)

    monkeypatch.setattr(finishing, "make_int8", strange)
    result = finished(bench, textures)
    told = result.report["int8"]
    assert not told["delivered"] and "at most 1.00 % is taken" in told["reason"] and told["flipped"] > 0
    assert "model.int8.onnx" not in result.artifacts
    assert "int8" not in json.loads(Path(result.artifacts["model.json"]).read_text(encoding="utf-8"))


def test_a_network_that_cannot_be_quantized_is_delivered_without(
    bench, textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "quantize", lambda *_: 1 / 0)
    told = finished(bench, textures).report["int8"]
    assert not told["delivered"] and "division by zero" in told["reason"]


def sure(classes: np.ndarray) -> np.ndarray:
    return softmax(5.0 * np.eye(2)[classes])


def test_one_flip_in_a_hundred_is_taken_and_two_are_not() -> None:
    classes = np.zeros(100, int)
    flipped = classes.copy()
    flipped[:1] = 1
    # FP32 is wrong about the picture: INT8 loses no accuracy there.
    assert agreement(sure(flipped), sure(classes), classes)["reason"] == ""
    flipped[:2] = 1
    told = agreement(sure(flipped), sure(classes), classes)
    assert told["flipped"] == 2 and "2 of 100 pictures" in told["reason"]
    assert told["accuracy"] == {"fp32": 0.98, "int8": 1.0}


def test_accuracy_may_not_fall_by_more_than_half_a_point() -> None:
    classes = np.zeros(1000, int)
    worse = classes.copy()
    worse[:5] = 1
    assert agreement(sure(classes), sure(worse), classes)["reason"] == ""
    worse[:6] = 1
    assert "falls from 100.00 % to 99.40 %" in agreement(sure(classes), sure(worse), classes)["reason"]


@pytest.mark.parametrize(
    ("slack", "words"),
    [(Slack(5.0, 100.0), "done within"), (Slack(60.0, -25.0), "budget was overdrawn")],
)
def test_no_int8_model_is_made_where_somebody_would_wait_for_it(
    slack: Slack, words: str, bench, textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "SHORTEST_RUN_SECONDS", 10.0)
    with pytest.raises(NotQuantized, match=words):
        made(bench, textures, small_model(), slack=slack)


def test_no_int8_model_is_made_of_a_network_without_convolutions(bench, textures) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 3)).eval()
    model = export_onnx(network, Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(NotQuantized, match="no convolutions"):
        made(bench, textures, append_softmax(model, 1.0))


def test_a_run_that_is_to_end_is_not_calibrated_on(bench, textures) -> None:
    with pytest.raises(NotQuantized, match="asked to end"):
        made(bench, textures, small_model(), recorder=Recorder(stopping=True))


def made(
    bench, textures, model: onnx.ModelProto, *, slack: Slack = AMPLE, recorder: Recorder | None = None
) -> quantization.Int8Model:
    host = bench.host("scratch", textures, target=0.5, recorder=recorder)
    data = Context(host, CLASSIFICATION).data
    pictures = data.images(SIDE)
    return make_int8(host, host.spec(), data, model, pictures, compared=data.test, golden=pictures[:2], slack=slack)


def test_the_same_seed_gives_the_same_int8_model(bench, textures) -> None:
    models = [made(bench, textures, small_model()).model.SerializeToString() for _ in range(2)]
    assert models[0] == models[1]
