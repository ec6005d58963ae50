"""The labelled pictures that a run learns from, split, and checked for being enough to learn from."""

from __future__ import annotations

import numpy as np

from loupe.algorithm.host import DatasetIndex, Host, Split


class UnusableData(ValueError):
    """Says why nothing can be learned from a data set version, and what it lacks."""


class Dataset:
    """The labelled pictures of a run, split into train, validation and test. Raises UnusableData.

    name: the data set's, for people. labels: C class names, in the order of the model's outputs.
    classes: int64 [N], indices into labels; -1 for every test picture, whose label is withheld.
    digests: sha256 of each picture's file, hex. train, validation, test: int64 indices into the N pictures.
    """

    def __init__(self, index: DatasetIndex, host: Host) -> None:
        self._host = host
        self._opened: dict[int, np.ndarray] = {}
        self.name = index.name
        self.labels = tuple(index.labels)
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
        """Return all N pictures, uint8 [N, size, size, 3], RGB, read-only; mapped from a file, not loaded."""
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
