"""The pictures that a run learns from, split, with what is known of them."""

from __future__ import annotations

import numpy as np

from loupe.algorithm.host import DatasetIndex, Host, Split
from loupe.letterbox import Fit


class UnusableData(ValueError):
    """Says why nothing can be learned from a data set version, and what it lacks."""


class Dataset:
    """The N pictures of a run, split into train, validation and test; those that nobody looked at are unlabelled.

    name: the data set's, for people. labels: C class names, in the order of the model's outputs.
    classes: int64 [N], indices into labels; -1 for pictures that have none as a whole, and for every test picture,
    whose label is withheld. regions: what is annotated, boxes in parts of the square that `letterboxed` gives, 0..1; a
    polygon counts as the box around it; those of test pictures are withheld. Where the task is about pictures as a
    whole there are none, and where it is about regions there are no classes.
    digests: sha256 of each picture's file, hex. train, validation, test, unlabelled: int64 indices into the N pictures.
    """

    def __init__(self, index: DatasetIndex, host: Host) -> None:
        self._host = host
        self._opened: dict[tuple[int, Fit], np.ndarray] = {}
        self.name = index.name
        self.labels = tuple(index.labels)
        self.digests = index.digests
        self.classes = np.asarray(index.classes, dtype=np.int64)
        self.regions = index.regions
        splits = np.asarray(index.splits)
        self.train = np.flatnonzero(splits == Split.TRAIN)
        self.validation = np.flatnonzero(splits == Split.VALIDATION)
        self.test = np.flatnonzero(splits == Split.TEST)
        self.unlabelled = np.flatnonzero(splits == Split.UNLABELLED)

    def __len__(self) -> int:
        return len(self.classes)

    def class_counts(self, split: Split = Split.TRAIN) -> np.ndarray:
        """Return int64 [C]: how many pictures each class has in train or validation."""
        return np.bincount(self.classes[self._of(split)], minlength=len(self.labels))

    def region_counts(self, split: Split = Split.TRAIN) -> np.ndarray:
        """Return int64 [C]: how many regions each class has in train or validation."""
        return np.bincount(self.regions.of(self._of(split)).classes, minlength=len(self.labels))

    def images(self, size: int) -> np.ndarray:
        """Return all N pictures stretched to a square, uint8 [N, size, size, 3], RGB.

        They are read-only, and mapped from a file, not loaded.
        """
        return self._open(size, "stretch")

    def letterboxed(self, size: int) -> np.ndarray:
        """Return all N pictures, uint8 [N, size, size, 3], RGB, each in its own shape.

        A picture is scaled to fit into the square and lies at its top left; the rest is grey, 114. They are read-only,
        and mapped from a file, not loaded.
        """
        return self._open(size, "letterbox")

    def _open(self, size: int, fit: Fit) -> np.ndarray:
        if (size, fit) not in self._opened:
            self._opened[size, fit] = np.load(self._host.pictures(size, size, fit), mmap_mode="r")
        return self._opened[size, fit]

    def _of(self, split: Split) -> np.ndarray:
        return {Split.TRAIN: self.train, Split.VALIDATION: self.validation}[split]
