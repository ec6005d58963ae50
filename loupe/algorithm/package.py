"""Model packages: a trained network as safetensors and ONNX, with what is needed to use it and to trust it.

A package is four files: `model.safetensors` (the network's weights), `model.onnx` (pictures in, answers out),
`model.json` (task, labels, input, digests of the others) and `golden.npz` (pictures with the expected answers). What a
task adds to them stands in the module `package` of its folder here, as in `loupe.algorithm.detection.package`.
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
from loupe.tasks.task import Task

# Images that meshes have already import these from here.
__all__ = ["OnnxModel", "PictureNetwork", "Preprocessing", "answering", "append_linear", "export_onnx", "with_size"]

FORMAT = "loupe-model/1"
TOLERANCE = 1e-3
GOLDEN_PICTURES = 8


class ExportMismatch(RuntimeError):
    """Says that the ONNX model does not answer what the trained network answers."""


def write_package(
    folder: Path,
    network: nn.Module,
    model: Any,
    preprocessing: Preprocessing,
    *,
    task: Task,
    labels: Sequence[str],
    architecture: str,
    seed: int,
    golden: Mapping[str, np.ndarray],
    members: Mapping[str, Any],
    fit: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Write the four files of a package and return their paths by name.

    model: an onnx.ModelProto from pictures to what the task answers. golden: the arrays of golden.npz. members: those
    of model.json that the task has besides. fit: how pictures come to their height and width, where they are not
    stretched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in ("model.safetensors", "model.onnx", "golden.npz", "model.json")}
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    save_file(weights, paths["model.safetensors"], metadata={"architecture": architecture})
    paths["model.onnx"].write_bytes(model.SerializeToString())
    np.savez(paths["golden.npz"], **golden)  # type: ignore[arg-type]  # numpy's own arguments come between in its types
    digests = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if name != "model.json"
    }
    sides = {"height": preprocessing.height, "width": preprocessing.width}
    document = {
        "format": FORMAT,
        "task": task.name,
        "labels": list(labels),
        "input": {**sides, "channels": "RGB", "type": "uint8", **(fit or {})},
        "normalisation": {"mean": preprocessing.mean, "std": preprocessing.std, "inside_graph": True},
        "architecture": architecture,
        "seed": seed,
        **members,
        "files": digests,
    }
    write_document(paths["model.json"], document)
    return paths


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a model.json."""
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
