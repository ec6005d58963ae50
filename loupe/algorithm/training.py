"""The training loop that images share: epochs over cached pictures until target, plateau or budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from loupe.algorithm.checkpoint import load_optimizer_state, optimizer_state
from loupe.algorithm.context import Context
from loupe.algorithm.host import Outcome
from loupe.algorithm.inputs import Inputs, PictureInputs
from loupe.algorithm.plan import TrainingPlan, class_weights, learning_rate, make_optimizer, steps_per_epoch
from loupe.algorithm.precision import autocast
from loupe.algorithm.threads import on_threads, worthwhile_threads
from loupe.tasks.classification import ACCURACY, Scorer

VALIDATION_BATCH = 64
# What took less than this is quicker done again than written down; and writing down takes at most this share of time.
CHECKPOINT_SECONDS = 1.0
CHECKPOINT_SHARE = 0.1
LOOKS_BELOW = 2
# In the first part of a training, which is so long, the accuracy may be so much lower than it began with.
EARLY, EARLY_DIP = 0.4, 0.05


@dataclass(frozen=True)
class Fitted:
    """What a training came to; the network then carries the weights of its best epoch.

    outcome: why it ended. accuracy, score: of that epoch, on the validation pictures, 0..1, the score by the run's
    target metric. epochs: how many were done, earlier attempts included. left: whether it was left because it only made
    the network worse.
    """

    outcome: Outcome
    accuracy: float
    epochs: int
    left: bool = False
    score: float = 0.0


def fit(
    context: Context,
    network: nn.Module,
    plan: TrainingPlan,
    *,
    phase: str = "train",
    frozen: Sequence[nn.Module] = (),
    inputs: Inputs | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train until the validation pictures' score reaches the target or stops getting better, or the budget is used up.

    network: float [B, 3, size, size], normalised, to logits [B, C]; it is moved to the run's device and changed.
    Every epoch ends with a look at the validation pictures and, unless checkpoints would take more than
    CHECKPOINT_SHARE of the time, with a checkpoint. It draws its random numbers from (seed, epoch) alone: a run that
    goes on from a checkpoint ends with the same weights as one that never stopped. Where the budget cuts it off, there
    is a checkpoint of that moment, which stays: a job that resumes this one trains on from there.
    phase: the word for it in reports. frozen: modules whose batch norms keep their statistics. inputs: what the network
    gets instead of pictures, when it is a part of one.
    keep and resume: how an algorithm that has more to remember stores this training's state and gives it back; by
    default it is the whole checkpoint.
    Raises Stopped.
    """
    if keep is None:
        keep, resume = context.checkpoint, context.restore()
    loop = TrainingLoop(context, network, plan, phase=phase, frozen=frozen, inputs=inputs)
    if resume is not None:
        loop.load(resume)
    outcome = loop.verdict()
    due = time.monotonic() + CHECKPOINT_SECONDS
    with on_threads(loop.threads):
        while outcome is None:
            loop.train_epoch()
            loop.validate_epoch()
            outcome = loop.verdict()
            if time.monotonic() >= due or outcome is Outcome.BUDGET:
                began = time.monotonic()
                keep(loop.state())
                saved = time.monotonic()
                due = saved + max(CHECKPOINT_SECONDS, (saved - began) * (1 / CHECKPOINT_SHARE - 1))
    if outcome is Outcome.BUDGET and context.out_of_budget():
        context.wind_up()
    if plan.blends and loop.best:
        with on_threads(loop.threads):
            loop.blend()
    network.load_state_dict(loop.best)
    return Fitted(outcome, loop.best_accuracy, loop.epoch, loop.left, loop.best_score)


