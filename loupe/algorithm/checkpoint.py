"""Checkpoints as folders of safetensors and JSON: nothing in them can run when it is read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = "loupe-checkpoint/1"
_STATE, _TENSORS = "state.json", "tensors.safetensors"
_TENSOR_KEY = "$tensor"


class BadCheckpoint(ValueError):
    """Says why a state cannot be written, or a folder is no whole checkpoint."""


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> Path:
    """Put a state into a new folder and return the folder.

    The state is made of dicts with text keys, lists, finite numbers, text, booleans, None, tensors and numpy arrays.
    Raises BadCheckpoint for anything else, FileExistsError where the folder is there already.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _separate(state, "", tensors)
    folder.mkdir(parents=True)
    save_file(tensors, folder / _TENSORS, metadata={"format": FORMAT})
    text = json.dumps({"format": FORMAT, "state": tree}, ensure_ascii=False, allow_nan=False)
    (folder / _STATE).write_text(text, encoding="utf-8")
    return folder


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the state; arrays come back as tensors on the CPU, tuples as lists. Raises BadCheckpoint."""
    try:
        document = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise BadCheckpoint(f"{folder}: format {document['format']!r}, where {FORMAT!r} was expected")
        with safe_open(os.fspath(folder / _TENSORS), framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        state: dict[str, Any] = _join(document["state"], tensors)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder} is no whole checkpoint: {error}") from error
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer has gathered, in a form that a checkpoint takes."""
    return {str(index): dict(slots) for index, slots in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give the state back to an optimizer over the same parameters in the same order.

    Each tensor of a parameter's shape is laid out in memory as the parameter is; fused optimizers rely on it.
    """
    current = optimizer.state_dict()
    current["state"] = {int(index): dict(slots) for index, slots in state.items()}
    optimizer.load_state_dict(current)
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _separate(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        # A copy: safetensors refuses tensors that share memory, and a view would drag its whole base along.
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR_KEY: path}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise BadCheckpoint(f"{path or 'the state'}: keys must be text")
        return {key: _separate(part, f"{path}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_separate(part, f"{path}/{index}", tensors) for index, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise BadCheckpoint(f"{path}: {value} cannot be kept")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BadCheckpoint(f"{path}: a {type(value).__name__} cannot be kept; use tensors, numbers and text")


def _join(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR_KEY}:
            return tensors[value[_TENSOR_KEY]]
        return {key: _join(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_join(part, tensors) for part in value]
    return value
