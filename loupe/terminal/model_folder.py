"""A folder with a model: what model.json says of it, its files checked and opened, its golden pictures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import DataLoss, GateFailed, InvalidArgument, invalid
from loupe.terminal.abstention import MOST_PICTURES, OperatingPoint
from loupe.terminal.hashing import sha256_of
from loupe.terminal.precision import Precision

FORMAT = "loupe-model/1"
NEEDED_FILES = {"model.json", "model.onnx", "golden.npz"}
INT8_FILE = "model.int8.onnx"
BATCH = 32
"""The pictures that are answered at once."""
GOLDEN_TOLERANCE = {Precision.FP32: 1e-3, Precision.INT8: 0.05}
"""How far a probability may be from the one after training: a CPU rounds whole bytes otherwise than another one."""


@dataclass(frozen=True)
class ModelFolder:
    """What model.json says. labels: C of them. height, width: of a picture in pixels.

    digests: sha256 in hex, by file. int8_golden: float32 [K, C], what the INT8 model answers for the golden pictures;
    None where there is no INT8 model. operating_points: of the FP32 model, by falling confidence; none in a model of an
    earlier Loupe.
    """

    folder: Path
    labels: list[str]
    height: int
    width: int
    digests: Mapping[str, str]
    int8_golden: np.ndarray | None
    operating_points: Sequence[OperatingPoint]

    def session(self, precision: Precision, threads: int) -> Any:
        """Return the onnxruntime session of FP32 or INT8. Raises DataLoss, and InvalidArgument without an INT8 model.

        threads: they wait without spinning.
        """
        if precision is Precision.INT8 and self.int8_golden is None:
            raise invalid("precision", precision, f"fp32 or auto: {self.folder} has no INT8 model")
        name = INT8_FILE if precision is Precision.INT8 else "model.onnx"
        session = _session(self.folder / name, threads, len(self.labels))
        # After the loading, whose error says more of a file that is no model at all.
        if name in self.digests and sha256_of(self.folder / name) != self.digests[name]:
            raise DataLoss(
                f"{self.folder / name} is damaged (its sha256 is not the one in model.json); pull the model again",
                file=self.folder / name,
            )
        return session

    def golden_difference(self, session: Any, precision: Precision) -> float:
        """Return how far the session's probabilities are from those after training; infinite for other classes.

        Raises GateFailed when there are no golden pictures.
        """
        pictures, expected = self._golden(precision)
        answers = probabilities_of(session, pictures, len(self.labels))
        if answers.shape != expected.shape:
            return float("inf")
        return float(np.abs(answers - expected).max())

    def golden_pictures(self) -> np.ndarray:
        """Return uint8 [K, height, width, 3], K at least 1. Raises GateFailed."""
        return self._golden(Precision.FP32)[0]

    def _golden(self, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
            pictures, expected = golden["pictures"], golden["probabilities"]
        if len(pictures) == 0:
            raise GateFailed(f"the model in {self.folder} has no golden pictures", model=self.folder)
        if precision is Precision.INT8 and self.int8_golden is not None:
            expected = self.int8_golden
        return pictures, expected


def probabilities_of(session: Any, pictures: np.ndarray, classes: int) -> np.ndarray:
    """Return float32 [N, classes], what a session answers for uint8 [N, height, width, 3], in batches."""
    answers = [
        session.run(["probabilities"], {"pictures": np.ascontiguousarray(pictures[start : start + BATCH])})[0]
        for start in range(0, len(pictures), BATCH)
    ]
    return np.concatenate(answers) if answers else np.zeros((0, classes), np.float32)


def read_model_folder(folder: Path) -> ModelFolder:
    """Read model.json. Raises InvalidArgument for a folder that is not such a model, DataLoss for a damaged one."""
    file = folder / "model.json"
    if not file.is_file():
        raise invalid("model", str(folder), "a folder with a pulled model (model.json, model.onnx, golden.npz)")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        form, labels = document["format"], document["labels"]
        sides = document["input"]["height"], document["input"]["width"]
        readable = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        readable = readable and all(isinstance(side, int) and side > 0 for side in sides)
        digests = {str(name): str(digest) for name, digest in dict(document.get("files", {})).items()}
        int8_golden = _int8_golden(document)
        operating_points = _operating_points(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{file} is damaged ({error!r}); pull the model again", file=file) from error
    if form != FORMAT:
        raise InvalidArgument(
            f'{file} has the format "{form}"; expected "{FORMAT}": this model was made for another Loupe',
            field="format",
            value=form,
            expected=FORMAT,
        )
    if not readable:
        raise DataLoss(f"{file} is damaged (labels or input); pull the model again", file=file)
    return ModelFolder(folder, labels, *sides, digests, int8_golden, operating_points)


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


def _session(file: Path, threads: int, classes: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        doors = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    except Exception as error:  # onnxruntime's own errors have no base class but Exception
        raise DataLoss(f"{file} cannot be loaded ({str(error)[:200]}); pull the model again", file=file) from error
    if doors[0] != ["pictures"] or "probabilities" not in doors[1]:
        raise DataLoss(f'{file} has inputs {doors[0]} and outputs {doors[1]}; expected "pictures", "probabilities"')
    shape = session.get_outputs()[doors[1].index("probabilities")].shape
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != classes):
        raise DataLoss(
            f"{file} answers with the shape {shape}, and model.json has {classes} labels; pull the model again"
        )
    return session
