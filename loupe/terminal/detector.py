"""Finding things in pictures on the terminal with a pulled detector: onnxruntime on the CPU, no torch.

from loupe.terminal import Detector

for picture in Detector(folder).detect([Path("board.png")]):
    print(picture.path, [(one.label, one.confidence, one.pixels) for one in picture.found])
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loupe.errors import GateFailed, invalid
from loupe.letterbox import fitted
from loupe.tasks.detection import Detection
from loupe.terminal.boxes import GOLDEN_SCORE_TOLERANCE, OUTPUTS, Boxes, joined, missing, taken
from loupe.terminal.decoding import Decoding, Opened
from loupe.terminal.first_use import check_once
from loupe.terminal.installed import MODEL_FILE
from loupe.terminal.locks import Use
from loupe.terminal.model_folder import (
    BATCH,
    GOLDEN_FILE,
    MODEL_NETWORK,
    ModelFolder,
    damaged,
    read_model_folder,
    require_task,
)

GOLDEN_ARRAYS = ("found_pictures", "boxes", "scores", "classes")
"""The boxes that are expected in the golden pictures, in the order of OUTPUTS."""
BATCH_PIXELS = 8 * 640 * 640
"""What is answered at once has at most so many pixels, or is one picture."""


class Box(NamedTuple):
    """Where something is: its left, upper, right and lower edge, from the upper left corner of the upright picture."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Found:
    """Something that was found. confidence: 0 to 1. box: in parts of the picture's sides, 0 to 1. pixels: the same."""

    label: str
    confidence: float
    box: Box
    pixels: Box


@dataclass(frozen=True)
class Detections:
    """The answer for one picture: what was found, the surest first.

    width, height: of the upright picture in pixels. problem: why there is no answer; then nothing is found.
    """

    path: Path
    found: Sequence[Found] = ()
    width: int = 0
    height: int = 0
    problem: str = ""


class Detector:
    """Answers with a model folder of the task: model.json, model.onnx and golden.npz.

    threads: CPU threads of one inference; all that this process may use when None. They wait without spinning.
    min_confidence: what is less sure is not told; the model's own, which was chosen on its validation pictures, when
    None. On the first use on a machine the golden pictures are answered. A version of the user's data folder is not
    cleared away while this lives.

    Raises InvalidArgument for a folder that is not such a model and for a min_confidence that is no such number,
    DataLoss for damaged files, GateFailed where the golden pictures are answered otherwise than after training.
    """

    def __init__(self, folder: Path, threads: int | None = None, *, min_confidence: float | None = None) -> None:
        if min_confidence is not None and not 0 <= min_confidence <= 1:  # also catches NaN
            raise invalid("min_confidence", min_confidence, "a confidence from 0 to 1, for example 0.5")
        self.folder = folder
        self._model = model = read_model_folder(folder)
        require_task(model, Detection.name)
        self._operating = _operating_threshold(model)
        self.min_confidence = self._operating if min_confidence is None else min_confidence
        self._use = Use(folder / MODEL_FILE)
        self.labels, self.height, self.width = model.labels, model.height, model.width
        threads = threads or len(os.sched_getaffinity(0))
        self.batch = max(1, min(BATCH, BATCH_PIXELS // (self.height * self.width)))
        self._decoding = Decoding(self.height, self.width, model.fit, self.batch, threads)
        self._network = model.network(MODEL_NETWORK, threads, OUTPUTS)
        check_once(model, self.check_golden)

    def boxes(self, pictures: np.ndarray) -> Boxes:
        """Return all boxes in uint8 [N, height, width, 3], RGB, N at least 1, however unsure.

        Raises DataLoss for boxes that cannot be.
        """
        starts = range(0, len(pictures), self.batch)
        return joined((first, self._boxes(pictures[first : first + self.batch])) for first in starts)

    def detect(self, paths: Iterable[Path]) -> Iterator[Detections]:
        """Yield what is found in each picture, in their order; one that cannot be read gets its problem told."""
        for opened in self._decoding.batches(paths):
            yield from self._answer(opened)

    def check_golden(self) -> None:
        """Raise GateFailed when other boxes are found in the golden pictures than after training.

        Boxes count that are surer than the operating threshold; where none is expected, than half of the surest one.
        """
        pictures, *arrays = self._model.golden(GOLDEN_ARRAYS)
        expected = taken(arrays, len(pictures), len(self.labels), self.folder / GOLDEN_FILE)
        found = self.boxes(pictures)
        surest = float(expected.scores.max(initial=0.0))
        least = (self._operating if surest > self._operating else surest / 2) + GOLDEN_SCORE_TOLERANCE
        lost, strange = missing(expected, found, least), missing(found, expected, least)
        if lost or strange:
            raise GateFailed(
                f"on this machine the model does not find in its golden pictures what it found after training ({lost} "
                f"boxes are missing, {strange} are new): it was altered, or this onnxruntime computes otherwise",
                model=self.folder,
                difference=lost + strange,
            )

    def _boxes(self, pictures: np.ndarray) -> Boxes:
        return taken(self._network(pictures), len(pictures), len(self.labels), self._network.file)

    def _answer(self, opened: Sequence[Opened]) -> Iterator[Detections]:
        pixels = [one.decoded.pixels for one in opened if one.decoded]
        answers = iter(_by_picture(self._boxes(np.stack(pixels)), len(pixels), self.min_confidence) if pixels else ())
        for one in opened:
            if one.decoded is None:
                yield Detections(one.path, problem=one.problem)
                continue
            width, height = one.decoded.width, one.decoded.height
            yield Detections(one.path, self._found(next(answers), width, height), width, height)

    def _found(self, boxes: Boxes, width: int, height: int) -> list[Found]:
        """Return what a picture of so many pixels has, within its edges; what is wholly outside of them is nothing."""
        wide, high = fitted(width, height, self.width, self.height, self._model.fit)
        sides = np.array([self.width / wide, self.height / high] * 2)
        within = np.clip(boxes.boxes * sides, 0.0, 1.0)
        pixels = within * np.array([width, height] * 2)
        rows = zip(boxes.classes, boxes.scores.tolist(), within.tolist(), pixels.tolist(), strict=True)
        found = [Found(self.labels[kind], score, Box(*box), Box(*exact)) for kind, score, box, exact in rows]
        return [one for one in found if one.box.x0 < one.box.x1 and one.box.y0 < one.box.y1]


def _by_picture(boxes: Boxes, pictures: int, least: float) -> Iterator[Boxes]:
    """Yield each picture's boxes that are sure enough, the surest first."""
    sure = boxes.of(boxes.scores >= least)
    sure = sure.of(np.lexsort((-sure.scores, sure.pictures)))
    ends = np.searchsorted(sure.pictures, np.arange(pictures + 1))
    for first, end in itertools.pairwise(ends):
        yield sure.of(slice(first, end))


def _operating_threshold(model: ModelFolder) -> float:
    """Return the confidence from which on boxes are told unless somebody says otherwise. Raises DataLoss."""
    told = model.document.get("min_confidence")
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not 0 <= told <= 1:
        raise damaged(model.folder, ValueError(f"min_confidence is {told!r}"))
    return float(told)
