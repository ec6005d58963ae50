"""Doing one attempt: fetch what it needs, fill a sandbox's folder, run the algorithm, keep what it made."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.algorithm.manifest import BadParameter as BadValue
from loupe.algorithm.manifest import Manifest, resolve_parameters
from loupe.concurrency import gather
from loupe.errors import BadParameter, Unavailable
from services.trainer.attempts.attempt import Attempt
from services.trainer.attempts.events import Finished, Started
from services.trainer.attempts.spec import AttemptSpec
from services.trainer.cache.images import Images
from services.trainer.cache.pictures import PictureCache
from services.trainer.clients.storage import AttemptStorage, LabelledDataset, Storage
from services.trainer.runs.job_folder import CHECKPOINT, JobFolder, Resources
from services.trainer.runs.run import Completed, Run
from services.trainer.runs.work_folder import CollectedFile
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.sandbox import SandboxFailed
from services.trainer.sandbox.slots import Cell, Slots

OVERTIME = 0.5
LEAST_OVERTIME_SECONDS = 120.0


@dataclass(frozen=True)
class Material:
    """What an attempt runs on, fetched and checked. weights: files by parameter name."""

    dataset: LabelledDataset
    image: Path
    parameters: dict[str, Any]
    weights: dict[str, Path]
    checkpoint: Path | None


class Executor:
    """Does attempts with this trainer's slots and caches."""

    def __init__(
        self,
        *,
        storage: Storage,
        slots: Slots,
        images: Images,
        pictures: PictureCache,
        staging: Path,
        resources: Resources,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._slots = slots
        self._images = images
        self._pictures = pictures
        self._staging = staging
        self._resources = resources
        self._limits = limits
        self._clock = clock
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)

    async def execute(self, attempt: Attempt) -> Finished:
        """Do one attempt to its end. Raises LoupeError and RunFailed; cancelling it leaves nothing behind."""
        storage = self._storage.of(attempt.spec, lambda: attempt.storage_token)
        staging = self._staging / uuid.uuid4().hex
        staging.mkdir()
        fetch = asyncio.create_task(self._fetch(attempt.spec, storage, staging))
        try:
            completed = await self._run(attempt, fetch, storage, staging)
            artifacts = await storage.save_artifacts(completed.artifacts)
            return Finished(completed.outcome, artifacts, completed.report)
        except SandboxFailed as error:
            raise Unavailable(f"no sandbox could be started: {error}", dependency="sandbox") from error
        finally:
            fetch.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await fetch
            await asyncio.to_thread(shutil.rmtree, staging)

    async def _run(
        self, attempt: Attempt, fetch: asyncio.Task[Material], storage: AttemptStorage, staging: Path
    ) -> Completed:
        async with self._slots.lease() as cell:
            material = await fetch
            await asyncio.to_thread(self._fill, attempt.spec, cell, material)
            desk = _Desk(cell, material.dataset, storage, self._pictures)
            run = Run(cell, desk=desk, emit=attempt.emit, limits=self._limits, staging=staging, clock=self._clock)
            attempt.emit(Started(warm=cell.warm, resumed=material.checkpoint is not None))
            attempt.running(run, _overtime(attempt.spec))
            return await run.execute()

    async def _fetch(self, spec: AttemptSpec, storage: AttemptStorage, staging: Path) -> Material:
        checkpoint = staging / CHECKPOINT
        dataset, (image, manifest), resumed = await gather(
            storage.dataset(),
            self._images.get(spec.algorithm_digest, storage),
            storage.load_checkpoint(checkpoint),
        )
        parameters = _parameters(manifest, spec)
        weights: dict[str, Path] = {}
        for name, parameter in manifest.parameters.items():
            if parameter.type == "file" and parameters[name] is not None:
                weights[name] = staging / f"{name}.weights"
                await storage.file(parameters[name], weights[name])
        return Material(dataset, image, parameters, weights, checkpoint if resumed else None)

    def _fill(self, spec: AttemptSpec, cell: Cell, material: Material) -> None:
        folder = JobFolder(cell.process.data)
        folder.put_image(material.image)
        weights = {name: folder.put_weights(name, file) for name, file in material.weights.items()}
        if material.checkpoint is not None:
            shutil.copytree(material.checkpoint, folder.path / CHECKPOINT)
        folder.write(spec, material.parameters, weights, material.dataset, self._resources)


class _Desk:
    """Grants what one run may ask for."""

    def __init__(self, cell: Cell, dataset: LabelledDataset, storage: AttemptStorage, pictures: PictureCache) -> None:
        self._folder = JobFolder(cell.process.data)
        self._dataset = dataset
        self._storage = storage
        self._pictures = pictures

    async def pictures(self, height: int, width: int) -> str:
        name = f"pictures-{height}x{width}.npy"
        target = self._folder.path / name
        await self._pictures.link(self._dataset.digests, height, width, self._storage, target)
        return name

    async def reveal_test(self) -> str:
        return await asyncio.to_thread(self._folder.reveal, self._dataset)

    async def save_checkpoint(self, files: list[CollectedFile]) -> None:
        await self._storage.save_checkpoint(files)


def _parameters(manifest: Manifest, spec: AttemptSpec) -> dict[str, Any]:
    """Give the parameters their types back, which a protobuf Struct does not keep."""
    try:
        return resolve_parameters(manifest, spec.parameters)
    except BadValue as error:
        raise BadParameter(str(error), parameter=error.parameter) from error


def _overtime(spec: AttemptSpec) -> float | None:
    """Return when a run that does not keep its own budget is ended: it is given time to conclude."""
    if spec.max_seconds is None:
        return None
    return spec.max_seconds + max(LEAST_OVERTIME_SECONDS, OVERTIME * spec.max_seconds)
