"""What the trainer needs from storage, as one attempt sees it: with its token, for its project only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from services.trainer.attempts.events import StoredFile
from services.trainer.attempts.spec import AttemptSpec
from services.trainer.runs.work_folder import CollectedFile


@dataclass(frozen=True)
class LabelledDataset:
    """A data set version with every label, those of the test pictures included.

    labels: class names, in the order of the model's outputs. classes: int32 [N]. splits: uint8 [N], loupe.algorithm's
    `Split`. digests: sha256 in hex of each picture's file.
    """

    name: str
    labels: Sequence[str]
    classes: np.ndarray
    splits: np.ndarray
    digests: Sequence[str]


class PictureSource(Protocol):
    """Gives picture files."""

    def fetch(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (digest, file) for each digest, in any order; not checked. Raises LoupeError."""


class ImageSource(Protocol):
    """Gives the attempt's algorithm image."""

    async def image(self) -> bytes:
        """Return the packed image; not checked. Raises LoupeError."""


class CheckpointStore(Protocol):
    """Keeps the attempt's job's one last checkpoint."""

    async def save_checkpoint(self, files: Sequence[CollectedFile]) -> None:
        """Return when the checkpoint is durable. Raises StaleAttempt and other LoupeErrors."""

    async def load_checkpoint(self, folder: Path) -> bool:
        """Fill the folder, which is not there yet; False, and no folder, when there is none."""


class ArtifactStore(Protocol):
    """Keeps what an attempt made."""

    async def save_artifacts(self, files: Sequence[CollectedFile]) -> tuple[StoredFile, ...]:
        """Return when all files are durable. Raises LoupeError."""


class AttemptStorage(PictureSource, ImageSource, CheckpointStore, ArtifactStore, Protocol):
    """Storage as one attempt sees it."""

    async def dataset(self) -> LabelledDataset:
        """Return the attempt's data set version. Raises LoupeError."""

    async def file(self, digest: str, target: Path) -> None:
        """Write an uploaded file to `target`, checked against its digest. Raises LoupeError."""


class Storage(Protocol):
    """Storage before anybody said who asks."""

    def of(self, spec: AttemptSpec, token: Callable[[], str]) -> AttemptStorage:
        """Return storage for an attempt. token: the one that the attempt has when it calls."""
