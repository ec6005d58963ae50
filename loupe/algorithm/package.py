"""Model packages: a trained network as safetensors and ONNX, with what is needed to use it and to trust it.

A package is four files: `model.safetensors` (the network's weights), `model.onnx` (pictures in, probabilities out),
`model.json` (labels, input, digests of the others) and `golden.npz` (pictures with the expected answers).
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

FORMAT = "loupe-model/1"
OPSET = 20
TOLERANCE = 1e-3
GOLDEN_PICTURES = 8
PREDICT_BATCH = 32
# Answers of the same network by onnxruntime and by torch agree to about 1e-5 of the largest; far beyond, it is another.
AGREEMENT = 1e-3


class ExportMismatch(RuntimeError):
    """Says that the ONNX model does not answer what the trained network answers."""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels 0..255 become the network's input: (pixel / 255 - mean) / std, per RGB channel."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class PictureNetwork(nn.Module):
    """Takes uint8 [N, H, W, 3] pictures to what `network` makes of the normalised [N, 3, H, W]."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network(pictures.permute(0, 3, 1, 2).float() * self.scale + self.shift)


def predict_torch(
    network: nn.Module, preprocessing: Preprocessing, pictures: np.ndarray, indices: np.ndarray, device: torch.device
) -> np.ndarray:
    """Return float32 [M, C], the network's answers for pictures[indices], computed in float32."""
    whole = PictureNetwork(network, preprocessing).to(device).eval()
    batches = []
    with torch.inference_mode():
        for batch in batched(indices, PREDICT_BATCH if device.type == "cpu" else 256):
            batches.append(whole(torch.from_numpy(pictures[batch]).to(device)).float().cpu())
    return torch.cat(batches).numpy() if batches else np.zeros((0, 0), np.float32)


def batched(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into runs of at most `size`."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def ready_for_inference(network: nn.Module, height: int, width: int) -> nn.Module:
    """Return a copy with batch norms folded into their convolutions, which exports thrice as fast.

    Neighbours in the module tree are taken to follow each other in the computation; where that turns out wrong
    on a noise picture, the copy is returned unfolded.
    """
    plain = copy.deepcopy(network).cpu().float().eval()
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # in-place activations are decomposed node by node while exporting
    folded = copy.deepcopy(plain)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, first), (name, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and _foldable(first, second):
                _fold(first, second)
                # timm's BatchNormAct2d brings its activation along.
                rest = [part for part in (getattr(second, "drop", None), getattr(second, "act", None)) if part]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = plain(noise), folded(noise)
    same = torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folded if same else plain


def export_onnx(network: nn.Module, preprocessing: Preprocessing, output: str = "logits") -> Any:
    """Return an onnx.ModelProto from `pictures` uint8 [batch, H, W, 3] to `output` float32 [batch, D].

    It is traced, which takes a quarter to a tenth of the time of torch.export (bench/export.py); torch.export does it
    where a trace is impossible or gives other answers than the network on noise (docs/decisions/0008).
    """
    height, width = preprocessing.height, preprocessing.width
    whole = PictureNetwork(ready_for_inference(network, height, width), preprocessing).eval()
    if (model := _trace(whole, height, width, output)) is None:
        return export_with_torch(whole, height, width, output)
    # Three pictures, as the trace saw two: what it took for a constant shows.
    noise = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(noise)).numpy()
    if answering(model, noise, expected, threads=1) is None:
        return export_with_torch(whole, height, width, output)
    _replace_output(model.graph, output, expected.shape[1])
    return model


def _trace(whole: PictureNetwork, height: int, width: int, output: str) -> Any | None:
    import onnx

    written = io.BytesIO()
    try:
        with warnings.catch_warnings(), _without_stdout(), torch.no_grad():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                whole,
                (_example(height, width),),
                written,
                dynamo=False,
                dynamic_axes={"pictures": {0: "batch"}, output: {0: "batch"}},
                input_names=["pictures"],
                output_names=[output],
                opset_version=OPSET,
            )
    except Exception:
        return None  # sizes are tensors in a trace, over which any network's code may stumble
    return onnx.load_from_string(written.getvalue())


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Drop what the block prints: where a trace is impossible, torch's C++ prints the whole graph."""
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def export_with_torch(whole: PictureNetwork, height: int, width: int, output: str) -> Any:
    """Return the slow way of export_onnx, by torch.export: it understands more networks."""
    with torch.no_grad():
        program = torch.onnx.export(
            whole,
            (_example(height, width),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["pictures"],
            output_names=[output],
            opset_version=OPSET,
            verbose=False,
        )
    return program.model_proto


def _example(height: int, width: int) -> torch.Tensor:
    # With a batch of one, torch.export takes the batch for a constant.
    return torch.zeros(2, height, width, 3, dtype=torch.uint8)


def with_size(model: Any, height: int, width: int) -> Any:
    """Return a copy of an exported model that takes pictures of another size.

    Right for networks that work the same way at every size; the caller checks the answers.
    """
    changed = copy.deepcopy(model)
    rows, columns = changed.graph.input[0].type.tensor_type.shape.dim[1:3]
    rows.dim_value, columns.dim_value = height, width
    del changed.graph.value_info[:]  # shapes in between, as they were at the old size
    return changed


def append_linear(model: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """Return a copy of a model with features out that gives logits = features @ weight.T + bias."""
    from onnx import helper, numpy_helper

    extended = copy.deepcopy(model)
    graph = extended.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(weight.astype(np.float32), "loupe_head_weight"),
            numpy_helper.from_array(bias.astype(np.float32), "loupe_head_bias"),
        ]
    )
    inputs = [graph.output[0].name, "loupe_head_weight", "loupe_head_bias"]
    graph.node.append(helper.make_node("Gemm", inputs, ["loupe_logits"], transB=1))
    _replace_output(graph, "loupe_logits", len(bias))
    return extended


