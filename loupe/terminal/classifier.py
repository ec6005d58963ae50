"""Classifying pictures on the terminal with a pulled model: onnxruntime on the CPU, no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from loupe import picture
from loupe.errors import DataLoss, GateFailed, InvalidArgument, invalid

FORMAT = "loupe-model/1"
NEEDED_FILES = {"model.json", "model.onnx", "golden.npz"}
GOLDEN_TOLERANCE = 1e-3
BATCH = 32
UNKNOWN = "unknown"
"""The label of a picture for which no class is likely enough."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    label: the likeliest class, or UNKNOWN. likeliest: that class in either case. confidence: its probability, 0 to 1.
    probabilities: [C], in the order of the classifier's labels. problem: why there is no answer; then label is empty.
    """

    path: Path
    label: str = ""
    confidence: float = 0.0
    probabilities: Sequence[float] = ()
    problem: str = ""
    likeliest: str = ""
    unknown: bool = False


class Classifier:
    """Answers with a model folder: model.json, model.onnx and golden.npz.

    threads: CPU threads of one inference; all that this process may use when None. They wait without spinning, so that
    the rest of the machine stays usable. min_confidence: below this probability the answer is UNKNOWN. Raises
    InvalidArgument for a folder that is not such a model, and for a min_confidence outside 0 to 1.
    """

    def __init__(self, folder: Path, threads: int | None = None, *, min_confidence: float = 0.0) -> None:
        if not 0 <= min_confidence <= 1:  # also catches NaN
            raise invalid("min_confidence", min_confidence, "a probability from 0 to 1, for example 0.9")
        self.folder = folder
        self.min_confidence = min_confidence
        self.labels, self.height, self.width = _document(folder)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._session = _session(folder / "model.onnx", self._threads, len(self.labels))

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """Return float32 [N, C] for uint8 [N, height, width, 3], RGB."""
        answers = [
            self._session.run(["probabilities"], {"pictures": np.ascontiguousarray(pictures[start : start + BATCH])})[0]
            for start in range(0, len(pictures), BATCH)
        ]
        return np.concatenate(answers) if answers else np.zeros((0, len(self.labels)), np.float32)

    def classify(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Yield a prediction per picture, in their order; one that cannot be read gets its problem told."""
        remaining = iter(paths)
        with ThreadPoolExecutor(self._threads) as pool:
            decoding = [pool.submit(self._decode, path) for path in islice(remaining, BATCH)]
            while decoding:
                decoded = [one.result() for one in decoding]
                # The next batch is decoded while this one is answered.
                decoding = [pool.submit(self._decode, path) for path in islice(remaining, BATCH)]
                yield from self._answer(decoded)

    def check_golden(self) -> None:
        """Raise GateFailed when the golden pictures are answered otherwise than after training."""
        with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
            pictures, expected = golden["pictures"], golden["probabilities"]
        if len(pictures) == 0:
            raise GateFailed(f"the model in {self.folder} has no golden pictures", model=self.folder)
        answers = self.probabilities(pictures)
        difference = float(np.abs(answers - expected).max()) if answers.shape == expected.shape else float("inf")
        if not difference <= GOLDEN_TOLERANCE:  # also catches NaN
            raise GateFailed(
                f"on this machine the model answers its golden pictures differently (by up to {difference:.2g}; "
                f"at most {GOLDEN_TOLERANCE} is taken): it was altered, or this onnxruntime computes otherwise",
                model=self.folder,
                difference=f"{difference:.3g}",
            )

    def _decode(self, path: Path) -> tuple[Path, np.ndarray | None, str]:
        try:
            return path, picture.decode(read_picture(path), self.height, self.width), ""
        except picture.BadPicture as error:
            return path, None, str(error)
        except OSError as error:
            return path, None, error.strerror or str(error)

    def _answer(self, decoded: Sequence[tuple[Path, np.ndarray | None, str]]) -> Iterator[Prediction]:
        pixels = [one for _, one, _ in decoded if one is not None]
        answers = iter(self.probabilities(np.stack(pixels)) if pixels else ())
        for path, one, problem in decoded:
            if one is None:
                yield Prediction(path, problem=problem)
                continue
            yield self._prediction(path, next(answers))

    def _prediction(self, path: Path, row: np.ndarray) -> Prediction:
        best = int(row.argmax())
        label, confidence = self.labels[best], float(row[best])
        unknown = not confidence >= self.min_confidence
        answer = UNKNOWN if unknown else label
        return Prediction(path, answer, confidence, row.tolist(), likeliest=label, unknown=unknown)


def read_picture(path: Path) -> bytes:
    """Return a file's bytes, no more of them than tell that it is too large. Raises OSError."""
    with path.open("rb") as file:
        return file.read(picture.MAX_BYTES + 1)


def _document(folder: Path) -> tuple[list[str], int, int]:
    """Return what model.json says of the model: the labels, and height and width of a picture in pixels."""
    file = folder / "model.json"
    if not file.is_file():
        raise invalid("model", str(folder), "a folder with a pulled model (model.json, model.onnx, golden.npz)")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        form, labels = document["format"], document["labels"]
        sides = document["input"]["height"], document["input"]["width"]
        readable = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        readable = readable and all(isinstance(side, int) and side > 0 for side in sides)
    except (ValueError, KeyError, TypeError) as error:
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
    return labels, *sides


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
