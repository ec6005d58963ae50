"""What a run may ask its trainer for while it is at work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from loupe.algorithm.host import Split
from loupe.errors import ResourceExhausted
from services.trainer.cache.pictures import PictureCache, array_bytes
from services.trainer.clients.storage import AttemptStorage, LabelledDataset, LocalFile
from services.trainer.runs import intake
from services.trainer.runs.job_folder import JobFolder

MAX_SIZES = 32


class RunHost:
    """Grants what one run asks for. File names are below the run's data folder. All methods raise LoupeErrors."""

    def __init__(
        self, folder: JobFolder, dataset: LabelledDataset, storage: AttemptStorage, pictures: PictureCache
    ) -> None:
        self._folder = folder
        self._dataset = dataset
        self._storage = storage
        self._pictures = pictures
        self._held: dict[str, int] = {}

    async def pictures(self, height: int, width: int) -> str:
        """Put the array of all pictures, uint8 [N, height, width, 3], into the data folder, and return its name.

        Raises ResourceExhausted, before anything is decoded, for an array with which the run would hold too much.
        """
        name = f"pictures-{height}x{width}.npy"
        self._admit(name, height, width)
        target = self._folder.path / name
        await self._pictures.link(self._dataset.digests, height, width, self._storage, target)
        return name

    def _admit(self, name: str, height: int, width: int) -> None:
        count, share = len(self._dataset.digests), self._pictures.share
        held = self._held | {name: array_bytes(count, height, width)}
        if len(held) > MAX_SIZES:
            raise ResourceExhausted(
                f"pictures of {height}x{width} would be the {len(held)}th size; a job may ask for {MAX_SIZES}",
                limit="picture_sizes",
                value=MAX_SIZES,
            )
        if sum(held.values()) > share:
            raise ResourceExhausted(
                f"{count} pictures of {height}x{width} and those asked for before need {sum(held.values())} bytes; "
                f"a job may hold {share} on this trainer (LOUPE_PICTURES_MB, divided among its slots)",
                limit="job_picture_bytes",
                value=share,
            )
        self._held = held

    async def reveal_test(self, arguments: Mapping[str, Any]) -> tuple[str, dict[str, list[Any]]]:
        """Count the answers for the test pictures, then put every label into the data folder.

        Returns the file's name, and for each class its test pictures and how many of them were told right.
        Raises ProtocolBroken for answers that cannot be.
        """
        truth = self._dataset.classes[self._dataset.splits == Split.TEST]
        classes = len(self._dataset.labels)
        said = intake.answers(arguments, len(truth), classes)
        counted = (truth, truth[truth == said])
        pictures, right = (np.bincount(each, minlength=classes).tolist() for each in counted)
        name = await asyncio.to_thread(self._folder.reveal, self._dataset)
        return name, {"labels": list(self._dataset.labels), "right": right, "pictures": pictures}

    async def save_checkpoint(self, files: list[LocalFile]) -> None:
        """Return when the checkpoint is durable."""
        await self._storage.save_checkpoint(files)