def append_softmax(model: Any, temperature: float) -> Any:
    """Return a copy of a model with logits out that gives softmax(logits / temperature)."""
    from onnx import helper, numpy_helper

    extended = copy.deepcopy(model)
    graph = extended.graph
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    inverse = numpy_helper.from_array(np.array(1.0 / temperature, np.float32), "loupe_inverse_temperature")
    graph.initializer.append(inverse)
    graph.node.extend(
        [
            helper.make_node("Mul", [graph.output[0].name, inverse.name], ["loupe_scaled_logits"]),
            helper.make_node("Softmax", ["loupe_scaled_logits"], ["probabilities"], axis=1),
        ]
    )
    _replace_output(graph, "probabilities", classes)
    return extended


class OnnxModel:
    """Runs an ONNX model over pictures with a fixed number of threads that wait without spinning."""

    def __init__(self, model: Any, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"pictures": np.ascontiguousarray(pictures)})[0]

    def predict(self, pictures: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return float32 [M, outputs] for pictures[indices]."""
        return np.concatenate([self(pictures[batch]) for batch in batched(indices, PREDICT_BATCH)])


def answering(model: Any, pictures: np.ndarray, expected: np.ndarray, threads: int) -> OnnxModel | None:
    """Return the model ready to run if it gives the expected answers for the pictures, else None."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    try:
        run = OnnxModel(model, threads)
        got = run(pictures)
    except (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.NotImplemented, ort.RuntimeException):
        return None  # a graph made for one shape cannot be run at every other one, and not every operation at all
    far = AGREEMENT * max(1e-6, float(np.abs(expected).max()))
    return run if got.shape == expected.shape and float(np.abs(got - expected).max()) <= far else None


def check_parity(expected: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Compare probabilities of the trained network and the ONNX model, row by row.

    Returns JSON-able figures. Raises ExportMismatch where a probability differs by more than TOLERANCE.
    """
    difference = float(np.abs(expected - got).max(initial=0.0))
    same = int((expected.argmax(axis=1) == got.argmax(axis=1)).sum())
    if not difference <= TOLERANCE:  # also catches NaN
        raise ExportMismatch(
            f"the ONNX model's probabilities differ from the trained network's by up to {difference:.2g} "
            f"(at most {TOLERANCE} is taken), with the same class for {same} of {len(expected)} pictures"
        )
    return {
        "pictures": len(expected),
        "same_class": same,
        "max_difference": difference,
        "tolerance": TOLERANCE,
    }


def golden_rows(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Pick up to GOLDEN_PICTURES rows, one class after the other, the surest ones first.

    Sure answers stay the same on every device; a borderline picture would call a correct model altered.
    """
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    queues = [[row for row in surest if classes[row] == each] for each in np.unique(classes)]
    picked: list[int] = []
    while len(picked) < min(GOLDEN_PICTURES, len(classes)):
        for queue in queues:
            if queue and len(picked) < GOLDEN_PICTURES:
                picked.append(queue.pop(0))
    return np.array(picked)


def write_package(
    folder: Path,
    network: nn.Module,
    model: Any,
    preprocessing: Preprocessing,
    *,
    labels: Sequence[str],
    architecture: str,
    temperature: float,
    golden_pictures: np.ndarray,
    golden_probabilities: np.ndarray,
    extra: Mapping[str, Any],
) -> dict[str, Path]:
    """Write the four files and return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in ("model.safetensors", "model.onnx", "golden.npz", "model.json")}
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    save_file(weights, paths["model.safetensors"], metadata={"architecture": architecture})
    paths["model.onnx"].write_bytes(model.SerializeToString())
    np.savez(paths["golden.npz"], pictures=golden_pictures, probabilities=golden_probabilities)
    digests = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if name != "model.json"
    }
    document = {
        "format": FORMAT,
        "task": "classification",
        "labels": list(labels),
        "input": {"height": preprocessing.height, "width": preprocessing.width, "channels": "RGB", "type": "uint8"},
        "normalisation": {"mean": preprocessing.mean, "std": preprocessing.std, "inside_graph": True},
        "temperature": temperature,
        "architecture": architecture,
        **extra,
        "files": digests,
    }
    paths["model.json"].write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return paths


def _foldable(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return convolution.out_channels == norm.num_features and norm.running_mean is not None and norm.affine


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    convolution.weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.bias = bias


def _replace_output(graph: Any, name: str, columns: int) -> None:
    from onnx import TensorProto, helper

    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, columns]))
