"""What an image gets that trains nothing: a model's files, pictures to answer, and the way back for the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.host import Host, Outcome, Progress, Result, Stopped
from loupe.job_kinds import JobKind
from loupe.letterbox import Fit
from loupe.tasks import TASKS
from loupe.tasks.average_precision import Regions
from loupe.tasks.task import Task

REPORT_SECONDS = 0.5
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of an answer about a picture as a whole."""


class InferenceContext:
    """One run of an image that answers pictures, as its code sees it. What the answers are worth is counted outside.

    The run ends with one of `finish_classes`, `finish_regions` and `finish_scores`.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._spec = host.spec()
        self._reported = -1e9

    def __len__(self) -> int:
        """Return N, how many pictures there are to answer; at least 1."""
        return len(self._spec.dataset.digests)

    @property
    def kind(self) -> JobKind:
        """What the answers are for."""
        return self._spec.kind

    @property
    def task(self) -> Task:
        """The model's task."""
        return TASKS[self._spec.task]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes: those of the model in the order of its outputs, then those that only the data set has."""
        return tuple(self._spec.dataset.labels)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The image's parameters, typed and checked."""
        return self._spec.parameters

    @property
    def files(self) -> Mapping[str, Path]:
        """The model's files by parameter: "model_onnx" is its model.onnx (`loupe.job_kinds.MODEL_FILES`); read-only."""
        return self._spec.weights

    @property
    def threads(self) -> int:
        """The number of CPU threads that the run may use."""
        return self._spec.threads

    @property
    def work(self) -> Path:
        """A private writable folder that lives as long as the run."""
        return self._host.work

    def pictures(self, height: int, width: int, fit: Fit) -> np.ndarray:
        """Return the N pictures, uint8 [N, height, width, 3], RGB, read-only and mapped from a file, not loaded."""
        pictures: np.ndarray = np.load(self._host.pictures(height, width, fit), mmap_mode="r")
        return pictures

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield the numbers of the pictures in runs of at most `size`, and show between them how far it is.

        Raises Stopped when the host wants the run to end now.
        """
        began = time.monotonic()
        for start in range(0, len(self), size):
            if self._host.stop_requested():
                raise Stopped("asked to stop")
            yield np.arange(start, min(start + size, len(self)))
            self._report(min(start + size, len(self)), began)

    def _report(self, answered: int, began: float) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS and answered < len(self):
            return
        self._reported = now
        rate = {"pictures_per_second": answered / max(now - began, 1e-6)}
        self._host.report(Progress("predict", step=answered, total_steps=len(self), metrics=rate))

    def log(self, text: str) -> None:
        """Pass a line of text on to the terminals, for people."""
        self._host.log(text)

    def finish_classes(self, classes: np.ndarray, confidences: np.ndarray) -> None:
        """Hand over a classifier's answers: of each picture the class, int [N], and how sure it is, float [N], 0..1."""
        self._finish_whole(classes, confidences)

    def finish_scores(self, scores: np.ndarray, bad: np.ndarray) -> None:
        """Hand over an inspector's answers: of each picture the score, float [N], and whether it is bad, bool [N]."""
        self._finish_whole(bad, scores)

    def finish_regions(self, found: Regions) -> None:
        """Hand over a detector's answers: boxes in parts of the square that pictures are letterboxed into.

        found: with scores in 0..1, pictures numbered from 0; at most MAX_DETECTIONS of a picture.
        """
        self._finish(found)

    def _finish_whole(self, classes: np.ndarray, scores: np.ndarray) -> None:
        if classes.shape != (len(self),) or scores.shape != (len(self),):
            shapes = f"{list(classes.shape)} and {list(scores.shape)}"
            raise ValueError(f"answers of shape {shapes} for {len(self)} pictures; one for each would be right")
        boxes = np.tile(np.array(WHOLE, np.float32), (len(self), 1))
        self._finish(Regions(np.arange(len(self)), classes.astype(np.int64), boxes, scores.astype(np.float32)))

    def _finish(self, found: Regions) -> None:
        self._host.hand_over_answers(found)
        self._host.finish(Result(Outcome.DONE, {}, {}))

    def give_up(self, reason: str) -> None:
        """End a stopped run without answers."""
        self._host.finish(Result(Outcome.STOPPED, {}, {"reason": reason}))


def run_inference(answer: Callable[[InferenceContext], None], host: Host) -> None:
    """Run the entry of an image that trains nothing, to its end; a run that was asked to stop finishes as STOPPED."""
    context = InferenceContext(host)
    try:
        answer(context)
    except Stopped as stop:
        context.give_up(str(stop))
