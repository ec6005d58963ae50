"""The training of a detector: epochs until its objective is reached, or for as long as the budget lasts."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm import Context, Outcome
from loupe.algorithm.checkpoint import load_optimizer_state, optimizer_state
from loupe.algorithm.training import CHECKPOINT_SECONDS, CHECKPOINT_SHARE

from .augment import Changes, Truth, change
from .detections import Detection, detect, normalised
from .loss import detection_loss
from .network import Detector

SHORTEST_EPOCH = 8
"""Steps: what has few pictures goes through them several times in an epoch."""
BACKGROUND = 1.0
"""Pictures without a box in an epoch, at most, for each one with boxes."""
TRUNK_RATE = 0.5
WEIGHT_DECAY = 0.05
AVERAGE = 0.998
WARM_UP = 60
LAST_RATE = 0.02
LARGEST_GRADIENT = 10.0


@dataclass(frozen=True)
class Plan:
    """How a detector is trained.

    variant: its network's name. epochs: the most; a budget that is too short for them ends with the same low rate.
    """

    variant: str
    epochs: int
    batch_size: int
    learning_rate: float
    changes: Changes


class Training:
    """One training in progress. epoch: the last one done, from 1. best: the weights of the one with best_score."""

    def __init__(self, context: Context, network: Detector, plan: Plan) -> None:
        self.context, self.plan = context, plan
        self.network = network.to(context.device).to(memory_format=torch.channels_last)
        self._precision = network.trunk.precision(context.device)
        self._average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._pictures = context.data.letterboxed(network.size)
        self._truth = boxes_by_picture(context.data)
        self.optimizer = torch.optim.AdamW(_groups(self.network), lr=plan.learning_rate, fused=True)
        self.epochs = min(plan.epochs, context.max_epochs or plan.epochs)
        self._with_boxes = np.array([row for row in context.data.train if len(self._truth[row][0])], np.int64)
        self._without = np.setdiff1d(context.data.train, self._with_boxes)
        few = min(len(self._without), math.ceil(BACKGROUND * len(self._with_boxes)))
        pictures = max(len(self._with_boxes) + few, len(context.data.validation))
        self.steps = max(SHORTEST_EPOCH, math.ceil(pictures / plan.batch_size))
        self.epoch = self._steps_done = self.best_epoch = 0
        self.best: dict[str, torch.Tensor] = {}
        self.best_score = -1.0
        self._seconds = max(1.0, context.seconds_left())
        self._validation_seconds = 0.0

    def run(self) -> Outcome:
        """Train to the end, and leave the best weights in the network. Raises Stopped."""
        due = time.monotonic() + CHECKPOINT_SECONDS
        while (outcome := self.verdict()) is None:
            loss, speed = self.train_epoch()
            self.validate(loss, speed)
            if time.monotonic() >= due:
                began = time.monotonic()
                self.context.checkpoint(self.state())
                saved = time.monotonic()
                due = saved + max(CHECKPOINT_SECONDS, (saved - began) * (1 / CHECKPOINT_SHARE - 1))
        self.network.load_state_dict(self.best)
        return outcome

    def verdict(self) -> Outcome | None:
        """Say whether training is over, and why; None while it goes on."""
        if self.epoch and self.context.reaches_target(self.best_score):
            return Outcome.TARGET_REACHED
        if self.epoch and self._time_is_up():
            return Outcome.BUDGET
        if self.epoch >= self.epochs:
            return Outcome.PLATEAU if self.epochs == self.plan.epochs else Outcome.BUDGET
        return None

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs to go on after the last whole epoch."""
        return {
            "variant": self.plan.variant,
            "size": self.network.size,
            "epoch": self.epoch,
            "steps": self._steps_done,
            "network": self.network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.best,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "seconds": None if math.isinf(self._seconds) else self._seconds,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same plan."""
        self.epoch, self._steps_done = state["epoch"], state["steps"]
        self.network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.best, self.best_score, self.best_epoch = dict(state["best"]), state["best_score"], state["best_epoch"]
        if not self.context.resumes:  # another job's budget says nothing of when this one ends
            self._seconds = state["seconds"] or self._seconds

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, list[Truth]]]:
        """Yield an epoch's changed pictures, normalised [B, 3, S, S], and their boxes in pixels, drawn by the seed."""
        generator = torch.Generator().manual_seed(self.context.seed * 1_000_003 + epoch)
        rows = self._rows(generator)
        for step in range(self.steps):
            batch = rows[step * self.plan.batch_size : (step + 1) * self.plan.batch_size]
            device = self.context.device
            pixels = torch.from_numpy(self._pictures[batch]).to(device)
            pictures = pixels.permute(0, 3, 1, 2).float().div_(255)
            pictures, truth = change(pictures, [self._truth[row] for row in batch], self.plan.changes, generator)
            yield (
                normalised(pictures),
                [(boxes.to(device) * self.network.size, classes.to(device)) for boxes, classes in truth],
            )

    def _rows(self, generator: torch.Generator) -> np.ndarray:
        """Return the pictures of an epoch in their order: all with boxes, and as many without, as often as needed."""
        few = math.ceil(BACKGROUND * len(self._with_boxes))
        rounds: list[np.ndarray] = []
        wanted = self.steps * self.plan.batch_size
        while sum(len(rows) for rows in rounds) < wanted:
            background = self._without[torch.randperm(len(self._without), generator=generator)[:few].numpy()]
            rows = np.concatenate([self._with_boxes, background])
            rounds.append(rows[torch.randperm(len(rows), generator=generator).numpy()])
        return np.concatenate(rounds)[:wanted]

    def step(self, pictures: torch.Tensor, truth: list[Truth]) -> torch.Tensor:
        """Learn from one batch, as `batches` yields it, and return its loss, a scalar on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self._rate() * group["part"]
        with self._precision:
            logits, boxes = self.network.raw(pictures)
        loss = detection_loss(logits, boxes, self.network.points, truth)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self._steps_done += 1
        # In the beginning the average is short, or it would be the weights before training for a long time.
        decay = min(AVERAGE, (1 + self._steps_done) / (10 + self._steps_done))
        with torch.no_grad():
            ours, theirs = (_floats(network) for network in (self._average, self.network))
            torch._foreach_lerp_(ours, theirs, 1 - decay)
        return loss.detach()

    def train_epoch(self) -> tuple[float, float]:
        """Learn once from the training pictures, or from fewer when the time runs out. Raises Stopped.

        Returns the mean loss, and how many pictures a second it learned from.
        """
        epoch = self.epoch + 1
        self.network.train()
        began, seen = time.monotonic(), 0
        total = torch.zeros((), device=self.context.device)
        loss = speed = 0.0
        for step, (pictures, truth) in enumerate(self.batches(epoch), start=1):
            total += self.step(pictures, truth)
            seen += len(pictures)
            if self.context.report_due() or step in (1, self.steps):
                loss, speed = float(total) / step, seen / (time.monotonic() - began)
                self.context.report(
                    "train", epoch=epoch, step=step, total_steps=self.steps, loss=loss, pictures_per_second=speed
                )
                self.context.stop_if_asked()
                if self._time_is_up():
                    break
        self.context.stop_if_asked()
        self.epoch = epoch
        return loss, speed

    def validate(self, loss: float, speed: float) -> None:
        """Measure the averaged weights, report them with the epoch's loss and speed, and keep the best."""
        began = time.monotonic()
        scores = self.context.score(self.detections())
        if scores["score"] > self.best_score:
            self.best_score, self.best_epoch = scores["score"], self.epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self._average.state_dict().items()}
        self._validation_seconds = time.monotonic() - began
        self.context.report(
            "train",
            epoch=self.epoch,
            step=self.steps,
            total_steps=self.steps,
            message=f"epoch {self.epoch}: mAP50 {scores['map50']:.1%} of the validation pictures",
            validation_map50=scores["map50"],
            validation_map=scores["map"],
            validation_score=scores["score"],
            loss=loss,
            pictures_per_second=speed,
        )

    def detections(self) -> list[Detection]:
        """Return what the averaged weights find in the validation pictures, in their order."""
        return detect(self._average, self._pictures, self.context.data.validation, self.context.device)

    def _time_is_up(self) -> bool:
        """Say whether no time is left beyond what a last look at the validation pictures takes."""
        return self.context.seconds_left() <= self._validation_seconds

    def _rate(self) -> float:
        """Return the learning rate as a part of the highest: a short warm-up, then half a cosine down to the end.

        The end is that of the epochs or that of the budget, whichever comes first (Li et al., "Budgeted Training",
        2020). The clock counts only when it is ahead: where there is time enough, the rate depends on the steps alone.
        """
        place = self._steps_done / (self.steps * self.epochs)
        if not math.isinf(self._seconds):
            place = max(place, 1 - (self.context.seconds_left() - self._validation_seconds) / self._seconds)
        falling = (1 + math.cos(math.pi * min(1.0, place))) / 2
        return min(1.0, (self._steps_done + 1) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * falling)


