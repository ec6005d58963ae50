"""A second model in INT8 beside the one in FP32: a byte for each weight and activation of the convolutions.

Weights are quantized per channel and activations per tensor, with ranges that were seen on training pictures: Jacob et
al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018. Normalising
the pictures, and the last linear layer with its softmax, stay in FP32.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.dataset import Dataset
from loupe.algorithm.host import Host, Progress, RunSpec
from loupe.algorithm.onnx_model import LARGEST_FOLDED, OnnxModel, batched, with_constants_folded

MOST_FLIPS = 0.01
"""The part of the compared pictures to which INT8 may answer another class than FP32."""
MOST_ACCURACY_LOST = 0.005
"""How much lower the accuracy of INT8 may be, as a part of 1."""
SHORTEST_RUN_SECONDS = 10.0
"""A run that was done sooner makes no INT8 model: it takes two seconds, which are for who waits too many then."""
LONGEST_SECONDS = 20.0
"""How long calibrating may take; and a run that has overdrawn its budget by as much makes no INT8 model."""
CALIBRATION_PICTURES = 64
_BATCH = 8
_QUANTIZED = ("Conv", "Clip", "Relu", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")


class NotQuantized(Exception):
    """Says why there is no INT8 model."""


@dataclass(frozen=True)
class Slack:
    """The time that making an INT8 model may take.

    elapsed: seconds that the run took until now. left: of its budget; infinite without one.
    """

    elapsed: float
    left: float


@dataclass(frozen=True)
class Int8Model:
    """An onnx.ModelProto, from pictures to probabilities, with what it answers.

    answers: float32 [M, C] for the compared pictures. golden: float32 [K, C] for the golden ones. seconds: to make it.
    """

    model: Any
    answers: np.ndarray
    golden: np.ndarray
    seconds: float


def make_int8(
    host: Host,
    spec: RunSpec,
    data: Dataset,
    model: Any,
    pictures: np.ndarray,
    *,
    compared: np.ndarray,
    golden: np.ndarray,
    slack: Slack,
) -> Int8Model:
    """Quantize a model from pictures to probabilities, calibrated on training pictures that the seed draws.

    pictures: uint8 [N, H, W, 3], all of the run. compared: int64 [M], those to answer. golden: uint8 [K, H, W, 3].
    Raises NotQuantized.
    """
    _check_worthwhile(model, slack)
    began = time.monotonic()
    drawn = np.random.default_rng(spec.seed).permutation(data.train)[:CALIBRATION_PICTURES]
    batches = batched(np.sort(drawn), _BATCH)

    def next_batch(number: int) -> np.ndarray | None:
        if host.stop_requested():
            raise NotQuantized("the run was asked to end")
        if time.monotonic() - began > LONGEST_SECONDS:
            raise NotQuantized(f"calibrating took longer than {LONGEST_SECONDS:.0f} s")
        if number == len(batches):
            return None
        host.report(Progress("quantize", step=number + 1, total_steps=len(batches), message="making an INT8 model too"))
        return np.ascontiguousarray(pictures[batches[number]])

    try:
        quantized = quantize(model, next_batch, spec.threads)
        run = OnnxModel(quantized, spec.threads)
        return Int8Model(quantized, run.predict(pictures, compared), run(golden), time.monotonic() - began)
    except NotQuantized:
        raise
    except Exception as error:  # any network may come, and the library raises whatever it stumbles over
        raise NotQuantized(f"onnxruntime cannot quantize this network: {str(error)[:200]}") from error


def _check_worthwhile(model: Any, slack: Slack) -> None:
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise NotQuantized("the network has no convolutions")
    if model.ByteSize() > LARGEST_FOLDED:
        raise NotQuantized(f"the model is larger than {LARGEST_FOLDED >> 20} MB")
    if slack.elapsed < SHORTEST_RUN_SECONDS:
        raise NotQuantized(f"the run was done within {SHORTEST_RUN_SECONDS:.0f} s")
    if slack.left < -LONGEST_SECONDS:
        raise NotQuantized(f"the budget was overdrawn by more than {LONGEST_SECONDS:.0f} s")


def quantize(model: Any, next_batch: Callable[[int], np.ndarray | None], threads: int) -> Any:
    """Return the model in INT8, with QuantizeLinear and DequantizeLinear around what is computed in bytes.

    next_batch: gives batch 0, 1, 2 ... of the pictures to calibrate on, uint8 [B, H, W, 3], and None after the last.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    prepared = with_constants_folded(model)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"node_{number}"  # nodes are left out by name, and not all have one
    prepared = onnx.shape_inference.infer_shapes(prepared)
    ranges = _ranges(prepared, next_batch, threads)
    quantizer = QDQQuantizer(
        copy.deepcopy(prepared),
        True,  # per channel
        False,  # all 8 bits of a weight; where a CPU's sums overflow, its golden answers show it
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        [],
        _before_convolutions(prepared),
        list(_QUANTIZED),
        {},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _ranges(model: Any, next_batch: Callable[[int], np.ndarray | None], threads: int) -> Any:
    """Return the least and the greatest of every value in the model, on the calibration pictures."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        given = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            pictures = next_batch(self.given)
            self.given += 1
            return None if pictures is None else {"pictures": pictures}

    with tempfile.TemporaryDirectory() as folder:
        plain, observed = Path(folder) / "plain.onnx", Path(folder) / "observed.onnx"
        onnx.save(model, plain)
        calibrater = MinMaxCalibrater(plain, list(_QUANTIZED), str(observed))
        calibrater.augment_graph()
        # Its own session would take every core of the machine.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        calibrater.infer_session = onnxruntime.InferenceSession(
            str(observed), options, providers=["CPUExecutionProvider"]
        )
        calibrater.collect_data(Batches())
    return calibrater.compute_data()


def _before_convolutions(model: Any) -> list[str]:
    """Return the nodes that no convolution is before: those that make a network's input of pictures."""
    behind: set[str] = set()
    before = []
    for node in model.graph.node:
        if node.op_type == "Conv" or not behind.isdisjoint(node.input):
            behind.update(node.output)
        else:
            before.append(node.name)
    return before


def agreement(expected: np.ndarray, answers: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Compare answers [M, C] of INT8 with the expected ones of FP32, for pictures of the true classes int [M].

    Returns JSON-able figures. `reason` says why INT8 may not be used; it is empty where it may.

    >>> fp32, int8 = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.6, 0.4]])
    >>> agreement(fp32, int8, np.array([0, 1]))["reason"]
    'the answer changes for 1 of 2 pictures (50.00 %; at most 1.00 % is taken)'
    """
    before, after = expected.argmax(axis=1), answers.argmax(axis=1)
    flipped = int((before != after).sum())
    right, still = int((before == classes).sum()), int((after == classes).sum())
    accuracy, reached = right / len(classes), still / len(classes)
    reason = ""
    if flipped > MOST_FLIPS * len(classes):
        share = flipped / len(classes)
        reason = (
            f"the answer changes for {flipped} of {len(classes)} pictures "
            f"({share * 100:.2f} %; at most {MOST_FLIPS * 100:.2f} % is taken)"
        )
    elif right - still > MOST_ACCURACY_LOST * len(classes):
        reason = (
            f"the accuracy falls from {accuracy * 100:.2f} % to {reached * 100:.2f} % "
            f"(by at most {MOST_ACCURACY_LOST * 100:.1f} points is taken)"
        )
    return {
        "pictures": len(classes),
        "flipped": flipped,
        "accuracy": {"fp32": accuracy, "int8": reached},
        "reason": reason,
    }
