"""Doing one attempt: fetch what it needs, fill a sandbox's folder, run the algorithm, keep what it made."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loupe.algorithm.manifest import InvalidParameter, Manifest, resolve_parameters
from loupe.concurrency import gather
from loupe.errors import BadParameter, Unavailable
from loupe.job_kinds import JobKind
from loupe.tasks import TASKS
from loupe.tasks.task import Task
from services.trainer.attempts.attempt import Attempt
from services.trainer.attempts.events import Finished, Started
from services.trainer.attempts.spec import AttemptSpec
from services.trainer.cache.images import Images
from services.trainer.cache.pictures import PictureCache
from services.trainer.clients.storage import AttemptStorage, Storage
from services.trainer.runs.answers import answers_to
from services.trainer.runs.host import RunHost
from services.trainer.runs.inference import Inference, asked_about
from services.trainer.runs.job_folder import CHECKPOINT, JobFolder, Resources
from services.trainer.runs.run import Completed, Run
from services.trainer.runs.task_data import TaskData, seen_by
from services.trainer.sandbox.leftovers import FreshFolders, remove
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxFailed
from services.trainer.sandbox.slots import Slots

OVERTIME = 0.5
LEAST_OVERTIME_SECONDS = 120.0


@dataclass(frozen=True)
class Material:
    """What an attempt runs on, fetched and checked. weights: files by parameter name.

    resumes: whether the checkpoint is another job's.
    """

    task: Task
    dataset: TaskData
    image: Path
    parameters: dict[str, Any]
    weights: dict[str, Path]
    checkpoint: Path | None
    resumes: bool


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
        self._staging = FreshFolders(staging)
        self._resources = resources
        self._limits = limits
        self._clock = clock

    async def clear(self) -> None:
        """Remove what the attempts of an earlier trainer left behind."""
        await self._staging.clear()

    async def execute(self, attempt: Attempt) -> Finished:
        """Do one attempt to its end. Raises LoupeError and RunFailed; cancelling it leaves nothing behind."""
        key = attempt.spec.key
        storage = self._storage.of(key.job, key.attempt, lambda: attempt.storage_token)
        staging = self._staging.name(str(key.attempt))
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
            await asyncio.to_thread(remove, staging)

    async def _run(
        self, attempt: Attempt, fetch: asyncio.Task[Material], storage: AttemptStorage, staging: Path
    ) -> Completed:
        async with self._slots.lease() as sandbox:
            material = await fetch
            folder = JobFolder(sandbox.process.data)
            await asyncio.to_thread(self._fill, folder, attempt.spec, material)
            answers = answers_to(material.task, material.parameters)
            inference = self._inference(attempt.spec, material, storage, staging)
            host = RunHost(folder, material.dataset, answers, storage, self._pictures, inference=inference)
            run = Run(sandbox, host=host, emit=attempt.emit, limits=self._limits, staging=staging, clock=self._clock)
            attempt.emit(Started(warm=sandbox.warm, resumed=material.checkpoint is not None))
            attempt.running(run.stop, _overtime(attempt.spec))
            return await run.execute()

    def _inference(
        self, spec: AttemptSpec, material: Material, storage: AttemptStorage, staging: Path
    ) -> Inference | None:
        """Return what takes the answers of a job that is not to train; None for one that is."""
        if spec.kind is JobKind.TRAIN:
            return None
        assert spec.model is not None and spec.pictures is not None, "a spec of such a kind has both"
        return Inference(
            spec.kind,
            spec.pictures,
            material.task,
            spec.model,
            material.dataset,
            sizes=partial(self._pictures.sizes, source=storage),
            target=staging / "artifacts",
        )

    async def _fetch(self, spec: AttemptSpec, storage: AttemptStorage, staging: Path) -> Material:
        checkpoint = staging / CHECKPOINT
        dataset, (image, manifest), written_by = await gather(
            storage.dataset(spec.dataset_version),
            self._images.get(spec.algorithm_digest, partial(storage.image, spec.algorithm_version)),
            storage.load_checkpoint(checkpoint),
        )
        parameters, task = _parameters(manifest, spec), TASKS[spec.model.task if spec.model else manifest.task]
        data = await seen_by(task, dataset, partial(self._pictures.sizes, source=storage))
        if spec.model is not None and spec.pictures is not None:
            data = asked_about(data, spec.pictures, spec.model.labels)
        weights: dict[str, Path] = {}
        for name, parameter in manifest.parameters.items():
            if parameter.type == "file" and parameters[name] is not None:
                weights[name] = staging / f"{name}.weights"
                await storage.file(parameters[name], weights[name])
        resumes = written_by not in ("", spec.key.job)
        return Material(task, data, image, parameters, weights, checkpoint if written_by else None, resumes)

    def _fill(self, folder: JobFolder, spec: AttemptSpec, material: Material) -> None:
        folder.put_image(material.image)
        weights = {name: folder.put_weights(name, file) for name, file in material.weights.items()}
        if material.checkpoint is not None:
            shutil.copytree(material.checkpoint, folder.path / CHECKPOINT)
        folder.write(
            spec,
            material.parameters,
            weights,
            material.dataset,
            self._resources,
            task=material.task,
            resumes=material.resumes,
        )


def _parameters(manifest: Manifest, spec: AttemptSpec) -> dict[str, Any]:
    """Return all parameters in their types, which a protobuf Struct does not keep. Raises BadParameter."""
    try:
        return resolve_parameters(manifest, spec.parameters)
    except InvalidParameter as error:
        raise BadParameter(str(error), parameter=error.parameter) from error


def _overtime(spec: AttemptSpec) -> float | None:
    """Return after how many seconds a run that does not keep its own budget is ended: it may still conclude."""
    if spec.max_seconds is None:
        return None
    return spec.max_seconds + max(LEAST_OVERTIME_SECONDS, OVERTIME * spec.max_seconds)
