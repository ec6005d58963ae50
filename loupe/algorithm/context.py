"""What an algorithm gets from Loupe while it runs: its data, its settings, and the way back to the terminals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from loupe.algorithm.anomaly import finishing as anomaly
from loupe.algorithm.checkpoint import read_checkpoint, write_checkpoint
from loupe.algorithm.classification import finishing as classification
from loupe.algorithm.dataset import Dataset
from loupe.algorithm.detection import finishing as detection
from loupe.algorithm.detection.measures import Detections, score_of
from loupe.algorithm.evaluation import OutOfSample
from loupe.algorithm.export import Preprocessing
from loupe.algorithm.host import Host, Outcome, Progress, Result, Stopped
from loupe.algorithm.image import load_entry
from loupe.algorithm.inference import run_inference
from loupe.algorithm.manifest import read_manifest
from loupe.algorithm.quantization import Slack
from loupe.algorithm.rules import rules_of
from loupe.job_kinds import JobKind
from loupe.tasks import TASKS
from loupe.tasks.classification import Scorer, scorer
from loupe.tasks.objective import Objective
from loupe.tasks.task import Task

REPORT_SECONDS = 0.5


class Context:
    """One run of an image of a task, as its algorithm sees it. Raises UnusableData.

    Making one sets torch's threads to what the run may use; oversubscribed cores train many times slower.
    data: the pictures. history: the rounds reported so far, of earlier attempts too.
    """

    def __init__(self, host: Host, task: Task) -> None:
        self._host = host
        self._task, self._rules = task, rules_of(task)
        self._spec = host.spec()
        torch.set_num_threads(self._spec.threads)
        self._began = time.monotonic()
        self._elapsed_before = self._not_ours = 0.0
        self._winding_up = False
        self._reported = -1e9
        self._checkpoints = 0
        self.history: list[dict[str, Any]] = []
        self.data = Dataset(self._spec.dataset, host)
        self._rules.check(self.data)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The image's parameters, typed and checked."""
        return self._spec.parameters

    @property
    def objective(self) -> Objective:
        """What the validation pictures must reach for training to be done."""
        return self._spec.objective

    @property
    def scorer(self) -> Scorer:
        """What computes a classifier's metric. Raises ValueError where it is of a class that is not there."""
        return scorer(self.objective.metric, self.data.labels)

    def score(self, detections: Sequence[Detections]) -> dict[str, float]:
        """Return what a detector's boxes on the validation pictures are worth: "map50", "map", and "score".

        detections: of each validation picture, in the order of `data.validation`: boxes float [K, 4], x_min, y_min,
        x_max, y_max in parts of the square that `data.letterboxed` gives, scores float [K], and classes int [K]. Of a
        picture the surest 100 count. score: the objective's metric. Raises ValueError where it is of a class
        without boxes in validation pictures, or where the detections cannot be.
        """
        return score_of(self.data, self._task, self.objective.metric, detections)

    @property
    def target_accuracy(self) -> float:
        """The objective's bound: the name that it had before there were other metrics."""
        return self.objective.bound

    def reaches_target(self, score: float) -> bool:
        """Say whether a value of the objective's metric on the validation pictures is what was asked for."""
        return self.objective.reached_by(score)

    @property
    def seed(self) -> int:
        """The run's seed: with the same data, parameters and threads it gives the same result on a CPU."""
        return self._spec.seed

    @property
    def threads(self) -> int:
        """The number of CPU threads that the run may use."""
        return self._spec.threads

    @property
    def device(self) -> torch.device:
        """The device to compute on: a CPU or a CUDA device."""
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
        """The budget in passes over the data, those of a job that this one resumes included; None means no bound."""
        return self._spec.max_epochs

    @property
    def elapsed(self) -> float:
        """The seconds of training until now: this run's, and those of earlier attempts up to their last checkpoint.

        Those of a job that this one resumes count here, and not against its budget.
        """
        return self._elapsed_before + time.monotonic() - self._began

    @property
    def resumes(self) -> bool:
        """Whether `restore` gives the state of another job, which had another budget and perhaps another target."""
        return self._spec.resumes

    def seconds_left(self) -> float:
        """Return what is left of the budget; infinite without one, negative once it is overdrawn."""
        if self._spec.max_seconds is None:
            return float("inf")
        return self._spec.max_seconds - (self.elapsed - self._not_ours)

    def out_of_budget(self) -> bool:
        """Say whether the job's time is used up: then keep the best so far and finish with it."""
        return self.seconds_left() <= 0

    def should_stop(self) -> bool:
        """Say whether the host wants the run to end now, for example cancelled, or its lease lost."""
        return self._host.stop_requested()

    def stop_if_asked(self) -> None:
        """Raise Stopped when the host wants the run to end now."""
        if self.should_stop():
            raise Stopped("asked to stop")

    def report_due(self) -> bool:
        """Say whether the last report is REPORT_SECONDS ago, so that a loop may make another one."""
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
        """Show progress on the terminals; the arguments are those of host.Progress.

        A report with one of the task's metrics, "validation_" before it, is a round of training: it is kept in the
        history.
        """
        self._reported = time.monotonic()
        numbers = {name: float(value) for name, value in metrics.items()}
        if any(f"validation_{metric}" in numbers for metric in self._task.metrics):
            self.history.append({"phase": phase, "epoch": epoch, "seconds": round(self.elapsed, 3), **numbers})
        self._host.report(Progress(phase, epoch, step, total_steps, numbers, message))

    def report_round(self, phase: str, what: str, *, score: float, epoch: int = 0, **more: Any) -> None:
        """Report a round of training: what was measured, its score and other metrics on the validation pictures.

        score: by the objective's metric. more: metrics of the task by name, as accuracy=0.9, or what `score` returned;
        and the rest as `report` takes it.
        """
        figures = {name: float(more.pop(name)) for name in self._task.metrics if name in more}
        if self.objective.metric in self._task.metrics:
            figures.setdefault(self.objective.metric, float(score))
        metrics = {f"validation_{name}": value for name, value in figures.items()}
        if self._rules.tells_score(self.objective):
            metrics["validation_score"] = score
        said = self._rules.sentence(self.objective, figures, score)
        self.report(phase, epoch=epoch, message=f"{what}: {said}", **{**metrics, **more})

    def log(self, text: str) -> None:
        """Pass a line of text on to the terminals, for people."""
        self._host.log(text)

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep a state: dicts and lists of tensors, arrays, numbers and text. Durable on return.

        It replaces the one before, unless `wind_up` was called. A run that is started again gets it from `restore`.
        Raises BadCheckpoint.
        """
        if self._winding_up:
            return
        self._checkpoints += 1
        folder = self.work / f"checkpoint-{self._checkpoints}"
        context = {"elapsed": self.elapsed, "not_ours": self._not_ours, "history": self.history}
        write_checkpoint(folder, {"context": context, "algorithm": state})
        self._host.save_checkpoint(folder)
        shutil.rmtree(folder)

    def wind_up(self) -> None:
        """Note that the budget has cut training off: whoever goes on does so from the last checkpoint, which stays.

        What the run does from here on, it does to finish with what it has.
        """
        self._winding_up = True

    def restore(self) -> dict[str, Any] | None:
        """Return the state of the job's last whole checkpoint, of any attempt, or of the job that it resumes, or None.

        Arrays come back as tensors on the CPU; the history and the elapsed time go on from there.
        Raises BadCheckpoint.
        """
        folder = self._host.restore_checkpoint()
        if folder is None:
            return None
        state = read_checkpoint(folder)
        before = state["context"]
        self._elapsed_before = before["elapsed"]
        # A checkpoint of an earlier Loupe knows of no job that is resumed.
        self._not_ours = before["elapsed"] if self.resumes else before.get("not_ours", 0.0)
        self.history = before["history"]
        kept: dict[str, Any] = state["algorithm"]
        return kept

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
        """Make the model package of a trained classifier, look at the test split once, and hand both over.

        network: float [N, 3, size, size], normalised per channel by mean and std in 0..1, to logits [N, C].
        architecture: what the network is, for people. outcome: why training ended.
        out_of_sample: predictions for pictures the predicting network was not fitted to, to find label errors;
        by default those on the validation pictures. notes: JSON-able, put into the report as they are.
        onnx_logits: an ONNX model of the same function from uint8 [N, size, size, 3] to logits, where there is one
        already; it is compared with the network on the test pictures like an exported one.
        Raises ExportMismatch when the network and the ONNX model do not answer the same.
        """
        artifacts, report = classification.conclude(
            self._host,
            self._spec,
            self.data,
            network=network,
            preprocessing=Preprocessing(size, size, tuple(mean), tuple(std)),
            architecture=architecture,
            out_of_sample=out_of_sample,
            onnx_logits=onnx_logits,
            slack=Slack(self.elapsed, self.seconds_left()),
        )
        self._hand_over(artifacts, report, outcome, notes)

    def finish_detector(
        self,
        network: torch.nn.Module,
        *,
        size: int,
        architecture: str,
        outcome: Outcome,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the model package of a trained detector, look at the test split once, and hand both over.

        network: float [N, 3, size, size], letterboxed, normalised per channel by mean and std in 0..1, to boxes
        [N, A, 4], x_min, y_min, x_max, y_max in parts of the square, and scores [N, A, C] in 0..1, for an A of its own;
        which of them overlap too much is found out behind it. The other arguments are those of `finish`.
        Raises ExportMismatch when the network and the ONNX model do not find the same, ValueError for a network that
        answers otherwise.
        """
        artifacts, report = detection.conclude(
            self._host,
            self._spec,
            self.data,
            network=network,
            preprocessing=Preprocessing(size, size, tuple(mean), tuple(std)),
            architecture=architecture,
        )
        self._hand_over(artifacts, report, outcome, notes)

    def finish_inspector(
        self,
        network: torch.nn.Module,
        *,
        size: int,
        architecture: str,
        outcome: Outcome,
        false_alarms: float,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the model package of an inspector, look at the test split once, and hand both over.

        network: float [N, 3, size, size], normalised per channel by mean and std in 0..1, to [N, 1 + h h]: a score, the
        higher the less the picture is like those of good parts, and a heat map row by row. false_alarms: the share of
        good parts, above 0 and below 1, that the threshold may call bad. The other arguments are those of `finish`.
        Raises UnusableData where the good class has no validation pictures, ExportMismatch when the network and the
        ONNX model do not answer the same, ValueError for a network that answers otherwise.
        """
        artifacts, report = anomaly.conclude(
            self._host,
            self._spec,
            self.data,
            network=network,
            preprocessing=Preprocessing(size, size, tuple(mean), tuple(std)),
            architecture=architecture,
            false_alarms=false_alarms,
        )
        self._hand_over(artifacts, report, outcome, notes)

    def _hand_over(
        self,
        artifacts: Mapping[str, Path],
        report: Mapping[str, Any],
        outcome: Outcome,
        notes: Mapping[str, Any] | None,
    ) -> None:
        score = self._task.score_of_report(self.objective.metric, report["validation"])
        assert score is not None, "the report has what every objective of the task is measured by"
        if outcome is Outcome.TARGET_REACHED and not self.reaches_target(score):
            # The package has the last word: a picture on the border may fall the other way in it.
            outcome = Outcome.PLATEAU
        run = {
            "seed": self.seed,
            "history": self.history,
            "seconds": round(self.elapsed, 3),
            "outcome": str(outcome),
            "objective": asdict(self.objective),
            "validation_score": score,
            "notes": dict(notes or {}),
        }
        self._host.finish(Result(outcome, artifacts, {**report, **run}))

    def give_up(self, reason: str) -> None:
        """End a stopped run without a model; its last checkpoint stands."""
        report = {"outcome": str(Outcome.STOPPED), "reason": reason, "history": self.history}
        self._host.finish(Result(Outcome.STOPPED, {}, report))


def run_image(folder: Path, host: Host) -> None:
    """Run an unpacked algorithm image against a host, to its end.

    A run that was asked to stop finishes as STOPPED; whatever else goes wrong in it is raised.
    """
    manifest = read_manifest(folder)
    entry = load_entry(folder, manifest.entry)
    if JobKind.TRAIN not in manifest.kinds:
        run_inference(entry, host)
        return
    context = Context(host, TASKS[manifest.task])
    try:
        entry(context)
    except Stopped as stop:
        context.give_up(str(stop))
