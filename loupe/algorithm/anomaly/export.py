"""From a network with a score and a heat map to an ONNX model that has both as outputs."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.export import PictureNetwork, Preprocessing, export_onnx
from loupe.algorithm.onnx_model import PREDICT_BATCH, OnnxModel, batched

SCORE, MAP = "score", "map"
"""The outputs: float32 [N], and float32 [N, h, h]."""

_FLAT = "loupe_flat"


def map_side(network: nn.Module, preprocessing: Preprocessing) -> int:
    """Return h of a network from normalised pictures [N, 3, H, W] to [N, 1 + h h]. Raises ValueError for any other."""
    noise = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        answer: torch.Tensor = copy.deepcopy(network).cpu().eval()(noise)
    side = math.isqrt(max(0, answer.shape[-1] - 1))
    if answer.ndim != 2 or side < 1 or answer.shape[1] != 1 + side * side:
        raise ValueError(
            f"the network answers {list(answer.shape)}; expected [N, 1 + h h], a score and a square heat map"
        )
    return side


def export_inspector(network: nn.Module, preprocessing: Preprocessing, side: int) -> Any:
    """Return an onnx.ModelProto from `pictures` uint8 [batch, H, W, 3] to SCORE and MAP. side: that of the map."""
    from onnx import TensorProto, helper, numpy_helper

    model = export_onnx(network, preprocessing, _FLAT)
    graph = model.graph
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    constants = {
        "loupe_column": np.array(0, np.int64),
        "loupe_from": np.array([1], np.int64),
        "loupe_to": np.array([1 + side * side], np.int64),
        "loupe_axis": np.array([1], np.int64),
        "loupe_shape": np.array([0, side, side], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Gather", [_FLAT, "loupe_column"], [SCORE], axis=1),
            helper.make_node("Slice", [_FLAT, "loupe_from", "loupe_to", "loupe_axis"], ["loupe_cells"]),
            helper.make_node("Reshape", ["loupe_cells", "loupe_shape"], [MAP]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info(MAP, TensorProto.FLOAT, [batch, side, side]),
        ]
    )
    return model


class InspectedBy:
    """Runs such a model on so many CPU threads, which wait without spinning."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = OnnxModel(model, threads)

    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 [N] and maps float32 [N, h, h] of uint8 [N, H, W, 3]."""
        scores, maps = self._model.outputs(pictures, (SCORE, MAP))
        return scores, maps

    def scores(self, pictures: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the scores of pictures[indices], float32 [M]."""
        found = [self(pictures[batch])[0] for batch in batched(indices, PREDICT_BATCH)]
        return np.concatenate(found) if found else np.zeros(0, np.float32)


def answers_of_torch(
    network: nn.Module, preprocessing: Preprocessing, pictures: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network itself says of uint8 [N, H, W, 3]: scores float32 [N], maps float32 [N, h, h]."""
    whole = PictureNetwork(network, preprocessing).to(device).eval()
    with torch.inference_mode():
        flat = torch.cat(
            [
                whole(torch.from_numpy(np.ascontiguousarray(pictures[batch])).to(device)).float().cpu()
                for batch in batched(np.arange(len(pictures)), PREDICT_BATCH)
            ]
        ).numpy()
    side = math.isqrt(flat.shape[1] - 1)
    return flat[:, 0], flat[:, 1:].reshape(-1, side, side)
