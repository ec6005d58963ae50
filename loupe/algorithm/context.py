"""What an algorithm gets from Loupe while it runs: its data, its settings, and the way back to the terminals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loupe.algorithm.checkpoint import read_checkpoint, write_checkpoint
from loupe.algorithm.host import DatasetIndex, Host, Outcome, Progress, Result, RunSpec, Split
from loupe.algorithm.image import load_entry
from loupe.algorithm.manifest import read_manifest

if TYPE_CHECKING:
    from loupe.algorithm.evaluation import OutOfSample

REPORT_SECONDS = 0.5


class UnusableData(ValueError):
    """Says why nothing can be learned from a data set version, and what it lacks."""


class Stopped(Exception):
    """Ends a run that was asked to stop; what it had is in the last checkpoint."""


class Dataset:
    """The labelled pictures of a run, split into train, validation and test.

    labels: class names, in the order of the model's outputs. classes: int64 [N]; -1 for every test picture.
    train, validation, test: int64 indices into the N pictures.
    """

    def __init__(self, index: DatasetIndex, host: Host) -> None:
        self._host = host
        self._opened: dict[int, np.ndarray] = {}
        self.name = index.name
        self.labels: Sequence[str] = tuple(index.labels)
        self.digests = index.digests
        self.classes = np.asarray(index.classes, dtype=np.int64)
        splits = np.asarray(index.splits)
        self.train = np.flatnonzero(splits == Split.TRAIN)
        self.validation = np.flatnonzero(splits == Split.VALIDATION)
        self.test = np.flatnonzero(splits == Split.TEST)
        self._check()

    def __len__(self) -> int:
        return len(self.classes)

    def class_counts(self, split: Split = Split.TRAIN) -> np.ndarray:
        """Return int64 [C]: how many pictures each class has in train or validation."""
        indices = {Split.TRAIN: self.train, Split.VALIDATION: self.validation}[split]
        return np.bincount(self.classes[indices], minlength=len(self.labels))

    def images(self, size: int) -> np.ndarray:
        """Return all pictures, uint8 [N, size, size, 3], RGB, read-only and mapped, not loaded."""
        if size not in self._opened:
            self._opened[size] = np.load(self._host.pictures(size, size), mmap_mode="r")
        return self._opened[size]

    def _check(self) -> None:
        if len(self.labels) < 2:
            raise UnusableData(
                f"{self.name} has {len(self.labels)} classes ({', '.join(self.labels)}); at least two are needed"
            )
        for name, indices in (("training", self.train), ("validation", self.validation)):
            if len(indices) == 0:
                raise UnusableData(
                    f"{self.name} has no {name} pictures among its {len(self)}; "
                    "accuracy cannot be measured without them, so give each split some"
                )
            used = self.classes[indices]
            if used.min() < 0 or used.max() >= len(self.labels):
                raise UnusableData(f"{self.name} has {name} pictures without one of its {len(self.labels)} labels")
        if np.count_nonzero(self.class_counts()) < 2:
            raise UnusableData(f"all training pictures of {self.name} are of one class; at least two are needed")


class Context:
    """One run, as its algorithm sees it.

    Making one sets torch's threads to what the run may use; oversubscribed cores train many times slower.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._spec: RunSpec = host.spec()
        torch.set_num_threads(self._spec.threads)
        self._began = time.monotonic()
        self._elapsed_before = 0.0
        self._reported = -1e9
        self._checkpoints = 0
        self.history: list[dict[str, Any]] = []
        self.data = Dataset(self._spec.dataset, host)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The image's parameters, typed and checked."""
        return self._spec.parameters

    @property
    def target_accuracy(self) -> float:
        """In (0, 1], on validation pictures: where training is done."""
        return self._spec.target_accuracy

    @property
    def seed(self) -> int:
        """Makes a run repeatable: same seed, data, parameters and threads, same result on a CPU."""
        return self._spec.seed

    @property
    def threads(self) -> int:
        """How many CPU threads the run may use."""
        return self._spec.threads

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return torch.device(self._spec.device)

    @property
    def weights(self) -> Mapping[str, Path]:
        """The uploaded safetensors files, by parameter name."""
        return self._spec.weights

    @property
    def work(self) -> Path:
        """A private writable folder that lives as long as the run."""
        return self._host.work

    @property
    def max_epochs(self) -> int | None:
        """The budget in passes over the data; None means no bound."""
        return self._spec.max_epochs

    @property
    def elapsed(self) -> float:
        """The seconds this job has run, earlier attempts up to their last checkpoint included."""
        return self._elapsed_before + time.monotonic() - self._began

    def seconds_left(self) -> float:
        """seconds_left of the budget; infinite without one."""
        return float("inf") if self._spec.max_seconds is None else self._spec.max_seconds - self.elapsed

    def out_of_budget(self) -> bool:
        """Say that the job's time is used up: keep the best so far and finish with it."""
        return self.seconds_left() <= 0

    def should_stop(self) -> bool:
        """Say that the host wants the run to end now: cancelled, or its lease is lost."""
        return self._host.stop_requested()

    def stop_if_asked(self) -> None:
        """Raise Stopped when the host wants the run to end."""
        if self.should_stop():
            raise Stopped("asked to stop")

    def report_due(self) -> bool:
        """Say that the last report is long enough ago for another one inside a loop."""
        return time.monotonic() - self._reported >= REPORT_SECONDS

    def report(
        self,
        phase: str,
        *,
        epoch: int = 0,
        step: int = 0,
        total_steps: int = 0,
        message: str = "",
        **metrics: float,
    ) -> None:
        """Show progress on the terminals. A report with validation_accuracy is a round, kept in the history."""
        self._reported = time.monotonic()
        numbers = {name: float(value) for name, value in metrics.items()}
        if "validation_accuracy" in numbers:
            self.history.append({"phase": phase, "epoch": epoch, "seconds": round(self.elapsed, 3), **numbers})
        self._host.report(Progress(phase, epoch, step, total_steps, numbers, message))

    def log(self, text: str) -> None:
        """Pass a line of text on."""
        self._host.log(text)

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep a state: dicts and lists of tensors, arrays, numbers and text. Durable on return.

        It replaces the one before. A run that is started again gets it from `restore`.
        """
        self._checkpoints += 1
        folder = self.work / f"checkpoint-{self._checkpoints}"
        context = {"elapsed": self.elapsed, "history": self.history}
        write_checkpoint(folder, {"context": context, "algorithm": state})
        self._host.save_checkpoint(folder)
        shutil.rmtree(folder)

    def restore(self) -> dict[str, Any] | None:
        """Return the state of the job's last whole checkpoint, of any attempt; None when there is none."""
        folder = self._host.restore_checkpoint()
        if folder is None:
            return None
        state = read_checkpoint(folder)
        self._elapsed_before = state["context"]["elapsed"]
        self.history = state["context"]["history"]
        return state["algorithm"]

    def finish(
        self,
        network: torch.nn.Module,
        *,
        size: int,
        architecture: str,
        outcome: Outcome,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        out_of_sample: OutOfSample | None = None,
        notes: Mapping[str, Any] | None = None,
        onnx_logits: Any = None,
    ) -> None:
        """Make the model package of a trained network, looks at the test split, and hands both over.

        network: float [N, 3, size, size], normalised by mean and std in 0..1, to logits [N, C].
        out_of_sample: predictions for pictures the predicting network was not fitted to, to find label errors;
        by default those on the validation pictures. notes: JSON-able, put into the report as they are.
        onnx_logits: an ONNX model of the same function from uint8 [N, size, size, 3] to logits, where there is one
        already; it is compared with the network on the test pictures like an exported one.
        Raises ExportMismatch when the network and the ONNX model do not answer the same.
        """
        from loupe.algorithm.finishing import conclude
        from loupe.algorithm.package import Preprocessing

        preprocessing = Preprocessing(size, size, tuple(mean), tuple(std))
        artifacts, report = conclude(
            self,
            self._host,
            network=network,
            preprocessing=preprocessing,
            architecture=architecture,
            out_of_sample=out_of_sample,
            onnx_logits=onnx_logits,
        )
        if outcome is Outcome.TARGET_REACHED and report["validation"]["accuracy"] < self.target_accuracy:
            # The package has the last word: a picture on the border may fall the other way in it.
            outcome = Outcome.PLATEAU
        report["outcome"] = str(outcome)
        report["target_accuracy"] = self.target_accuracy
        report["notes"] = dict(notes or {})
        self._host.finish(Result(outcome, artifacts, report))

    def give_up(self, reason: str) -> None:
        """End a stopped run without a model; its last checkpoint stands."""
        report = {"outcome": str(Outcome.STOPPED), "reason": reason, "history": self.history}
        self._host.finish(Result(Outcome.STOPPED, {}, report))


def run_image(folder: Path, host: Host) -> None:
    """Run an unpacked algorithm image against a host, to its end.

    A run that was asked to stop finishes as STOPPED; whatever else goes wrong in it is raised.
    """
    manifest = read_manifest(folder)
    train = load_entry(folder, manifest.entry)
    context = Context(host)
    try:
        train(context)
    except Stopped as stop:
        context.give_up(str(stop))
