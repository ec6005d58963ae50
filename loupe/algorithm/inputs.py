"""What a training loop puts into its network: pictures, or what has been computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from loupe.algorithm.augmentation import Augmentation, augment


class Inputs(Protocol):
    """Where a training gets its network's input for some pictures; rows are indices into the data set.

    shape: of one input.
    """

    @property
    def shape(self) -> Sequence[int]: ...

    def training(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """Return the input to learn from, on the run's device, changed at random by the generator alone."""
        ...

    def judging(self, rows: np.ndarray) -> torch.Tensor:
        """Return the input to measure by, on the run's device: of the pictures as they are."""
        ...


class PictureInputs:
    """Pictures, normalised float [B, 3, H, W].

    pictures: uint8 [N, H, W, 3] of the whole data set. mean, std: what pictures in 0..1 are normalised with, per RGB
    channel. augmentation: how those to learn from are changed; None leaves them as they are.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        self._pictures, self._augmentation, self._device = pictures, augmentation, device
        self._mean, self._std = ((torch.tensor(part) * 255).view(1, 3, 1, 1).to(device) for part in (mean, std))

    @property
    def shape(self) -> Sequence[int]:
        _, height, width, channels = self._pictures.shape
        return channels, height, width

    def training(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        pictures = self._floats(rows)
        if self._augmentation is not None:
            pictures = augment(pictures.div_(255), self._augmentation, generator).mul_(255)
        return pictures.sub_(self._mean).div_(self._std)

    def judging(self, rows: np.ndarray) -> torch.Tensor:
        return self._floats(rows).sub_(self._mean).div_(self._std)

    def _floats(self, rows: np.ndarray) -> torch.Tensor:
        # Seen as [B, 3, H, W] the bytes already lie as channels_last wants them.
        return torch.from_numpy(self._pictures[rows]).to(self._device).permute(0, 3, 1, 2).float()