def boxes_by_picture(data: Any) -> list[Truth]:
    """Return for every picture its boxes, float32 [G, 4] in 0..1, and their classes, int64 [G]."""
    regions, pictures = data.regions, np.arange(len(data))
    first, end = (np.searchsorted(regions.pictures, pictures, side) for side in ("left", "right"))
    boxes, classes = torch.from_numpy(np.array(regions.boxes)), torch.from_numpy(np.array(regions.classes))
    return [(boxes[start:stop], classes[start:stop]) for start, stop in zip(first, end, strict=True)]


def _groups(network: Detector) -> list[dict[str, Any]]:
    """Return what learns, in groups: the trunk at a lower rate, and what is no filter without decay."""
    groups = []
    for in_trunk, rate in ((True, TRUNK_RATE), (False, 1.0)):
        own = [
            value
            for key, value in network.named_parameters()
            if value.requires_grad and key.startswith("trunk.") == in_trunk
        ]
        for decays in (True, False):
            groups.append(
                {
                    "params": [value for value in own if (value.ndim > 1) == decays],
                    "weight_decay": WEIGHT_DECAY if decays else 0.0,
                    "part": rate,
                }
            )
    return groups


def _floats(network: nn.Module) -> list[torch.Tensor]:
    """Return the weights that learn, and the statistics."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]