class TrainingLoop:
    """One training in progress: a network, its optimizer, and how far they are.

    threads: how many the network is worth, of those that the run may use. epoch: the last one done, from 1.
    best: the weights of the epoch best_epoch, which had best_score by the target metric and best_accuracy on the
    validation pictures. left: whether training made the network clearly worse than the plan's floor, and ends.
    """

    def __init__(
        self,
        context: Context,
        network: nn.Module,
        plan: TrainingPlan,
        *,
        phase: str = "train",
        frozen: Sequence[nn.Module] = (),
        inputs: Inputs | None = None,
    ) -> None:
        self.context, self.plan, self.phase = context, plan, phase
        self.network = network.to(context.device).to(memory_format=torch.channels_last)
        self._inputs = inputs or PictureInputs(
            context.data.images(plan.size), plan.mean, plan.std, plan.augmentation, context.device
        )
        self.threads = context.threads
        if context.device.type == "cpu":
            self.threads = worthwhile_threads(self.network, self._inputs.shape, plan.batch_size, context.threads)
        self._precision = autocast(context.device, self.network)
        self._frozen = frozen
        self._classes = torch.from_numpy(context.data.classes)
        self.optimizer = make_optimizer(self.network, plan)
        self._weights = class_weights(context.data.class_counts(), plan.balance).to(context.device)
        self.steps = steps_per_epoch(len(context.data.train), plan.batch_size)
        self.epochs = min(plan.epochs, context.max_epochs or plan.epochs)
        self.epoch = 0
        self.best: dict[str, torch.Tensor] = {}
        self.best_score, self.best_accuracy, self.best_epoch = -1.0, -1.0, 0
        self._judged = copy.deepcopy(self.network) if plan.average else self.network
        self._steps_done = self._below = 0
        self._seconds = max(1.0, context.seconds_left())
        self._start = copy.deepcopy(self.network.state_dict()) if plan.blends else {}
        self.left = False

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs to go on after the last whole epoch."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.best,
            "best_score": self.best_score,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "average": self._judged.state_dict() if self.plan.average else None,
            "steps": self._steps_done,
            "below": self._below,
            "left": self.left,
            "seconds": None if math.isinf(self._seconds) else self._seconds,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same plan."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.best = dict(state["best"])
        self.best_accuracy, self.best_epoch = state["best_accuracy"], state["best_epoch"]
        # A checkpoint of an earlier Loupe has none of these.
        self.best_score = state.get("best_score", self.best_accuracy)
        self._steps_done, self._below = state.get("steps", 0), state.get("below", 0)
        self.left = state.get("left", False)
        if not self.context.resumes:  # another job's budget says nothing of when this one ends
            self._seconds = state.get("seconds") or self._seconds
        if self.plan.average:
            self._judged.load_state_dict(state["average"])

    def verdict(self) -> Outcome | None:
        """Say whether training is over, and why; None while it goes on."""
        if self.context.reaches_target(self.best_score):
            return Outcome.TARGET_REACHED
        if self.left:
            return Outcome.PLATEAU
        if self.epoch and self.context.out_of_budget():
            return Outcome.BUDGET
        if self.epoch >= self.epochs:
            return Outcome.PLATEAU if self.epochs == self.plan.epochs else Outcome.BUDGET
        return Outcome.PLATEAU if self.epoch - self.best_epoch >= self.plan.patience else None

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield an epoch's training inputs, by default pictures [B, 3, H, W], and classes [B], shuffled."""
        generator = torch.Generator().manual_seed(self.context.seed * 1_000_003 + epoch)
        order = self.context.data.train[torch.randperm(len(self.context.data.train), generator=generator).numpy()]
        for step in range(self.steps):
            rows = order[step * self.plan.batch_size : (step + 1) * self.plan.batch_size]
            yield self._inputs.training(rows, generator), self._classes[rows].to(self.context.device)

    def step(self, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Learn from one batch, as `batches` yields it, and return its mean loss, a scalar on the device."""
        loss = self._mixed_loss(inputs, classes) if self.plan.mixup else self._loss(self._answers(inputs), classes)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        self.optimizer.step()
        self._steps_done += 1
        if self.plan.average:
            # In the beginning the average is short, or it would be the weights before training for a long time.
            decay = min(self.plan.average, (1 + self._steps_done) / (10 + self._steps_done))
            with torch.no_grad():
                ours, theirs = (_floats(network) for network in (self._judged, self.network))
                torch._foreach_lerp_(ours, theirs, 1 - decay)
        return loss.detach()

    def _looks(self, epoch: int) -> set[int]:
        """Return the steps within an epoch after which the validation pictures are looked at."""
        looks = self.plan.looks if epoch == 1 else 1
        return {round(self.steps * look / looks) for look in range(1, looks)} - {0, self.steps}

    def _answers(self, inputs: torch.Tensor) -> torch.Tensor:
        with self._precision:
            logits: torch.Tensor = self.network(inputs)
        return logits.float()

    def _loss(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(
            logits, classes, weight=self._weights, label_smoothing=self.plan.label_smoothing
        )

    def _mixed_loss(self, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        share = torch.distributions.Beta(self.plan.mixup, self.plan.mixup).sample().item()
        other = torch.randperm(len(classes)).to(classes.device)
        logits = self._answers(inputs.lerp(inputs[other], 1 - share))
        return share * self._loss(logits, classes) + (1 - share) * self._loss(logits, classes[other])

    def train_epoch(self) -> None:
        """Learn once from every training picture, or from fewer when the time runs out. Raises Stopped."""
        epoch = self.epoch + 1
        # Dropout and mixup draw from torch's global generator.
        torch.manual_seed(self.context.seed * 1_000_003 + epoch)
        self._learn()
        looks = self._looks(epoch)
        since, pictures_seen = time.monotonic(), 0
        total = torch.zeros((), device=self.context.device)
        for step, (inputs, classes) in enumerate(self.batches(epoch), start=1):
            rate = learning_rate(self.plan, self._place(epoch, step), self.steps * self.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("part", 1.0)
            total += self.step(inputs, classes)
            pictures_seen += len(classes)
            if self.context.report_due() or step == 1 == epoch:
                self.context.report(
                    self.phase,
                    epoch=epoch,
                    step=step,
                    total_steps=self.steps,
                    loss=float(total) / step,
                    pictures_per_second=pictures_seen / (time.monotonic() - since),
                )
                self.context.stop_if_asked()
                if self.context.out_of_budget():
                    break
            if step in looks:
                self._look(epoch, step)
                if self.left:
                    break
                self._learn()
        self.context.stop_if_asked()
        self.epoch = epoch

    def _place(self, epoch: int, step: int) -> int:
        """Return how many steps of the plan lie behind this one, or more when the time runs out before the steps.

        So the rate has fallen when the budget ends, too (Li et al., "Budgeted Training", 2020). The clock counts whole
        steps, and only when it is ahead: where there is time enough, the rate depends on the steps alone.
        """
        done = (epoch - 1) * self.steps + step - 1
        if math.isinf(self._seconds):
            return done
        spent = 1 - max(0.0, self.context.seconds_left()) / self._seconds
        return max(done, int(spent * self.steps * self.epochs))

    def _learn(self) -> None:
        """Put the network into the state in which it learns."""
        self.network.train()
        for module in self._frozen:
            module.eval()
        if self.plan.batch_norm == "freeze":
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def validate_epoch(self) -> None:
        """Measure the epoch just done and keep its weights when they are the best so far."""
        score, accuracy = self._look(self.epoch, self.steps)
        if (score, accuracy) > (self.best_score, self.best_accuracy):
            self.best_score, self.best_accuracy, self.best_epoch = score, accuracy, self.epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self._judged.state_dict().items()}

    def _look(self, epoch: int, step: int) -> tuple[float, float]:
        """Measure score and accuracy, and note when the latter is clearly below the floor.

        Only whole epochs are candidates for the best: the more often one looks, the sooner chance alone shows a target.
        """
        score, accuracy, loss = self.measure()
        self._below = self._below + 1 if accuracy < self._bearable(epoch, step) else 0
        self.left = self.left or self._below >= LOOKS_BELOW
        self.context.report_round(
            self.phase,
            f"epoch {epoch}",
            accuracy=accuracy,
            score=score,
            epoch=epoch,
            step=step,
            total_steps=self.steps,
            validation_loss=loss,
        )
        return score, accuracy

    def _bearable(self, epoch: int, step: int) -> float:
        """Return the accuracy below which training only makes the network worse.

        It may dip below the floor while the rate is high, but not by much, and not for long.
        """
        floor = self.plan.floor
        noise = math.sqrt(floor * (1 - floor) / len(self.context.data.validation))
        early = self._place(epoch, step) < EARLY * self.steps * self.epochs
        return floor - noise - (EARLY_DIP if early else 0.0)

    def blend(self) -> None:
        """Try weights between those that training began with and its best, and keep what measures best.

        One that measures the same is kept for its part of the beginning.
        """
        trained, chosen = self.best, 1.0
        for part in sorted(self.plan.blends, reverse=True):
            mixed = {
                name: first.lerp(trained[name].to(first.device), part) if first.is_floating_point() else first
                for name, first in self._start.items()
            }
            self._judged.load_state_dict(mixed)
            score, accuracy, _ = self.measure()
            if (score, accuracy) >= (self.best_score, self.best_accuracy):
                self.best_score, self.best_accuracy, chosen = score, accuracy, part
                self.best = {name: value.detach().cpu().clone() for name, value in mixed.items()}
        if chosen < 1:
            self.context.report_round(
                self.phase,
                f"{chosen:.0%} of the way from the first weights to the trained ones",
                accuracy=self.best_accuracy,
                score=self.best_score,
                epoch=self.epoch,
            )

    def measure(self) -> tuple[float, float, float]:
        """Return score by the target metric, accuracy, and mean loss in nats, on the validation pictures."""
        answers, loss = self.validate()
        data = self.context.data
        truth = data.classes[data.validation]
        score, accuracy = (
            each.of_answers(truth, answers, len(data.labels)) for each in (self.context.scorer, Scorer(ACCURACY))
        )
        return score, accuracy, loss

    def validate(self) -> tuple[np.ndarray, float]:
        """Return answers, int64 [V], and mean loss, in nats, on the validation pictures, computed in float32."""
        rows = self.context.data.validation
        self._judged.eval()
        answers, loss = [], 0.0
        with torch.inference_mode():
            for start in range(0, len(rows), VALIDATION_BATCH):
                batch = rows[start : start + VALIDATION_BATCH]
                classes = self._classes[batch].to(self.context.device)
                logits = self._judged(self._inputs.judging(batch)).float()
                answers.append(logits.argmax(dim=1).cpu().numpy())
                loss += float(functional.cross_entropy(logits, classes, reduction="sum"))
        return np.concatenate(answers), loss / len(rows)


def _floats(network: nn.Module) -> list[torch.Tensor]:
    """Return the network's weights and statistics, without counters."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]
