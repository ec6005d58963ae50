"""A folder with a classifier: its FP32 and INT8 networks, what its golden pictures must get, its operating points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import DataLoss, invalid
from loupe.tasks.classification import Classification
from loupe.terminal.abstention import MOST_PICTURES, OperatingPoint
from loupe.terminal.model_folder import (
    BATCH,
    MODEL_NETWORK,
    ModelFolder,
    Network,
    damaged,
    read_model_folder,
    require_task,
)
from loupe.terminal.precision import Precision

INT8_FILE = "model.int8.onnx"
GOLDEN_TOLERANCE = {Precision.FP32: 1e-3, Precision.INT8: 0.05}
"""How far a probability may be from the one after training: a CPU rounds whole bytes otherwise than another one."""


@dataclass(frozen=True)
class ClassifierFolder:
    """What model.json says of a classifier.

    model: what it says of any model. int8_golden: float32 [K, C], what the INT8 model answers for the golden pictures;
    None where there is no INT8 model. operating_points: of the FP32 model, by falling confidence; none in a model of an
    earlier Loupe.
    """

    model: ModelFolder
    int8_golden: np.ndarray | None
    operating_points: Sequence[OperatingPoint]

    def network(self, precision: Precision, threads: int) -> Network:
        """Open the network of FP32 or INT8. Raises DataLoss, and InvalidArgument without an INT8 model.

        threads: they wait without spinning.
        """
        if precision is Precision.INT8 and self.int8_golden is None:
            raise invalid("precision", precision, f"fp32 or auto: {self.model.folder} has no INT8 model")
        name = INT8_FILE if precision is Precision.INT8 else MODEL_NETWORK
        network = self.model.network(name, threads, ["probabilities"])
        shape = next(one.shape for one in network.session.get_outputs() if one.name == "probabilities")
        classes = len(self.model.labels)
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != classes):
            raise DataLoss(
                f"{network.file} answers with the shape {shape}, and model.json has {classes} labels; pull the model "
                "again",
                file=network.file,
            )
        return network

    def golden_difference(self, network: Network, precision: Precision) -> float:
        """Return how far the network's probabilities are from those after training; infinite for other classes.

        Raises GateFailed when there are no golden pictures, DataLoss for damaged ones.
        """
        pictures, expected = self.model.golden(["probabilities"])
        if precision is Precision.INT8 and self.int8_golden is not None:
            expected = self.int8_golden
        answers = probabilities_of(network, pictures, len(self.model.labels))
        if answers.shape != expected.shape:
            return float("inf")
        return float(np.abs(answers - expected).max())

    def golden_pictures(self) -> np.ndarray:
        """Return uint8 [K, height, width, 3], K at least 1. Raises GateFailed, and DataLoss for damaged ones."""
        return self.model.golden([])[0]


def probabilities_of(network: Network, pictures: np.ndarray, classes: int) -> np.ndarray:
    """Return float32 [N, classes], what a network answers for uint8 [N, height, width, 3], in batches."""
    answers = [network(pictures[start : start + BATCH])[0] for start in range(0, len(pictures), BATCH)]
    return np.concatenate(answers) if answers else np.zeros((0, classes), np.float32)


def read_classifier_folder(folder: Path) -> ClassifierFolder:
    """Read model.json. Raises InvalidArgument for a folder without a classifier, DataLoss for a damaged one."""
    model = read_model_folder(folder)
    require_task(model, Classification.name)
    try:
        return ClassifierFolder(model, _int8_golden(model.document), _operating_points(model.document))
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from error


def _int8_golden(document: Mapping[str, Any]) -> np.ndarray | None:
    """Return the INT8 model's golden answers, None where the document names none under the name that is known here."""
    told = document.get("int8")
    if not isinstance(told, dict) or told.get("file") != INT8_FILE:
        return None
    return np.asarray(told["golden_probabilities"], np.float32)


def _operating_points(document: Mapping[str, Any]) -> list[OperatingPoint]:
    """Return the operating points, none where the document has none of the form that is known here.

    Raises ValueError for points that cannot be.
    """
    told = document.get("operating_points")
    if not isinstance(told, dict) or not isinstance(told.get("rows"), list):
        return []
    points = [OperatingPoint(float(at), int(answered), int(wrong)) for at, answered, wrong in told["rows"]]
    possible = all(0 <= one.wrong <= one.answered <= MOST_PICTURES and 0 <= one.min_confidence <= 1 for one in points)
    ordered = all(
        before.min_confidence > after.min_confidence
        and before.answered < after.answered
        and before.wrong <= after.wrong
        for before, after in itertools.pairwise(points)
    )
    if not (possible and ordered):
        raise ValueError("operating_points")
    return points
