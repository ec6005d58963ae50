"""What a run may ask its trainer for while it is at work."""

from __future__ import annotations

import asyncio

from services.trainer.cache.pictures import PictureCache
from services.trainer.clients.storage import AttemptStorage, LabelledDataset, LocalFile
from services.trainer.runs.job_folder import JobFolder


class RunHost:
    """Grants what one run asks for. File names are below the run's data folder. All methods raise LoupeErrors."""

    def __init__(
        self, folder: JobFolder, dataset: LabelledDataset, storage: AttemptStorage, pictures: PictureCache
    ) -> None:
        self._folder = folder
        self._dataset = dataset
        self._storage = storage
        self._pictures = pictures

    async def pictures(self, height: int, width: int) -> str:
        """Put the array of all pictures, uint8 [N, height, width, 3], into the data folder, and return its name."""
        name = f"pictures-{height}x{width}.npy"
        target = self._folder.path / name
        await self._pictures.link(self._dataset.digests, height, width, self._storage, target)
        return name

    async def reveal_test(self) -> str:
        """Put every label into the data folder, and return the file's name."""
        return await asyncio.to_thread(self._folder.reveal, self._dataset)

    async def save_checkpoint(self, files: list[LocalFile]) -> None:
        """Return when the checkpoint is durable."""
        await self._storage.save_checkpoint(files)
