"""Telling bad parts from good ones on the terminal with a pulled model: onnxruntime on the CPU, no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.errors import DataLoss, GateFailed, invalid
from loupe.tasks.anomaly import Anomaly
from loupe.tasks.anomaly_scores import CALIBRATION_SCORES, Threshold, threshold_for
from loupe.terminal.decoding import Decoding, Opened
from loupe.terminal.first_use import check_once
from loupe.terminal.installed import MODEL_FILE
from loupe.terminal.locks import Use
from loupe.terminal.model_folder import (
    BATCH,
    MODEL_NETWORK,
    ModelFolder,
    damaged,
    read_model_folder,
    require_task,
)

OUTPUTS = ("score", "map")
GOLDEN_ARRAYS = ("scores", "maps")
GOLDEN_TOLERANCE = 0.05, 5e-3
"""How far scores and map cells may be from those after training: so much, and this part of the value besides."""


@dataclass(frozen=True)
class Calibration:
    """What a model says of good parts.

    good: their class. false_alarms: the rate that its threshold was made for. pictures: how many good validation
    pictures there were. scores: the highest ones of these.
    """

    good: str
    false_alarms: float
    pictures: int
    scores: Sequence[float]


@dataclass(frozen=True)
class Inspection:
    """The answer for one picture.

    score: the higher the less the picture is like good parts. bad: it is above the threshold. heat: float32 [h, h],
    the same of its places, on the scale of the score. problem: why there is no answer; then it is neither good nor bad.
    """

    path: Path
    score: float = 0.0
    bad: bool = False
    heat: np.ndarray | None = None
    problem: str = ""


class Inspector:
    """Answers with a model folder of the task: model.json, model.onnx and golden.npz.

    threads: CPU threads of one inference; all that this process may use when None. They wait without spinning.
    false_alarms: the share of good parts that may be called bad; the one that the model was made for when None.
    threshold: what a score must exceed for it, by the scores of the good validation pictures. A version of the user's
    data folder is not cleared away while this lives.

    Raises InvalidArgument for a folder that is not such a model and for false_alarms that are no such share, DataLoss
    for damaged files, GateFailed where the golden pictures are answered otherwise than after training.
    """

    def __init__(self, folder: Path, threads: int | None = None, *, false_alarms: float | None = None) -> None:
        if false_alarms is not None and not 0 < false_alarms < 1:  # also catches NaN
            raise invalid("false_alarms", false_alarms, "a share above 0 and below 1, for example 0.01 for 1 %")
        self.folder = folder
        self._model = model = read_model_folder(folder)
        require_task(model, Anomaly.name)
        self.labels, self.height, self.width = model.labels, model.height, model.width
        self.calibration = _calibration(model)
        self.false_alarms = self.calibration.false_alarms if false_alarms is None else false_alarms
        self.threshold: Threshold = threshold_for(self.calibration.scores, self.calibration.pictures, self.false_alarms)
        self._use = Use(folder / MODEL_FILE)
        threads = threads or len(os.sched_getaffinity(0))
        self._decoding = Decoding(self.height, self.width, model.fit, BATCH, threads)
        self._network = model.network(MODEL_NETWORK, threads, OUTPUTS)
        check_once(model, self.check_golden)

    def scores(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 [N] and maps float32 [N, h, h] of uint8 [N, height, width, 3], RGB, N at least 1.

        Raises DataLoss for answers that are no numbers, or of another form.
        """
        file, count = self._network.file, len(pictures)
        scores, maps = self._network(pictures)
        formed = scores.shape == (count,) and maps.shape[:1] == (count,) and maps.ndim == 3
        if not formed or maps[0].size > self.height * self.width or maps.size == 0:
            raise DataLoss(
                f"{file} answers {count} pictures with scores {list(scores.shape)} and maps {list(maps.shape)}; "
                "pull the model again",
                file=file,
            )
        if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
            raise DataLoss(f"{file} answers with what is no number; pull the model again", file=file)
        return scores, maps

    def inspect(self, paths: Iterable[Path]) -> Iterator[Inspection]:
        """Yield the answer for each picture, in their order; one that cannot be read gets its problem told."""
        for opened in self._decoding.batches(paths):
            yield from self._answer(opened)

    def check_golden(self) -> None:
        """Raise GateFailed when the golden pictures are answered otherwise than after training."""
        pictures, *expected = self._model.golden(GOLDEN_ARRAYS)
        absolute, relative = GOLDEN_TOLERANCE
        for wanted, found in zip(expected, self.scores(pictures), strict=True):
            same = wanted.shape == found.shape and wanted.dtype.kind == "f"
            if not same or not (np.abs(wanted - found) <= absolute + relative * np.abs(wanted)).all():
                difference = float(np.abs(wanted - found).max()) if same else math.inf
                raise GateFailed(
                    f"on this machine the model answers its golden pictures differently (by up to {difference:.2g}): "
                    "it was altered, or this onnxruntime computes otherwise",
                    model=self.folder,
                    difference=f"{difference:.3g}",
                )

    def _answer(self, opened: Sequence[Opened]) -> Iterator[Inspection]:
        pixels = [one.decoded.pixels for one in opened if one.decoded is not None]
        answers = zip(*self.scores(np.stack(pixels)), strict=True) if pixels else iter(())
        for one in opened:
            if one.decoded is None:
                yield Inspection(one.path, problem=one.problem)
                continue
            score, heat = next(answers)
            yield Inspection(one.path, float(score), float(score) > self.threshold.value, heat)


def _calibration(model: ModelFolder) -> Calibration:
    """Read what model.json says of good parts. Raises DataLoss."""
    file = model.folder / MODEL_FILE
    try:
        told = model.document["inspection"]
        kept = told["calibration"]
        scores = [float(score) for score in kept["scores"]]
        found = Calibration(str(told["good"]), float(told["false_alarms"]), int(kept["pictures"]), scores)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged(model.folder, error) from error
    counted = 0 < len(scores) <= min(found.pictures, CALIBRATION_SCORES)
    if not counted or not 0 < found.false_alarms < 1 or not all(map(math.isfinite, scores)):
        raise DataLoss(f"{file} is damaged (inspection); pull the model again", file=file)
    return found
