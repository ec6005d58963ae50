"""The ladder: which way to train is tried next, what the best model so far is, and when to stop."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.algorithm import Context, Outcome, TrainingPlan, fit
from loupe.algorithm.evaluation import OutOfSample
from loupe.algorithm.export import Preprocessing
from loupe.algorithm.onnx_model import append_linear
from loupe.algorithm.plan import class_weights
from loupe.tasks.classification import ACCURACY

from .backbones import Backbone, HeadedNetwork, MultiLevel, early_blocks
from .cached import CachedRows, cached_rows
from .features import BATCH, FrozenTrunk, compute_features
from .forecast import Forecast, learning_curve, measure
from .head import DECAYS, Table, cross_validated, fit_head
from .pace import Step, seconds_of_head, seconds_of_tuning
from .prefix import split
from .trial import candidates, choose_augmentation, sample

SIZES = (64, 128, 224)
RANDOM_SIZE = 96
LARGE = 224
LARGE_PICTURES = 20_000
EPOCHS = {"blocks": 12, "full": 25}
RANDOM_EPOCHS = 60
TRUNK_RATE = 0.8
HEAD_FEATURES = 160
AVERAGE = 0.98
LOOKS = 4
MIXUP = 0.2
BLENDS = (0.25, 0.5, 0.75)
_PARTS = {"blocks": "last blocks", "full": "whole network"}


@dataclass(frozen=True)
class Stage:
    """One way to train: the head on frozen features, or fine-tuning the last blocks or everything.

    depth: "head", "blocks" or "full". size: side of the pictures in pixels.
    """

    depth: str
    size: int


class Ladder:
    """Climbs from stage to stage and finishes the run with the best model found.

    Fine-tuning starts from the fitted head, as Kumar et al. do in "Fine-Tuning can Distort Pretrained Features and
    Underperform Out-of-Distribution", 2022.
    The first stage is always done, whatever the budget: without it there is no model. All that later stages and a
    resumed run depend on is in `_state`, so the result depends on the seed and not on when a run was cut off.
    """

    def __init__(self, context: Context, backbone: Backbone) -> None:
        self._context, self._backbone = context, backbone
        self._trunk = FrozenTrunk(context, backbone)
        data = context.data
        self._rows = np.sort(np.concatenate([data.train, data.validation]))
        self._state: dict[str, Any] = {"done": [], "best": None, "epochs": 0, "decays": {}, "tuning": {}}
        self._cut_off = False
        # What asks for every class gets every class counted the same.
        self._balance = 0.5 if context.objective.metric == ACCURACY else 1.0

    def climb(self) -> None:
        """Train stage by stage until one reaches the target or none is left, then finish the run. Raises Stopped."""
        restored = self._context.restore()
        if restored is not None:
            self._state = restored["ladder"]
        outcome = self._target_reached()
        while outcome is None:
            stage = self._next()
            if stage is None:
                outcome = Outcome.BUDGET if self._cut_off else Outcome.PLATEAU
            elif self._state["done"] and self._context.out_of_budget():
                outcome = Outcome.BUDGET
            else:
                self._train(stage, restored or {})
                restored = None
                outcome = self._target_reached()
        self._finish(outcome)

    def _target_reached(self) -> Outcome | None:
        best = self._state["best"]
        return Outcome.TARGET_REACHED if best and self._context.reaches_target(best["score"]) else None

    def _next(self) -> Stage | None:
        """Return the stage after those done, or None at the top."""
        done = {(each["depth"], each["size"]) for each in self._state["done"]}
        for stage in self._stages():
            if (stage.depth, stage.size) not in done and self._is_worthwhile(stage):
                return stage
        return None

    def _stages(self) -> list[Stage]:
        chosen = self._backbone.fixed_size or self._context.parameters["size"]
        if not self._backbone.pretrained:
            # Features of random weights are no start; go straight for training everything.
            return [Stage("full", chosen or RANDOM_SIZE)]
        sizes = [chosen] if chosen else list(SIZES)
        depths = {"head": (), "blocks": ("blocks",), "full": ("blocks", "full")}[self._context.parameters["depth"]]
        tuned = [Stage(depth, self._tuning_size(sizes)) for depth in depths]
        return [Stage("head", size) for size in sizes] + tuned

    def _scores(self) -> dict[int, float]:
        return {each["size"]: each["score"] for each in self._state["done"] if each["depth"] == "head"}

    def _tuning_size(self, sizes: list[int]) -> int:
        """Return the size where the head did best; LARGE must be clearly better, as an epoch there is slow."""
        scores = self._scores()
        return max(scores or sizes, key=lambda size: (scores.get(size, 0.0) - (0.005 if size >= LARGE else 0.0), -size))

    def _is_worthwhile(self, stage: Stage) -> bool:
        """Say whether a stage may help: LARGE does not for very many pictures, nor where more pixels did not."""
        if stage.depth != "head" or stage.size < LARGE or self._context.parameters["size"] or self._backbone.fixed_size:
            return True
        scores = self._scores()
        return len(self._context.data) <= LARGE_PICTURES and scores.get(128, 1.0) > scores.get(64, 0.0)

    def _train(self, stage: Stage, restored: Mapping[str, Any]) -> None:
        began = self._context.elapsed
        self._cut_off = False
        if stage.depth == "head":
            accuracy, score = self._train_head(stage, restored.get("features"))
        else:
            accuracy, score = self._fine_tune(stage, restored.get("fit"))
        self._state["done"].append({"depth": stage.depth, "size": stage.size, "accuracy": accuracy, "score": score})
        if stage.depth == "head" and self._target_reached() is None:
            self._tell_forecast(stage, self._context.elapsed - began)
        if not self._cut_off:  # a job with another budget does the rest of the stage
            self._checkpoint()

    def _tell_forecast(self, stage: Stage, spent: float) -> None:
        """Say once after each head what the target still needs: pictures, pixels, time. spent: seconds of the stage."""
        step: Step | None = None
        if (following := self._next()) is not None:
            step = Step(following.depth, following.size, self._seconds_of(following, stage, spent))
            self._state.setdefault("steps", []).append(vars(step))
        if message := self._forecast().message(self._scores(), step, self._context.seconds_left()):
            self._context.report("forecast", message=message)

    def _seconds_of(self, following: Stage, last: Stage, spent: float) -> float | None:
        """Return about how long a stage will take, None where nothing was measured. spent: seconds of the last one."""
        if (pace := self._trunk.paces.get(last.size)) is None:
            return None
        pixels = (following.size / last.size) ** 2
        if following.depth == "head":
            return seconds_of_head(pace, len(self._rows), pixels, max(0.0, spent - pace.whole))
        epochs = min(self._epochs(following.depth))
        return seconds_of_tuning(pace, following.depth, len(self._context.data.train), pixels, epochs)

    def _epochs(self, depth: str) -> tuple[int, int]:
        """Return how many epochs fine-tuning at a depth is given, and how many of them the budget leaves."""
        context = self._context
        wanted = context.parameters["epochs"] or (EPOCHS[depth] if self._backbone.pretrained else RANDOM_EPOCHS)
        return wanted, wanted if context.max_epochs is None else context.max_epochs - self._state["epochs"]

    def _forecast(self) -> Forecast:
        context, best = self._context, self._state["best"]
        curve = self._state.get("curve")
        return Forecast(curve, context.objective, best["score"], context.data.labels)

    def _checkpoint(self, **unfinished: Any) -> None:
        self._context.checkpoint({"ladder": self._state, **unfinished})

    def _keep_if_best(self, stage: Stage, accuracy: float, score: float, **weights: Any) -> None:
        best = self._state["best"]
        if best is None or (score, accuracy) > (best["score"], best["accuracy"]):
            kept = {"depth": stage.depth, "size": stage.size, "accuracy": accuracy, "score": score}
            self._state["best"] = kept | weights

    def _train_head(self, stage: Stage, unfinished: Mapping[str, Any] | None) -> tuple[float, float]:
        context = self._context
        partial = unfinished["matrix"] if unfinished and unfinished["size"] == stage.size else None
        matrix = compute_features(
            context,
            self._trunk,
            stage.size,
            self._rows,
            partial=partial,
            keep=lambda state: self._checkpoint(features=state),
        )
        table, trained, validated = self._table(matrix)
        head = fit_head(table.rows(trained), table.rows(validated), context.seed, context.scorer)
        probabilities = torch.from_numpy(cross_validated(table, head.decay, context.seed))
        context.report_round(
            "head",
            f"linear head at {stage.size} px",
            accuracy=head.accuracy,
            score=head.score,
            epoch=len(self._state["done"]) + 1,
        )
        weights = {"weight": head.weight, "bias": head.bias, "out_of_sample": probabilities}
        self._keep_if_best(stage, head.accuracy, head.score, **weights)
        self._state["decays"][str(stage.size)] = head.decay
        if "curve" not in self._state and not context.reaches_target(head.score):
            measured = measure(table.rows(trained), table.rows(validated), head, context.seed)
            self._state["curve"] = measured and learning_curve(measured, context.scorer, context.seed)
        return head.accuracy, head.score

    def _table(self, matrix: torch.Tensor) -> tuple[Table, np.ndarray, np.ndarray]:
        """Return the features with their classes, and which rows are for training and which for validation."""
        data, rows = self._context.data, self._rows
        table = Table(matrix, torch.from_numpy(data.classes[rows]), class_weights(data.class_counts(), self._balance))
        return table, np.searchsorted(rows, data.train), np.searchsorted(rows, data.validation)

    def _fine_tune(self, stage: Stage, unfinished: Mapping[str, Any] | None) -> tuple[float, float]:
        context, parameters = self._context, self._context.parameters
        random = not self._backbone.pretrained
        wanted, left = self._epochs(stage.depth)
        if left <= 0:
            self._cut_off = True
            return 0.0, 0.0
        changes = self._augmentation(stage.size)
        network = self._network()
        trained, inputs = (network, None) if stage.depth == "full" else self._later_blocks(network, stage.size, changes)
        if context.out_of_budget() and self._state["best"]:
            self._cut_off = True
            return 0.0, 0.0  # what the early blocks see took all the time that there was
        plan = TrainingPlan(
            size=stage.size,
            epochs=min(wanted, left),
            batch_size=parameters["batch_size"],
            learning_rate=parameters["learning_rate"] * (4 if random else 1),
            augmentation=candidates(parameters["flips"])[changes],
            balance=self._balance,
            patience=max(5, wanted // 3),
            mean=self._backbone.mean,
            std=self._backbone.std,
            **({} if random else self._gentle(network)),
        )
        context.report(
            "finetune", message=f"fine-tuning the {_PARTS[stage.depth]} at {stage.size} px, augmentation: {changes}"
        )
        fitted = fit(
            context,
            trained,
            plan,
            phase="finetune",
            inputs=inputs,
            keep=lambda state: self._checkpoint(fit=state),
            resume=unfinished,
        )
        self._cut_off = fitted.outcome is Outcome.BUDGET or fitted.epochs >= left < wanted
        self._state["epochs"] += fitted.epochs
        # The later blocks alone have the names that they have in the whole.
        network.load_state_dict(trained.state_dict(), strict=trained is network)
        self._keep_if_best(stage, fitted.accuracy, fitted.score, network=network.state_dict())
        if fitted.left:
            context.log(f"fine-tuning the {_PARTS[stage.depth]} made the model worse and was left; the best one stays")
        return fitted.accuracy, fitted.score

    def _later_blocks(self, network: HeadedNetwork, size: int, changes: str) -> tuple[HeadedNetwork, CachedRows | None]:
        """Return what is trained of a network when its early blocks stay, and its inputs, None for pictures.

        On a CPU what the early blocks make of the pictures is computed once, where the network can be cut in two.
        """
        context, backbone, trunk = self._context, self._backbone, network.trunk
        assert isinstance(trunk, MultiLevel)
        for name in early_blocks(trunk.trunk):
            trunk.trunk.get_submodule(name).requires_grad_(False)
        some = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        if context.device.type != "cpu" or (parts := split(trunk, some)) is None:
            return network, None
        prefix, rest = parts
        context.report("prefix", message=f"what the early blocks see at {size} px is computed once")
        way = candidates(context.parameters["flips"])[changes]
        inputs = cached_rows(context, prefix, Preprocessing(size, size, backbone.mean, backbone.std), way)
        return (network, None) if inputs is None else (HeadedNetwork(rest, network.head), inputs)

    def _gentle(self, network: HeadedNetwork) -> dict[str, Any]:
        """Return what keeps fine-tuning from unlearning what the backbone knows and the head has learned.

        Statistics of small batches, large steps in the trunk and single steps' noise are what harms it; and Adam's
        first steps move every weight alike, so that a logit moves by their sum: more features take smaller steps.
        """
        return {
            "batch_norm": "freeze",
            "rates": {"trunk.": TRUNK_RATE, "head.": min(1.0, HEAD_FEATURES / network.head.in_features)},
            "average": AVERAGE,
            "looks": LOOKS,
            "mixup": MIXUP,
            "blends": BLENDS,
            "floor": self._state["best"]["accuracy"] if self._state["best"] else 0.0,
        }

    def _augmentation(self, size: int) -> str:
        """Return which changes to the training pictures are made at a size; tried out once, unless it was asked for."""
        asked: str = self._context.parameters["augmentation"]
        if asked != "auto" or not self._backbone.pretrained:
            return "full" if asked == "auto" else asked
        tuning = self._state["tuning"]
        if str(size) not in tuning:
            self._context.report("trial", message=f"which changes do the pictures bear at {size} px?")
            data, seed = self._context.data, self._context.seed
            pictures = data.images(size)
            train, validation = sample(data.train, seed), sample(data.validation, seed)
            first = np.ascontiguousarray(pictures[train[:BATCH]])
            chosen, losses = choose_augmentation(
                candidates(self._context.parameters["flips"]),
                self._trunk.fastest(size, first, self._trunk.by_torch(size)(first)),
                train=(pictures[train], torch.from_numpy(data.classes[train]).long()),
                validation=(pictures[validation], torch.from_numpy(data.classes[validation]).long()),
                weights=class_weights(data.class_counts(), self._balance),
                decay=self._state["decays"].get(str(size), DECAYS[0]),
                seed=seed,
            )
            tuning[str(size)] = {"augmentation": chosen, "losses": losses}
            shown = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            self._context.report("trial", message=f"augmentation: {chosen} (loss on validation: {shown})")
            self._checkpoint()
        choice: str = tuning[str(size)]["augmentation"]
        return choice

    def _network(self) -> HeadedNetwork:
        """Return a new network with the best weights so far, all of them trainable."""
        best, classes = self._state["best"], len(self._context.data.labels)
        trunk = copy.deepcopy(self._backbone.trunk).requires_grad_(True)
        if best is None:
            torch.manual_seed(self._context.seed)
            with torch.inference_mode():
                width = trunk.eval()(torch.zeros(1, 3, *[self._stages()[0].size] * 2)).shape[1]
            return HeadedNetwork(trunk, nn.Linear(width, classes))
        head = best["network"]["head.weight"] if "network" in best else best["weight"]
        network = HeadedNetwork(trunk, nn.Linear(head.shape[1], classes))
        if "network" in best:
            network.load_state_dict(best["network"])
        else:
            network.head.load_state_dict({"weight": best["weight"], "bias": best["bias"]})
        return network

    def _finish(self, outcome: Outcome) -> None:
        context, best = self._context, self._state["best"]
        size, onnx_logits, sample = best["size"], None, None
        if "weight" in best:
            sample = OutOfSample(self._rows, best["out_of_sample"].numpy())
            if (exported := self._trunk.exported(size)) is not None:
                onnx_logits = append_linear(exported, best["weight"].numpy(), best["bias"].numpy())
        way = "a linear head on frozen features" if best["depth"] == "head" else f"fine-tuned {_PARTS[best['depth']]}"
        context.finish(
            self._network().eval(),
            size=size,
            mean=self._backbone.mean,
            std=self._backbone.std,
            architecture=f"{self._backbone.name} + linear",
            outcome=outcome,
            out_of_sample=sample,
            onnx_logits=onnx_logits,
            notes={
                "backbone": self._backbone.name,
                "weights": self._backbone.weights,
                "way": f"{way} at {size} px",
                "rungs": self._state["done"],
                "augmentation": self._state["tuning"],
                "forecast": None if self._target_reached() else self._forecast().notes(self._state.get("steps", [])),
            },
        )
