"""ONNX models of pictures: run them, change their size, put a head or a softmax behind them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PREDICT_BATCH = 32
# Answers of the same network by onnxruntime and by torch agree to about 1e-5 of the largest; far beyond, it is another.
AGREEMENT = 1e-3
LARGEST_FOLDED = 256 << 20
"""The bytes of a model that is still folded: it goes through a file, and files of a run lie in its memory."""


class OnnxModel:
    """Runs an ONNX model over uint8 pictures [N, H, W, 3] on so many CPU threads, which wait without spinning.

    model: an onnx.ModelProto, or one that is serialised already.
    """

    def __init__(self, model: Any, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, and need not be printed, too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        serialised = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
        self._door = self._session.get_inputs()[0].name

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return self.outputs(pictures)[0]

    def outputs(self, pictures: np.ndarray, names: Sequence[str] | None = None) -> list[np.ndarray]:
        """Return the outputs of these names, or all of them in the model's order."""
        outputs: list[np.ndarray] = self._session.run(names, {self._door: np.ascontiguousarray(pictures)})
        return outputs

    def predict(self, pictures: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return float32 [M, outputs] for pictures[indices]."""
        return np.concatenate([self(pictures[batch]) for batch in batched(indices, PREDICT_BATCH)])


def answering(model: Any, pictures: np.ndarray, expected: np.ndarray, threads: int) -> OnnxModel | None:
    """Return the model ready to run if it gives the expected answers for the pictures, within AGREEMENT, else None."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    try:
        run = OnnxModel(model, threads)
        got = run(pictures)
    except (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.NotImplemented, ort.RuntimeException):
        return None  # a graph made for one shape cannot be run at every other one, and not every operation at all
    far = AGREEMENT * max(1e-6, float(np.abs(expected).max()))
    return run if got.shape == expected.shape and float(np.abs(got - expected).max()) <= far else None


def batched(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into runs of at most `size`, in their order.

    >>> [len(batch) for batch in batched(np.arange(7), 3)]
    [3, 3, 1]
    """
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def with_size(model: Any, height: int, width: int) -> Any:
    """Return a copy of an exported model that takes pictures of another size.

    Right for networks that work the same way at every size; the caller checks the answers.
    """
    changed = copy.deepcopy(model)
    rows, columns = changed.graph.input[0].type.tensor_type.shape.dim[1:3]
    rows.dim_value, columns.dim_value = height, width
    del changed.graph.value_info[:]  # shapes in between, as they were at the old size
    return changed


def with_constants_folded(model: Any) -> Any:
    """Return a copy in which all that is the same for every picture is computed already, by onnxruntime.

    What a trace computes from a picture's size becomes a constant, and paddings become part of their convolutions.
    The caller checks the answers: what depends on the number of pictures in a batch may be folded too.
    """
    import onnx
    import onnxruntime

    single = copy.deepcopy(model)
    values = (single.graph.input[0], single.graph.output[0])
    batch = values[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    for value in values:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(written)
    for value in (folded.graph.input[0], folded.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = batch
    del folded.graph.value_info[:]
    used = {"", *(node.domain for node in folded.graph.node)}
    needed = [each for each in folded.opset_import if each.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(needed)
    return folded


def append_linear(model: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """Return a copy of a model with features [N, D] out that gives logits [N, C] = features @ weight.T + bias.

    weight: [C, D]. bias: [C].
    """
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
    replace_output(graph, "loupe_logits", len(bias))
    return extended


def append_softmax(model: Any, temperature: float) -> Any:
    """Return a copy of a model with logits out that gives `probabilities`, softmax(logits / temperature)."""
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
    replace_output(graph, "probabilities", classes)
    return extended


def replace_output(graph: Any, name: str, columns: int) -> None:
    """Make the value `name`, float32 [batch, columns], the only output of an onnx.GraphProto."""
    from onnx import TensorProto, helper

    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, columns]))
