"""What a frozen prefix makes of the pictures, computed once, as they are and in changed views, to train the rest on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from loupe.algorithm import Context
from loupe.algorithm.augmentation import Augmentation, augment_pixels
from loupe.algorithm.export import PictureNetwork, Preprocessing, export_onnx
from loupe.algorithm.onnx_model import answering, batched

from .features import BATCH

VIEWS = 4
CACHE_BYTES = 600 << 20
"""What all views together may take; they are kept in half precision."""

HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class View:
    """A prefix's rows of some pictures, float16 [N, K]; pictures are indices into the data set, int64 [N], sorted."""

    pictures: np.ndarray
    rows: np.ndarray

    def of(self, pictures: np.ndarray) -> np.ndarray:
        """Return the rows of some of the pictures, in their order."""
        rows: np.ndarray = self.rows[np.searchsorted(self.pictures, pictures)]
        return rows


class CachedRows:
    """Rows as a training's inputs: those to learn from are drawn from all views, those to measure by are plain.

    plain: rows of the training and validation pictures as they are. changed: of the training pictures.
    """

    def __init__(self, plain: View, changed: Sequence[View]) -> None:
        self._plain, self._views = plain, [plain, *changed]

    @property
    def shape(self) -> Sequence[int]:
        return self._plain.rows.shape[1:]

    def training(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.randint(len(self._views), (len(rows),), generator=generator).numpy()
        chosen = np.empty((len(rows), *self.shape), np.float32)
        for number in np.unique(drawn):
            chosen[drawn == number] = self._views[number].of(rows[drawn == number])
        return torch.from_numpy(chosen)

    def judging(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._plain.of(rows).astype(np.float32))


def room_for(width: int, pictures: int, training: int) -> int:
    """Return how many changed views, at most VIEWS, fit into CACHE_BYTES beside the plain one; -1 where that does not.

    width: of a row. training: how many of the pictures are to learn from, and have changed views.

    >>> room_for(20_000, 1_000, 800), room_for(20_000, 10_000, 8_000), room_for(20_000, 10**6, 10**6)
    (4, 0, -1)
    """
    left = CACHE_BYTES // (2 * width) - pictures
    return -1 if left < 0 else min(VIEWS, left // max(1, training))


def cached_rows(
    context: Context, prefix: nn.Module, preprocessing: Preprocessing, augmentation: Augmentation | None
) -> CachedRows | None:
    """Compute the rows of the training and validation pictures, in as many views as there is room and time for.

    prefix: normalised pictures [B, 3, H, W] to [B, K]. Changes are drawn by the seed. None where there is neither room
    nor time for the plain view, half precision has not the range, or onnxruntime answers otherwise than torch. Raises
    Stopped.
    """
    data = context.data
    known, learning = np.sort(np.concatenate([data.train, data.validation])), np.sort(data.train)
    first = np.ascontiguousarray(data.images(preprocessing.height)[known[:BATCH]])
    with torch.inference_mode():
        expected = PictureNetwork(prefix, preprocessing).eval()(torch.from_numpy(first)).numpy()
    run = answering(export_onnx(prefix, preprocessing, "rows"), first, expected, context.threads)
    room = room_for(expected.shape[1], len(known), len(learning))
    if run is None or room < 0 or np.abs(expected).max() > HALF / 8:
        return None
    parts = [known] + [learning] * (room if augmentation else 0)
    total, done = sum(len(batched(part, BATCH)) for part in parts), 0
    began = time.monotonic()
    views: list[View] = []
    for number, part in enumerate(parts):
        generator = torch.Generator().manual_seed(context.seed * 1_000_003 + number)
        made: list[np.ndarray] = []
        for batch in batched(part, BATCH):
            pixels = np.ascontiguousarray(data.images(preprocessing.height)[batch])
            if number and augmentation:
                pixels = augment_pixels(pixels, augmentation, generator)
            made.append(run(pixels).clip(-HALF, HALF).astype(np.float16))
            done += 1
            if context.report_due():
                rate = done * BATCH / (time.monotonic() - began)
                context.report("prefix", step=done, total_steps=total, pictures_per_second=rate)
                context.stop_if_asked()
                if context.out_of_budget():
                    return CachedRows(views[0], views[1:]) if views else None
        views.append(View(part, np.concatenate(made)))
    return CachedRows(views[0], views[1:])
