"""What a run may ask its trainer for while it is at work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from loupe.errors import ResourceExhausted
from loupe.letterbox import Fit
from services.trainer.cache.pictures import PictureCache, array_bytes
from services.trainer.clients.storage import AttemptStorage, LocalFile
from services.trainer.runs.answers import Answers, Collect
from services.trainer.runs.inference import Answered, Inference
from services.trainer.runs.job_folder import JobFolder
from services.trainer.runs.task_data import TaskData
from services.trainer.sandbox.channel import ProtocolBroken

MAX_SIZES = 32


class RunHost:
    """Grants what one run asks for. File names are below the run's data folder. All methods raise LoupeErrors.

    inference: what takes the answers of a run that is not to train; None for one that is.
    """

    def __init__(
        self,
        folder: JobFolder,
        dataset: TaskData,
        answers: Answers,
        storage: AttemptStorage,
        pictures: PictureCache,
        *,
        inference: Inference | None = None,
    ) -> None:
        self._folder = folder
        self._dataset = dataset
        self._answers = answers
        self._storage = storage
        self._pictures = pictures
        self._inference = inference
        self._held: dict[str, int] = {}

    async def pictures(self, height: int, width: int, fit: Fit) -> str:
        """Put the array of all pictures, uint8 [N, height, width, 3], into the data folder, and return its name.

        Raises ResourceExhausted, before anything is decoded, for an array with which the run would hold too much.
        """
        name = f"pictures-{fit}-{height}x{width}.npy"
        self._admit(name, height, width)
        target = self._folder.path / name
        await self._pictures.link(self._dataset.digests, height, width, self._storage, target, fit=fit)
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

    async def reveal_test(self, arguments: Mapping[str, Any], collect: Collect) -> tuple[str, dict[str, Any]]:
        """Count the answers for the test pictures, then put what is right into the data folder.

        Returns the file's name, and what was counted. Raises ProtocolBroken or BadFile for answers that cannot be.
        """
        if self._inference is not None:
            raise ProtocolBroken("labels are not revealed to a run that trains nothing")
        counted = await self._answers.count(arguments, self._dataset, collect)
        return await asyncio.to_thread(self._answers.reveal, self._dataset, self._folder), counted

    async def take_answers(self, arguments: Mapping[str, Any], collect: Collect) -> Answered:
        """Return what the answers of a run come to. Raises ProtocolBroken or BadFile for such that cannot be."""
        if self._inference is None:
            raise ProtocolBroken("a run that trains hands its answers over for the test labels")
        return await self._inference.take(arguments, collect)

    async def save_checkpoint(self, files: list[LocalFile]) -> None:
        """Return when the checkpoint is durable."""
        await self._storage.save_checkpoint(files)
