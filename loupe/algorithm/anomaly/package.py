"""An inspector's package: scores and heat maps, the golden ones among them, and the scores that set its threshold.

The files are those of `loupe.algorithm.package`. `golden.npz` has `pictures`, uint8 [K, S, S, 3], their `scores`, and
`maps`. The member `inspection` of model.json says which class is that of the good parts, the rate of false alarms that
was asked for, the threshold for it, and the highest scores of the good validation pictures (of so many `pictures`), by
which terminals set thresholds for other rates.
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

from loupe.algorithm.export import Preprocessing
from loupe.algorithm.package import FORMAT, GOLDEN_PICTURES, ExportMismatch
from loupe.tasks.anomaly import Anomaly

TOLERANCE = 0.02, 1e-3
"""How far scores and map cells may be apart: so much, and this part of the value besides. Their unit is the spread of
good pictures."""


def check_parity(expected: tuple[np.ndarray, np.ndarray], got: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Compare scores [N] and maps [N, h, h] of the network and of the ONNX model, picture by picture.

    Returns JSON-able figures. Raises ExportMismatch where one is farther off than TOLERANCE.
    """
    absolute, relative = TOLERANCE
    for name, wanted, found in zip(("scores", "heat maps"), expected, got, strict=True):
        off = np.abs(wanted - found)
        if not (off <= absolute + relative * np.abs(wanted)).all():  # also catches NaN
            raise ExportMismatch(
                f"the ONNX model's {name} differ from the network's by up to {off.max():.2g} (at most {absolute} and "
                f"{relative:.1%} of the value is taken)"
            )
    differences = [float(np.abs(wanted - found).max(initial=0.0)) for wanted, found in zip(expected, got, strict=True)]
    return {
        "pictures": len(expected[0]),
        "max_difference": differences[0],
        "max_map_difference": differences[1],
        "tolerance": absolute,
        "relative_tolerance": relative,
    }


def golden_rows(good: np.ndarray) -> np.ndarray:
    """Pick up to GOLDEN_PICTURES of M pictures, good and bad ones in turn. good: bool [M].

    >>> golden_rows(np.array([True, True, False])).tolist()
    [0, 2, 1]
    """
    queues = [np.flatnonzero(good).tolist(), np.flatnonzero(~good).tolist()]
    picked: list[int] = []
    while len(picked) < min(GOLDEN_PICTURES, len(good)):
        picked += [queue.pop(0) for queue in queues if queue]
    return np.array(picked[:GOLDEN_PICTURES])


def write_package(
    folder: Path,
    network: nn.Module,
    model: Any,
    preprocessing: Preprocessing,
    *,
    labels: Sequence[str],
    architecture: str,
    seed: int,
    golden: Mapping[str, np.ndarray],
    inspection: Mapping[str, Any],
) -> dict[str, Path]:
    """Write the four files of a package and return their paths by name."""
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
    document = {
        "format": FORMAT,
        "task": Anomaly.name,
        "labels": list(labels),
        "input": {"height": preprocessing.height, "width": preprocessing.width, "channels": "RGB", "type": "uint8"},
        "normalisation": {"mean": preprocessing.mean, "std": preprocessing.std, "inside_graph": True},
        "architecture": architecture,
        "seed": seed,
        "inspection": dict(inspection),
        "files": digests,
    }
    paths["model.json"].write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return paths
