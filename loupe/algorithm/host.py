"""The door between an algorithm image and whoever runs it: what a host gives to a run, and what it takes back.

A run is one execution of an algorithm image on one data set version. The trainer's sandbox implements `Host`
over a pipe (`loupe.algorithm.pipe`), a plain process implements it over a folder (`loupe.algorithm.local`).
Nothing here, and nothing that an algorithm imports, knows gRPC, the network or the trainer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loupe.algorithm.region_file import no_regions
from loupe.job_kinds import JobKind
from loupe.letterbox import Fit
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective


class Split(enum.IntEnum):
    """Says what a picture is for. TEST labels are withheld until the model is final, UNLABELLED have none."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    UNLABELLED = 3


class Stopped(Exception):
    """Ends a run that was asked to stop; what it had is in the last checkpoint."""


class Outcome(enum.StrEnum):
    """Why a run ended.

    STOPPED: it was asked to and has no model. DONE: nothing was to be trained, and all is answered. The others end with
    the best model found.
    """

    TARGET_REACHED = "target_reached"
    PLATEAU = "plateau"
    BUDGET = "budget"
    STOPPED = "stopped"
    DONE = "done"


@dataclass(frozen=True)
class DatasetIndex:
    """A data set version without its pixels.

    labels: class names, in the order of the model's outputs.
    classes: int32 [N], the index into `labels` of each picture; -1 for every TEST picture (withheld), and for those
    that have no class as a whole.
    splits: uint8 [N], a `Split` for each picture.
    digests: sha256 of each picture's file, hex, in the same order.
    regions: the annotations of all but TEST pictures (withheld), boxes in parts of the square that pictures are
    letterboxed into; none for a task that is about pictures as a whole.
    """

    name: str
    labels: Sequence[str]
    classes: np.ndarray
    splits: np.ndarray
    digests: Sequence[str]
    regions: Regions = field(default_factory=no_regions)


@dataclass(frozen=True)
class RunSpec:
    """Everything that a run is asked to do.

    objective: what the VALIDATION pictures must reach for training to be done, by a metric of the image's task.
    max_seconds, max_epochs: the budget; None means no bound. resumes: whether the checkpoint that there is was written
    by an earlier job, which had a budget of its own; its epochs count, its seconds do not.
    threads: CPU threads that the run may use. device: "cpu" or "cuda".
    weights: uploaded files by parameter name, read-only; of a training run safetensors.
    kind: what the run is for; where it is not to train, nothing is asked of validation pictures, every picture is TEST,
    and `dataset.labels` are the classes of the model that answers, then those that only the data set has. task: the
    name of the task.
    """

    parameters: Mapping[str, Any]
    objective: Objective
    dataset: DatasetIndex
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    max_seconds: float | None = None
    max_epochs: int | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    resumes: bool = False
    kind: JobKind = JobKind.TRAIN
    task: str = ""


@dataclass(frozen=True)
class Progress:
    """One thing that happened in a run, ready to be shown to a person.

    phase: a short stable word ("features", "head", "finetune", "export", "quantize", "test", "predict").
    epoch, step: counted from 1; 0 means that it does not apply. total_steps: 0 when unknown.
    metrics: for example {"validation_accuracy": 0.97, "loss": 0.12, "pictures_per_second": 300}.
    message: one line for people; may be empty.
    """

    phase: str
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True)
class Result:
    """What a run hands over at its end.

    artifacts: file name -> path inside the run's work folder; a model has "model.onnx", "model.safetensors",
    "model.json" and "golden.npz", and "model.int8.onnx" where INT8 answers the same (loupe.algorithm.package writes
    them).
    report: JSON-able; the figures of validation and test pictures, and what else a task's models are told by.
    """

    outcome: Outcome
    artifacts: Mapping[str, Path]
    report: Mapping[str, Any]


class Host(Protocol):
    """What a run may ask for. Every call blocks until it is answered."""

    @property
    def work(self) -> Path:
        """A private writable folder that lives as long as the run."""

    def spec(self) -> RunSpec:
        """Return what to do."""

    def pictures(self, height: int, width: int, fit: Fit = "stretch") -> Path:
        """Return a .npy file, uint8 [N, height, width, 3], RGB, rows as in DatasetIndex.

        fit: how each picture fills its height and width, see `loupe.letterbox`. It is decoded once and shared read-only
        by all runs on the same data; open it with mmap_mode="r".
        """

    def reveal_test(self, answers: np.ndarray) -> np.ndarray:
        """Hand over what the final model says of the test pictures, and return int32 [N], the classes, none withheld.

        answers: int [T], classes, in the order of the pictures; the host scores them by itself, and its figures count.
        Once in a run; afterwards nothing is trained or kept.
        """

    def reveal_test_regions(self, found: Regions) -> Regions:
        """Hand over what the final model finds in the test pictures, and return the regions of all, none withheld.

        found: with scores, pictures numbered by their place among the test pictures, boxes within 0..1, and at most
        MAX_DETECTIONS of them a picture; the host scores them by itself, and its figures count. Once in a run, in place
        of `reveal_test`; afterwards nothing is trained or kept.
        """

    def hand_over_answers(self, found: Regions) -> None:
        """Hand over what a model says of the pictures, in a run that is not to train; once.

        found: with scores, pictures numbered as in DatasetIndex. Of a detector boxes within 0..1, at most
        MAX_DETECTIONS of a picture, each with a score in 0..1. Where the task is about pictures as a whole, one for
        each picture: the box 0, 0, 1, 1, and of a classifier the class and how sure it is, of an inspector the class 1
        for bad parts and 0 for good ones, and the score, a finite number.
        """

    def report(self, progress: Progress) -> None:
        """Pass progress on to the terminals."""

    def log(self, text: str) -> None:
        """Pass a line of text on, for people; the host says where it comes from and escapes it."""

    def save_checkpoint(self, folder: Path) -> None:
        """Keep a whole folder (safetensors and JSON files only); return when it is durable."""

    def restore_checkpoint(self) -> Path | None:
        """Return the folder of the last whole checkpoint of this job, of any attempt, or of the job that it resumes.

        None when there is none.
        """

    def stop_requested(self) -> bool:
        """Say whether to stop soon: cancelled, lease lost, far beyond the budget, or the trainer is to go."""

    def finish(self, result: Result) -> None:
        """Hand the result over. Nothing may follow it."""
