"""From a detector of torch to an ONNX model that finds the same, from raw pixels to boxes that do not overlap."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm.export import Preprocessing, export_onnx
from loupe.algorithm.onnx_model import PREDICT_BATCH, OnnxModel, batched
from loupe.algorithm.package import ExportMismatch
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions

LEAST_SCORE = 0.01
"""Boxes below it are left out."""
MOST_OVERLAP = 0.6
"""Of boxes of a class whose intersection over union is above it, the surest stays."""
OUTPUTS = ("found_pictures", "boxes", "scores", "classes")
"""What the model gives of each box, in the order of the pictures, the surest ones of each first: int64 [K], the place
of its picture in the batch; float32 [K, 4]; float32 [K]; int64 [K]. "pictures" is the input's name, as it always is."""

_PREFIX = "loupe_"


class FlatDetector(nn.Module):
    """Makes one row of numbers of what a detector says of a picture: its A boxes, then A * C scores, all in 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        boxes, scores = self.network(pictures)
        boxes = boxes.clamp(0, 1)
        low, high = boxes[..., :2], boxes[..., 2:]
        boxes = torch.cat([low, torch.maximum(low, high)], dim=-1)
        return torch.cat([boxes.flatten(1), scores.clamp(0, 1).flatten(1)], dim=1)


class FoundBy:
    """An ONNX model with OUTPUTS, run over uint8 pictures [N, S, S, 3] on so many CPU threads."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = OnnxModel(model, threads)

    def __call__(self, pictures: np.ndarray) -> Regions:
        """Return what is found in pictures, numbered by their places."""
        numbers, boxes, scores, classes = self._model.outputs(pictures, OUTPUTS)
        return Regions(numbers, classes, boxes, scores)

    def predict(self, pictures: np.ndarray, indices: np.ndarray) -> Regions:
        """Return what is found in pictures[indices], numbered by their places among the indices."""
        return joined([self(pictures[batch]) for batch in batched(indices, PREDICT_BATCH)], PREDICT_BATCH)


def joined(parts: Sequence[Regions], pictures: int) -> Regions:
    """Return what was found in batches of so many pictures, numbered from the first picture of the first batch."""
    empty = Regions(*(np.zeros(shape, kind) for shape, kind in ((0, "i8"), (0, "i8"), ((0, 4), "f4"), (0, "f4"))))
    parts = [*parts, empty]
    return Regions(
        np.concatenate([part.pictures + number * pictures for number, part in enumerate(parts)]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts if part.scores is not None]),
    )


