"""Storage as one attempt sees it: with its token, for its project only."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from loupe.tasks.average_precision import Regions

FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What a file that an attempt makes may be called."""


@dataclass(frozen=True)
class LabelledDataset:
    """A data set version with every label and annotation, those of the test pictures included.

    labels: all class names, of pictures and of regions. classes: int32 [N], -1 for a picture that has none as a whole.
    splits: uint8 [N], loupe.algorithm's `Split`. digests: sha256 in hex of each picture's file. regions: the box around
    each annotation, in parts of the upright picture. looked_at: bool [N], whether somebody annotated the picture or
    said that nothing is there. sizes: int32 [N, 2], width and height of the upright picture in pixels; 0 where storage
    does not know them.
    """

    name: str
    labels: Sequence[str]
    classes: np.ndarray
    splits: np.ndarray
    digests: Sequence[str]
    regions: Regions
    looked_at: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class LocalFile:
    """A file to be stored, which nobody changes any more.

    filename: its name in storage. path: where it lies. digest: its sha256 in hex. size: in bytes.
    """

    filename: str
    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class StoredFile:
    """A file that storage holds: its name, its sha256 in hex, its size in bytes."""

    filename: str
    digest: str
    size: int


class PictureSource(Protocol):
    """Gives picture files."""

    def fetch(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (digest, file) for each digest, in any order; not checked. Raises LoupeError."""


class AttemptStorage(PictureSource, Protocol):
    """Storage as one attempt sees it. All methods raise LoupeErrors."""

    async def dataset(self, version: str) -> LabelledDataset:
        """Return a data set version by its name."""

    async def image(self, version: str) -> bytes:
        """Return the packed image of an algorithm version by its name; not checked."""

    async def file(self, digest: str, target: Path) -> None:
        """Write an uploaded file to `target`, checked against its digest."""

    async def save_checkpoint(self, files: Sequence[LocalFile]) -> None:
        """Keep the one last checkpoint of the attempt's job; return when it is durable. Raises StaleAttempt."""

    async def load_checkpoint(self, folder: Path) -> str:
        """Fill the folder, which is not there yet, and return the job that wrote the checkpoint.

        Empty, and no folder, when there is none.
        """

    async def save_artifacts(self, files: Sequence[LocalFile]) -> tuple[StoredFile, ...]:
        """Keep what the attempt made; return when all of it is durable."""


class Storage(Protocol):
    """Storage before anybody said who asks."""

    def of(self, job: str, attempt: int, token: Callable[[], str]) -> AttemptStorage:
        """Return storage for an attempt of a job. token: the one that the attempt has when it calls."""
