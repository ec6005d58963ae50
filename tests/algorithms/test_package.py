"""Model packages: what is written is what was trained."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from loupe.algorithm import export, package
from loupe.algorithm.classification.package import check_parity, golden_rows
from loupe.algorithm.context import Context
from loupe.algorithm.evaluation import softmax
from loupe.algorithm.export import PictureNetwork, Preprocessing, export_onnx, predict_torch, ready_for_inference
from loupe.algorithm.host import Outcome
from loupe.algorithm.onnx_model import OnnxModel, answering, append_linear, append_softmax, with_size
from loupe.algorithm.package import ExportMismatch
from tests.algorithms.conftest import CLASSIFICATION

PUBLISHED = {
    "augmentation": ["Augmentation"],
    "evaluation": ["OutOfSample"],
    "package": [
        "OnnxModel",
        "PictureNetwork",
        "Preprocessing",
        "answering",
        "append_linear",
        "export_onnx",
        "with_size",
    ],
    "threads": ["on_threads"],
    "training": ["class_weights"],
}
HOW = Preprocessing(24, 20, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CPU = torch.device("cpu")


@pytest.mark.parametrize("module", PUBLISHED)
def test_what_published_images_import_stays_where_it_is(module: str) -> None:
    """A mesh keeps the versions of the built-in images that it was given, and runs them with a newer SDK."""
    there = importlib.import_module(f"loupe.algorithm.{module}")
    assert all(hasattr(there, name) for name in PUBLISHED[module])


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    network.train()
    for _ in range(5):
        network(torch.randn(8, 3, 24, 20) * 2 + 1)
    return network.eval()


def some_pictures(count: int = 7, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    return export_onnx(small_network(), HOW)


def test_the_export_answers_what_the_network_answers_at_any_batch_size(exported: onnx.ModelProto) -> None:
    pictures = some_pictures()
    expected = predict_torch(small_network(), HOW, pictures, np.arange(7), CPU)
    run = OnnxModel(exported, threads=1)
    np.testing.assert_allclose(run(pictures), expected, atol=1e-4)
    np.testing.assert_allclose(run(pictures[:1]), expected[:1], atol=1e-4)
    one = exported.graph.input[0].type.tensor_type
    assert exported.graph.input[0].name == "pictures"
    assert one.elem_type == onnx.TensorProto.UINT8
    assert [part.dim_value for part in one.shape.dim][1:] == [24, 20, 3]
    assert one.shape.dim[0].dim_param


def test_probabilities_are_the_tempered_softmax(exported: onnx.ModelProto) -> None:
    model = append_softmax(exported, temperature=2.0)
    onnx.checker.check_model(model)
    logits = OnnxModel(exported, threads=1)(some_pictures())
    np.testing.assert_allclose(OnnxModel(model, threads=1)(some_pictures()), softmax(logits / 2.0), atol=1e-6)
    assert [output.name for output in model.graph.output] == ["probabilities"]


def test_a_linear_head_can_be_put_on_exported_features(exported: onnx.ModelProto) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(4, 3)), rng.normal(size=4)
    model = append_linear(exported, weight, bias)
    onnx.checker.check_model(model)
    features = OnnxModel(exported, threads=1)(some_pictures())
    np.testing.assert_allclose(OnnxModel(model, threads=1)(some_pictures()), features @ weight.T + bias, atol=1e-4)


def test_an_export_of_a_convolutional_network_takes_other_sizes(exported: onnx.ModelProto) -> None:
    pictures = some_pictures(height=32, width=48)
    expected = predict_torch(small_network(), HOW, pictures, np.arange(7), CPU)
    np.testing.assert_allclose(OnnxModel(with_size(exported, 32, 48), threads=1)(pictures), expected, atol=1e-4)


def test_a_usual_network_is_traced_which_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "export_with_torch", lambda *_: pytest.fail("torch.export was asked"))
    export_onnx(small_network(), HOW)


class PaddedBySize(nn.Module):
    """Pads by as much as its input's size asks for, as networks that came from TensorFlow do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows, columns = (side % 2 + 1 for side in pictures.shape[-2:])
        return self.convolution(nn.functional.pad(pictures, (0, columns, 0, rows), value=0.0)).mean((2, 3))


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_paddings_are_folded_into_convolutions() -> None:
    network = PaddedBySize().eval()
    model = export_onnx(network, HOW)
    assert not kinds(model) & {"Pad", "Shape"} and "Conv" in kinds(model)
    onnx.checker.check_model(model)
    expected = predict_torch(network, HOW, some_pictures(), np.arange(7), CPU)
    np.testing.assert_allclose(OnnxModel(model, threads=1)(some_pictures()), expected, atol=1e-4)


def test_a_fold_of_constants_that_answers_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = export_onnx(small_network(1), HOW)
    monkeypatch.setattr(export, "with_constants_folded", lambda _: wrong)
    expected = predict_torch(small_network(), HOW, some_pictures(), np.arange(7), CPU)
    np.testing.assert_allclose(OnnxModel(export_onnx(small_network(), HOW), 1)(some_pictures()), expected, atol=1e-4)