def anchors_of(network: nn.Module, preprocessing: Preprocessing, classes: int) -> int:
    """Return how many boxes a detector gives for each picture. Raises ValueError for what is no detector.

    The network is tried on noise on the CPU, and left in training or not as it was.
    """
    noise = torch.randn(2, 3, preprocessing.height, preprocessing.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answered = copy.deepcopy(network).cpu().float().eval()(noise)
    expected = f"boxes [N, A, 4] and scores [N, A, {classes}] would be right"
    if not isinstance(answered, tuple | list) or len(answered) != 2:
        raise ValueError(f"the network answers with {type(answered).__name__}; {expected}")
    boxes, scores = answered
    anchors = boxes.shape[1] if boxes.dim() == 3 else 0
    if boxes.shape != (2, anchors, 4) or scores.shape != (2, anchors, classes) or not anchors:
        raise ValueError(f"the network answers with shapes {tuple(boxes.shape)} and {tuple(scores.shape)}; {expected}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("the network's scores leave 0..1; a sigmoid or softmax behind them would be right")
    return int(anchors)


def export_flat(network: nn.Module, preprocessing: Preprocessing) -> Any:
    """Return an onnx.ModelProto from pictures to the rows of a FlatDetector. Raises ExportMismatch."""
    model = export_onnx(FlatDetector(network), preprocessing, f"{_PREFIX}rows")
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ExportMismatch(
            "the network can be exported for one number of pictures only; what it makes for each picture has to follow "
            "its input's shape[0], which a trace sees, and not len()"
        )
    return model


def append_selection(model: Any, anchors: int, classes: int) -> Any:
    """Return a copy of a model with FlatDetector's rows out that gives OUTPUTS, at most MAX_DETECTIONS a picture."""
    from onnx import TensorProto, helper, numpy_helper

    extended = copy.deepcopy(model)
    graph = extended.graph
    nodes = _selection(graph.output[0].name)
    constants = _constants(anchors, classes).items()
    graph.initializer.extend(numpy_helper.from_array(value, _PREFIX + name) for name, value in constants)
    graph.node.extend(nodes)
    kinds = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    del graph.output[:]
    for name, kind in zip(OUTPUTS, kinds, strict=True):
        shape: list[str | int | None] = ["found", 4] if name == "boxes" else ["found"]
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return extended


def select(rows: np.ndarray, anchors: int, classes: int) -> Regions:
    """Return by torch what `append_selection` does: rows float32 [N, anchors * (4 + classes)] to N pictures' boxes."""
    parts = []
    for row in torch.from_numpy(rows):
        boxes, scores = row[: 4 * anchors].view(anchors, 4), row[4 * anchors :].view(anchors, classes)
        places, kinds = torch.nonzero(scores > LEAST_SCORE, as_tuple=True)
        sure, order = scores[places, kinds].sort(descending=True, stable=True)
        places, kinds = places[order], kinds[order]
        kept = _surest(boxes[places], sure, kinds)
        found = (kinds[kept], boxes[places[kept]], sure[kept])
        parts.append(Regions(np.zeros(len(kept), np.int64), *(each.numpy() for each in found)))
    return joined(parts, 1)


def _surest(boxes: torch.Tensor, scores: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Return the places of the boxes that stay, at most MAX_DETECTIONS. scores: falling.

    What stays of the first boxes does not depend on those behind them, so these are only looked at where it takes them.
    """
    from torchvision.ops import batched_nms

    looked_at = 10 * MAX_DETECTIONS
    while True:
        kept: torch.Tensor = batched_nms(boxes[:looked_at], scores[:looked_at], kinds[:looked_at], MOST_OVERLAP)
        if len(kept) >= MAX_DETECTIONS or looked_at >= len(scores):
            return kept[:MAX_DETECTIONS]
        looked_at *= 4


def _constants(anchors: int, classes: int) -> dict[str, np.ndarray]:
    return {
        "start": np.array([0]),
        "border": np.array([4 * anchors]),
        "end": np.array([anchors * (4 + classes)]),
        "boxes_shape": np.array([0, anchors, 4]),
        "scores_shape": np.array([0, anchors, classes]),
        "most": np.array([MAX_DETECTIONS]),
        "overlap": np.array([MOST_OVERLAP], np.float32),
        "least": np.array([LEAST_SCORE], np.float32),
        "most_of_picture": np.array(MAX_DETECTIONS, np.int32),
        "zero": np.array(0),
        "one": np.array(1),
        "box_columns": np.array([0, 2]),
        "axis": np.array([1]),
    }


def _selection(rows: str) -> list[Any]:
    """Return the nodes behind `rows`: NMS for each class, then the surest boxes of each picture, in order."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []

    def put(kind: str, inputs: str, outputs: str, **how: Any) -> None:
        inside = [each if each == rows else _PREFIX + each for each in inputs.split()]
        outside = [each if each in OUTPUTS else _PREFIX + each for each in outputs.split()]
        nodes.append(helper.make_node(kind, inside, outside, **how))

    put("Slice", f"{rows} start border axis", "flat_boxes")
    put("Slice", f"{rows} border end axis", "flat_scores")
    put("Reshape", "flat_boxes boxes_shape", "all_boxes")
    put("Reshape", "flat_scores scores_shape", "anchor_scores")
    put("Transpose", "anchor_scores", "all_scores", perm=[0, 2, 1])
    # A row each: picture, class, anchor.
    put("NonMaxSuppression", "all_boxes all_scores most overlap least", "kept")
    put("GatherND", "all_scores kept", "kept_scores")
    put("Shape", "kept_scores", "count")
    put("TopK", "kept_scores count", "sure order", axis=0)
    put("Gather", "kept order", "sorted", axis=0)
    # For each picture, a column for each kept box: whether it is the picture's, and the how manieth of it.
    put("Gather", "sorted zero", "picture", axis=1)
    put("Shape", rows, "shape")
    put("Gather", "shape zero", "batch", axis=0)
    put("Range", "zero batch one", "all_pictures")
    put("Unsqueeze", "all_pictures axis", "column")
    put("Equal", "column picture", "own")
    put("Cast", "own", "own_number", to=TensorProto.INT32)
    put("CumSum", "own_number one", "rank")
    put("LessOrEqual", "rank most_of_picture", "early")
    put("And", "own early", "taken")
    put("NonZero", "taken", "places")
    put("Gather", "places zero", OUTPUTS[0], axis=0)
    put("Gather", "places one", "place", axis=0)
    put("Gather", "sure place", "scores", axis=0)
    put("Gather", "sorted place", "found", axis=0)
    put("Gather", "found one", "classes", axis=1)
    put("Gather", "found box_columns", "where", axis=1)
    put("GatherND", "all_boxes where", "boxes")
    return nodes
