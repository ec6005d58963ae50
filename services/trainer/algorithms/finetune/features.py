"""What a frozen backbone makes of every training and validation picture, computed once per picture size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from loupe.algorithm import Context
from loupe.algorithm.export import PictureNetwork, Preprocessing, export_onnx
from loupe.algorithm.onnx_model import answering, with_size

from .backbones import Backbone
from .pace import Pace

BATCH = 32
SAVE_SECONDS = 15.0

FeatureFunction = Callable[[np.ndarray], np.ndarray]


class FrozenTrunk:
    """Computes a backbone's features of pictures; on a CPU by onnxruntime, about thrice as fast as torch there.

    The export is needed for the model package anyway. It is made once and used for every size at which it gives
    the same features as torch. paces: what features cost, by size, where there were enough pictures to tell.
    """

    def __init__(self, context: Context, backbone: Backbone) -> None:
        self._context, self._backbone = context, backbone
        self._exports: dict[int, Any] = {}
        self.paces: dict[int, Pace] = {}

    def by_torch(self, size: int) -> FeatureFunction:
        """Return the yardstick: a function from uint8 [B, size, size, 3] to float32 [B, D] that computes by torch."""
        device = self._context.device
        network = PictureNetwork(self._backbone.trunk, self._preprocessing(size)).to(device).eval()

        def run(pictures: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                features: torch.Tensor = network(torch.from_numpy(pictures).to(device))
                return features.float().cpu().numpy()

        return run

    def fastest(self, size: int, pictures: np.ndarray, expected: np.ndarray) -> FeatureFunction:
        """Return the quickest function that gives the expected features, float32 [B, D], for the pictures."""
        if self._context.device.type != "cpu":
            return self.by_torch(size)
        for model in self._candidates(size):
            if (run := answering(model, pictures, expected, self._context.threads)) is not None:
                self._exports[size] = model
                return run
        self._context.log(f"the export of {self._backbone.name} gives other features at {size} px; going on with torch")
        return self.by_torch(size)

    def exported(self, size: int) -> Any:
        """Return the onnx.ModelProto from pictures to features at a size; None where torch computed them."""
        return self._exports.get(size)

    def _candidates(self, size: int) -> Iterator[Any]:
        """Yield what may be the ONNX model at a size: the exports of other sizes, then one of its own."""
        for known in self._exports.values():
            yield with_size(known, size, size)
        self._context.report("features", message=f"{self._backbone.name} is compiled for this machine, once")
        yield export_onnx(self._backbone.trunk, self._preprocessing(size), "features")

    def _preprocessing(self, size: int) -> Preprocessing:
        return Preprocessing(size, size, self._backbone.mean, self._backbone.std)


def compute_features(
    context: Context,
    trunk: FrozenTrunk,
    size: int,
    rows: np.ndarray,
    *,
    partial: torch.Tensor | None,
    keep: Callable[[Mapping[str, Any]], None],
) -> torch.Tensor:
    """Return the features of some pictures, float32 [len(rows), D], and report their progress.

    rows: int64 indices into the data set. partial: the first rows' features from an earlier attempt. keep: stores
    {"size", "matrix"}, what is there so far, about every SAVE_SECONDS.
    The first batch goes through torch, whatever comes after: it is there at once, and it is the yardstick.
    Raises Stopped.
    """
    opened = time.monotonic()
    pictures = context.data.images(size)
    opening = time.monotonic() - opened
    total = -(-len(rows) // BATCH)
    first = np.ascontiguousarray(pictures[rows[:BATCH]])
    expected = trunk.by_torch(size)(first)
    parts = [expected if partial is None else partial.numpy()]
    if partial is None:
        context.report("features", step=1, total_steps=total, message=f"{len(rows)} pictures at {size} px")
    run = trunk.fastest(size, first, expected)
    done = before = len(parts[0])
    began = saved = time.monotonic()
    while done < len(rows):
        parts.append(run(np.ascontiguousarray(pictures[rows[done : done + BATCH]])))
        done += len(parts[-1])
        now = time.monotonic()
        if context.report_due() or done == len(rows):
            rate = (done - before) / max(now - began, 1e-9)
            context.report("features", step=-(-done // BATCH), total_steps=total, pictures_per_second=rate)
            context.stop_if_asked()
        if now - saved >= SAVE_SECONDS:
            keep({"size": size, "matrix": np.concatenate(parts)})
            saved = time.monotonic()
    if done > before:
        now = time.monotonic()
        trunk.paces[size] = Pace(opening, (now - began) / (done - before), now - opened)
    return torch.from_numpy(np.concatenate(parts))
