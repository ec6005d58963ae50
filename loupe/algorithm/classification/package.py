"""What a classifier's package has besides: probabilities, and an INT8 model where that answers the same.

`model.int8.onnx` is the fifth file then, and the member `int8` of model.json names it; who does not know that member
loses nothing. So it is with `operating_points`: how many of the validation pictures the model answers from which
confidence on, and how many of these wrongly, in FP32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.package import GOLDEN_PICTURES, TOLERANCE, ExportMismatch, write_document

INT8_FILE = "model.int8.onnx"


def check_parity(expected: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Compare probabilities [N, C] of the trained network and of the ONNX model, row by row.

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

    probabilities: [N, C]. classes: int [N]. Sure answers stay the same on every device; a borderline picture would
    call a correct model altered.

    >>> golden_rows(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), np.array([0, 0, 1]))
    array([1, 2, 0])
    """
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    queues = [[row for row in surest if classes[row] == each] for each in np.unique(classes)]
    picked: list[int] = []
    while len(picked) < min(GOLDEN_PICTURES, len(classes)):
        for queue in queues:
            if queue and len(picked) < GOLDEN_PICTURES:
                picked.append(queue.pop(0))
    return np.array(picked)


def add_int8(paths: Mapping[str, Path], model: Any, golden_probabilities: np.ndarray) -> dict[str, Path]:
    """Add an INT8 model to a written package and return all paths by name.

    model: an onnx.ModelProto from pictures to probabilities. golden_probabilities: float32 [K, C], its own answers for
    the golden pictures.
    """
    file, manifest = paths["model.json"].with_name(INT8_FILE), paths["model.json"]
    file.write_bytes(model.SerializeToString())
    document = json.loads(manifest.read_text(encoding="utf-8"))
    document["files"][INT8_FILE] = hashlib.sha256(file.read_bytes()).hexdigest()
    document["int8"] = {"file": INT8_FILE, "golden_probabilities": golden_probabilities.tolist()}
    write_document(manifest, document)
    return {**paths, INT8_FILE: file}
