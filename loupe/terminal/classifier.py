"""Classifying pictures on the terminal with a pulled model: onnxruntime on the CPU, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.errors import GateFailed, invalid
from loupe.terminal.abstention import OperatingPoint, require_point
from loupe.terminal.classifier_folder import GOLDEN_TOLERANCE, probabilities_of, read_classifier_folder
from loupe.terminal.decoding import Decoding, Opened
from loupe.terminal.installed import MODEL_FILE
from loupe.terminal.locks import Use
from loupe.terminal.model_folder import BATCH
from loupe.terminal.precision import Precision
from loupe.terminal.quicker import quicker

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
    """Answers with a model folder: model.json, model.onnx, golden.npz and, where there is one, model.int8.onnx.

    threads: CPU threads of one inference; all that this process may use when None. They wait without spinning, so that
    the rest of the machine stays usable. A version of the user's data folder is not cleared away while this lives.
    min_confidence: below this probability the answer is UNKNOWN. max_error: instead of it, the share of the answers
    that may be wrong; operating_point then is what was chosen for it, and FP32 answers, whose validation pictures vouch
    for it. precision: which file answers; AUTO tries which is quicker here, once on each machine. Afterwards it is FP32
    or INT8. Raises InvalidArgument for a folder that is not such a model, for a min_confidence or max_error that is no
    such number or goes with nothing else that was asked, and for INT8 where the model has none; GateFailed for INT8
    where this CPU computes it otherwise; NotVouchedFor where the validation pictures cannot vouch for max_error,
    FailedPrecondition where the model says nothing of them; DataLoss for damaged files.
    """

    def __init__(
        self,
        folder: Path,
        threads: int | None = None,
        *,
        min_confidence: float = 0.0,
        max_error: float | None = None,
        precision: Precision = Precision.AUTO,
    ) -> None:
        if not 0 <= min_confidence <= 1:  # also catches NaN
            raise invalid("min_confidence", min_confidence, "a probability from 0 to 1, for example 0.9")
        if max_error is not None:
            _check_max_error(max_error, min_confidence, precision)
            precision = Precision.FP32
        self.folder = folder
        self.min_confidence, self.max_error = min_confidence, max_error
        self._folder = read_classifier_folder(folder)
        model = self._folder.model
        self.operating_point: OperatingPoint | None = None
        if max_error is not None:
            self.operating_point = require_point(self._folder.operating_points, max_error, folder)
            self.min_confidence = self.operating_point.min_confidence
        points = self._folder.operating_points
        self.validation_pictures = points[-1].answered if points else 0
        self._use = Use(folder / MODEL_FILE)
        self.labels, self.height, self.width = model.labels, model.height, model.width
        self.has_int8 = self._folder.int8_golden is not None
        threads = threads or len(os.sched_getaffinity(0))
        self._decoding = Decoding(model.height, model.width, model.fit, BATCH, threads)
        self.precision = precision
        if precision is Precision.AUTO:
            self.precision = quicker(self._folder, threads) if self.has_int8 else Precision.FP32
        self._network = self._folder.network(self.precision, threads)
        if precision is Precision.INT8:
            self.check_golden()  # it is not asked for otherwise where this CPU computes it wrongly

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """Return float32 [N, C] for uint8 [N, height, width, 3], RGB."""
        return probabilities_of(self._network, pictures, len(self.labels))

    def classify(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Yield a prediction per picture, in their order; one that cannot be read gets its problem told."""
        for opened in self._decoding.batches(paths):
            yield from self._answer(opened)

    def check_golden(self) -> None:
        """Raise GateFailed when the golden pictures are answered otherwise than after training."""
        difference = self._folder.golden_difference(self._network, self.precision)
        tolerance = GOLDEN_TOLERANCE[self.precision]
        if not difference <= tolerance:  # also catches NaN
            raise GateFailed(
                f"on this machine the model answers its golden pictures differently (by up to {difference:.2g}; "
                f"at most {tolerance} is taken): it was altered, or this onnxruntime computes otherwise",
                model=self.folder,
                difference=f"{difference:.3g}",
            )

    def _answer(self, opened: Sequence[Opened]) -> Iterator[Prediction]:
        pixels = [one.decoded.pixels for one in opened if one.decoded]
        answers = iter(self.probabilities(np.stack(pixels)) if pixels else ())
        for one in opened:
            if one.decoded is None:
                yield Prediction(one.path, problem=one.problem)
                continue
            yield self._prediction(one.path, next(answers))

    def _prediction(self, path: Path, row: np.ndarray) -> Prediction:
        best = int(row.argmax())
        label, confidence = self.labels[best], float(row[best])
        unknown = not confidence >= self.min_confidence
        answer = UNKNOWN if unknown else label
        return Prediction(path, answer, confidence, row.tolist(), likeliest=label, unknown=unknown)


def _check_max_error(max_error: float, min_confidence: float, precision: Precision) -> None:
    if not 0 < max_error < 1:  # also catches NaN
        raise invalid("max_error", max_error, "a share above 0 and below 1, for example 0.01 for 1 %")
    if min_confidence:
        raise invalid("max_error", max_error, "either max_error, which chooses a least confidence, or min_confidence")
    if precision is Precision.INT8:
        raise invalid("precision", precision, "fp32 or auto: max_error rests on the confidences of FP32")
