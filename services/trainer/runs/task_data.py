"""A data set version as one task sees it: its classes, its splits, its regions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loupe.algorithm.host import Split
from loupe.letterbox import to_square
from loupe.tasks.average_precision import Regions
from loupe.tasks.task import Task
from services.trainer.clients.storage import LabelledDataset

NO_CLASS = -1


@dataclass(frozen=True)
class TaskData:
    """The N pictures of a version with all that a task is about, what is withheld from runs included.

    labels: the C classes that there are, in the order of the model's outputs. classes: int32 [N], NO_CLASS for none.
    splits: uint8 [N], loupe.algorithm's `Split`. digests: sha256 in hex of each picture's file. regions: boxes in parts
    of the square that pictures are letterboxed into; None where the task is about pictures as a whole.
    """

    name: str
    labels: Sequence[str]
    classes: np.ndarray
    splits: np.ndarray
    digests: Sequence[str]
    regions: Regions | None = None

    @property
    def test(self) -> np.ndarray:
        """int64 [T], the test pictures."""
        return np.flatnonzero(self.splits == Split.TEST)


Sizes = Callable[[Sequence[str]], Awaitable[np.ndarray]]
"""Returns int64 [K, 2], width and height of pictures by their digests."""


async def seen_by(task: Task, dataset: LabelledDataset, sizes: Sizes) -> TaskData:
    """Return what a task is about in a version. sizes: where storage does not know a picture's size."""
    return await _regions(dataset, sizes) if task.regions else _classes(dataset)


def _classes(dataset: LabelledDataset) -> TaskData:
    """Return the pictures' classes; those without one are unlabelled, whatever is annotated in them."""
    labelled = dataset.classes >= 0
    labels, classes = _used(dataset.labels, dataset.classes[labelled])
    numbers = np.full(len(labelled), NO_CLASS, np.int32)
    numbers[labelled] = classes
    splits = np.where(labelled, dataset.splits, Split.UNLABELLED).astype(np.uint8)
    return TaskData(dataset.name, labels, numbers, splits, dataset.digests)


async def _regions(dataset: LabelledDataset, sizes: Sizes) -> TaskData:
    """Return the annotated regions; pictures that nobody looked at for these are unlabelled, also with a class."""
    regions = dataset.regions
    labels, classes = _used(dataset.labels, regions.classes)
    square = to_square(regions.boxes.astype(np.float64), (await _all_sizes(dataset, sizes))[regions.pictures])
    splits = np.where(dataset.looked_at, dataset.splits, Split.UNLABELLED).astype(np.uint8)
    return TaskData(
        dataset.name,
        labels,
        np.full(len(splits), NO_CLASS, np.int32),
        splits,
        dataset.digests,
        Regions(regions.pictures, classes, square.astype(np.float32)),
    )


async def _all_sizes(dataset: LabelledDataset, sizes: Sizes) -> np.ndarray:
    """Return int64 [N, 2], the pictures' width and height; 1 where nothing is annotated and storage knows none."""
    known = np.maximum(dataset.sizes.astype(np.int64), 1)
    annotated = np.zeros(len(known), bool)
    annotated[dataset.regions.pictures] = True
    missing = np.flatnonzero(annotated & (dataset.sizes <= 0).any(axis=1))
    if len(missing):
        known[missing] = await sizes([dataset.digests[row] for row in missing.tolist()])
    return known


def _used(labels: Sequence[str], classes: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the labels of these classes, and the classes by their places among them."""
    there, places = np.unique(classes, return_inverse=True)
    return [labels[number] for number in there.tolist()], places
