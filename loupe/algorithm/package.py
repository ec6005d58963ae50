"""Model packages: a trained network as safetensors and ONNX, with what is needed to use it and to trust it.

A package is four files: `model.safetensors` (the network's weights), `model.onnx` (pictures in, probabilities out),
`model.json` (labels, input, digests of the others) and `golden.npz` (pictures with the expected answers). Where an INT8
model answers the same, `model.int8.onnx` is the fifth, and the member `int8` of model.json names it; who does not know
that member loses nothing. So it is with `operating_points`: how many of the validation pictures the model answers from
which confidence on, and how many of these wrongly, in FP32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from loupe.algorithm.export import PictureNetwork, Preprocessing, export_onnx
from loupe.algorithm.onnx_model import OnnxModel, answering, append_linear, with_size
from loupe.tasks import DEFAULT

# Images that meshes have already import these from here.
__all__ = ["OnnxModel", "PictureNetwork", "Preprocessing", "answering", "append_linear", "export_onnx", "with_size"]

FORMAT = "loupe-model/1"
TOLERANCE = 1e-3
GOLDEN_PICTURES = 8
INT8_FILE = "model.int8.onnx"


class ExportMismatch(RuntimeError):
    """Says that the ONNX model does not answer what the trained network answers."""


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
    operating_points: Sequence[tuple[float, int, int]],
    seed: int,
) -> dict[str, Path]:
    """Write the four files of a package and return their paths by name.

    model: an onnx.ModelProto from pictures to probabilities. golden_pictures: uint8 [K, H, W, 3], with
    golden_probabilities float32 [K, C], the model's answers for them. operating_points: those of
    `loupe.algorithm.evaluation` on the validation pictures.
    """
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
        "task": DEFAULT.name,
        "labels": list(labels),
        "input": {"height": preprocessing.height, "width": preprocessing.width, "channels": "RGB", "type": "uint8"},
        "normalisation": {"mean": preprocessing.mean, "std": preprocessing.std, "inside_graph": True},
        "temperature": temperature,
        "architecture": architecture,
        "seed": seed,
        "operating_points": {"split": "validation", "rows": operating_points},
        "files": digests,
    }
    _write_document(paths["model.json"], document)
    return paths


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
    _write_document(manifest, document)
    return {**paths, INT8_FILE: file}


def _write_document(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