class Uneven(nn.Module):
    """Pools to a grid that its input cannot be cut into evenly, which no trace can say in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(2 * 7 * 7, 3))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures)


def test_a_network_that_cannot_be_traced_is_exported_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    network = Uneven().eval()
    assert export._trace(PictureNetwork(network, HOW), HOW.height, HOW.width, "logits") is None
    assert "graph" not in "".join(capfd.readouterr())
    expected = predict_torch(network, HOW, some_pictures(), np.arange(7), CPU)
    np.testing.assert_allclose(OnnxModel(export_onnx(network, HOW), threads=1)(some_pictures()), expected, atol=1e-4)


def test_a_trace_that_answers_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made by torch.export instead."""
    wrong = export._trace(PictureNetwork(small_network(1), HOW), HOW.height, HOW.width, "logits")
    monkeypatch.setattr(export, "_trace", lambda *_: wrong)
    expected = predict_torch(small_network(), HOW, some_pictures(), np.arange(7), CPU)
    model = export_onnx(small_network(), HOW)
    np.testing.assert_allclose(OnnxModel(model, threads=1)(some_pictures()), expected, atol=1e-4)


class Double(nn.Module):
    """Computes in float64, which onnxruntime cannot for every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures.double()).float()


def test_a_model_that_cannot_run_here_has_no_answers() -> None:
    whole = PictureNetwork(Double().eval(), HOW)
    model = export._trace(whole, HOW.height, HOW.width, "logits")
    expected = predict_torch(Double().eval(), HOW, some_pictures(), np.arange(7), CPU)
    assert answering(model, some_pictures(), expected, threads=1) is None
    assert answering(model, some_pictures(height=9), expected, threads=1) is None


def test_batch_norms_are_folded() -> None:
    network = small_network()
    folded = ready_for_inference(network, 24, 20)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    noise = torch.randn(3, 3, 24, 20)
    torch.testing.assert_close(folded(noise), network(noise), atol=1e-5, rtol=1e-4)


class Crossed(nn.Module):
    """Has neighbours in its module tree that do not follow each other in the computation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = torch.full((3,), 5.0)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.norm(pictures)).mean((2, 3))


def test_a_fold_that_changes_the_answers_is_not_made() -> None:
    network = Crossed().eval()
    noise = torch.randn(3, 3, 24, 20)
    torch.testing.assert_close(ready_for_inference(network, 24, 20)(noise), network(noise))


def test_parity_names_the_difference() -> None:
    expected = softmax(np.random.default_rng(0).normal(size=(50, 4)))
    assert check_parity(expected, expected + 1e-5)["same_class"] == 50
    wrong = expected.copy()
    wrong[17, 2] += 0.01
    with pytest.raises(ExportMismatch, match=r"0\.01"):
        check_parity(expected, wrong)
    wrong[17, 2] = np.nan
    with pytest.raises(ExportMismatch):
        check_parity(expected, wrong)


def test_golden_pictures_are_spread_over_the_classes() -> None:
    classes = np.array([0] * 20 + [1, 2])
    probabilities = softmax(np.random.default_rng(0).normal(size=(22, 3)))
    rows = golden_rows(probabilities, classes)
    assert len(rows) == len(set(rows)) == package.GOLDEN_PICTURES
    assert {20, 21} <= set(rows.tolist())
    assert len(golden_rows(probabilities[:3], classes[:3])) == 3


def test_finish_hands_over_a_whole_package(bench, textures) -> None:
    host = bench.host("scratch", textures, target=0.5)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    Context(host, CLASSIFICATION).finish(network, size=32, architecture="tiny", outcome=Outcome.PLATEAU)
    result = host.result
    assert set(result.artifacts) == {"model.onnx", "model.safetensors", "model.json", "golden.npz"}
    document = json.loads(Path(result.artifacts["model.json"]).read_text(encoding="utf-8"))
    assert document["format"] == "loupe-model/1"
    assert document["labels"] == list(textures.labels)
    assert document["input"]["height"] == document["input"]["width"] == 32
    assert document["operating_points"]["split"] == "validation"
    assert document["operating_points"]["rows"][-1][1] == result.report["validation"]["pictures"]
    for name, expected in document["files"].items():
        assert hashlib.sha256(result.artifacts[name].read_bytes()).hexdigest() == expected
    golden = np.load(result.artifacts["golden.npz"], allow_pickle=False)
    run = OnnxModel(onnx.load(result.artifacts["model.onnx"]), threads=1)
    np.testing.assert_allclose(run(golden["pictures"]), golden["probabilities"], atol=1e-6)
    np.testing.assert_allclose(golden["probabilities"].sum(axis=1), 1.0, atol=1e-5)
    restored = load_file(result.artifacts["model.safetensors"])
    assert all(torch.equal(restored[name], value) for name, value in network.state_dict().items())
    assert result.report["parity"]["split"] == "test"
    assert result.report["parity"]["pictures"] == 12


def test_an_export_of_another_network_fails_the_run(bench, textures) -> None:
    host = bench.host("scratch", textures, target=0.5)
    context = Context(host, CLASSIFICATION)
    network = small_network()
    other = copy.deepcopy(network)
    classifier = other[-1]
    assert isinstance(classifier, nn.Linear)
    with torch.no_grad():
        classifier.bias[0] += 0.3
    square = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ExportMismatch):
        context.finish(
            network,
            size=32,
            architecture="tiny",
            outcome=Outcome.PLATEAU,
            onnx_logits=export_onnx(other, square),
        )
    assert host.result is None


def test_a_package_that_misses_the_target_is_not_called_a_success(bench, textures) -> None:
    host = bench.host("scratch", textures, target=0.99)
    Context(host, CLASSIFICATION).finish(
        nn.Sequential(nn.Flatten(), nn.Linear(32 * 32 * 3, 3)),
        size=32,
        architecture="tiny",
        outcome=Outcome.TARGET_REACHED,
    )
    assert host.result.outcome is Outcome.PLATEAU
