"""One pass after the other: what expired is purged, what nothing names is removed, and packs are compacted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from loupe.collecting import keep_collecting
from loupe.concurrency import shielded
from loupe.lifetimes import PURGED, PURGING
from loupe.names import JobName, ModelVersionName, ProjectName
from services.storage.algorithms.library import Algorithms
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.staging import Staging
from services.storage.blobs.store import CHECKPOINT, MODEL, PARAMETERS, BlobTable, Holder
from services.storage.clients.auth import Memberships
from services.storage.collection.store import CollectionTable, DatasetVersionKey, ModelVersionKey
from services.storage.database.session import Database, Session
from services.storage.datasets.store import DatasetTable
from services.storage.marks.store import MarkTable
from services.storage.models.messages import decode_checkpoint, encode_remains, version_files
from services.storage.models.store import ModelTable
from services.storage.pictures.compaction import Compaction
from services.storage.pictures.store import PictureTable
from services.storage.projects.store import ProjectTable

_VERSIONS_AT_ONCE = 20
_ITEMS_AT_ONCE = 10_000
_MARKED_AT_ONCE = 10_000
_PICTURES_AT_ONCE = 2_000
_BLOBS_AT_ONCE = 200


@dataclass(frozen=True)
class Keeping:
    """For how many seconds what nothing names stays.

    pictures: those that no version has, from when that was found. blobs: those that are part of nothing, such as pushed
    weights, from when somebody last asked for them.
    """

    pictures: float
    blobs: float


@dataclass
class Collected:
    """What a pass came to: how many things were purged or removed, and the bytes of packs that were given back."""

    projects: int = 0
    algorithm_versions: int = 0
    dataset_versions: int = 0
    model_versions: int = 0
    checkpoints: int = 0
    pictures: int = 0
    blobs: int = 0
    pack_bytes: int = 0


class Collector:
    """Collects in steps, each one small transaction, so that uploads and reads go on in between.

    Any number of passes may run side by side, and each may die anywhere: a step looks for itself, in its own
    transaction, whether what it removes is still to be removed. now: wall-clock seconds.
    """

    def __init__(
        self,
        database: Database,
        memberships: Memberships,
        algorithms: Algorithms,
        blobs: Blobs,
        staging: Staging,
        *,
        compaction: Compaction,
        keeping: Keeping,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._memberships = memberships
        self._algorithms = algorithms
        self._blobs = blobs
        self._staging = staging
        self._compaction = compaction
        self._keeping = keeping
        self._now = now

    async def keep(self, seconds: float) -> None:
        """Collect every so many seconds; never returns. A pass before which the clock was set is left out."""

        async def collect() -> dict[str, int]:
            return asdict(await self.collect())

        await keep_collecting(collect, seconds, self._now)

    async def collect(self) -> Collected:
        """Do one pass and say what it came to. Raises ResourceExhausted; what was done before stays done."""
        collected = Collected()
        async with self._database.write() as session:
            purging = await CollectionTable(session).begin_to_purge(self._now())
        collected.model_versions = await self._repeat(self._purge_model_versions)
        collected.dataset_versions = await self._repeat(self._purge_dataset_versions)
        await self._purge_parents()
        collected.algorithm_versions = await shielded(self._purge_algorithm_versions())
        collected.checkpoints = await self._repeat(self._remove_checkpoints)
        collected.blobs = await self._repeat(self._remove_blobs)
        await asyncio.to_thread(self._staging.remove_old)
        async with self._database.read() as session:
            projects = await PictureTable(session).pack_projects()
        for project in projects:
            kept = -math.inf if project in purging else self._keeping.pictures
            await self._mark(project)
            while removed := await shielded(self._remove_pictures(project, kept)):
                collected.pictures += removed
            collected.pack_bytes += await self._compaction.compact(project)
        collected.projects = sum([await self._finish_to_purge(project) for project in purging])
        return collected

    async def _repeat(self, step: Callable[[], Awaitable[int]]) -> int:
        """Take a step until it does nothing any more, and return how much that was."""
        total = 0
        while done := await shielded(step()):
            total += done
        return total

    async def _purge_model_versions(self) -> int:
        freed: list[tuple[str, list[str]]] = []
        async with self._database.write() as session:
            expired = await CollectionTable(session).expired_model_versions(self._now(), _VERSIONS_AT_ONCE)
            for key in expired:
                freed.append((key.project, await _purge_model_version(session, key)))
        await self._remove_files(freed)
        return len(expired)

    async def _purge_dataset_versions(self) -> int:
        async with self._database.write() as session:
            table = CollectionTable(session)
            expired = await table.expired_dataset_versions(self._now(), _VERSIONS_AT_ONCE)
            for key in expired:
                await table.set_purged(key.uid, PURGING)
        for key in expired:
            while await self._remove_items(key):
                pass
        return len(expired)

    async def _remove_items(self, key: DatasetVersionKey) -> int:
        async with self._database.write() as session:
            table = CollectionTable(session)
            removed = await table.remove_items(key.uid, _ITEMS_AT_ONCE)
            if not removed:
                await DatasetTable(session).forget_unused_annotations(key.project, key.dataset)
                await table.set_purged(key.uid, PURGED)
        return removed

    async def _purge_parents(self) -> None:
        more = True
        while more:
            async with self._database.write() as session:
                table = CollectionTable(session)
                await table.purge_models(self._now())
                more = await table.purge_datasets(self._now(), _ITEMS_AT_ONCE)

    async def _purge_algorithm_versions(self) -> int:
        async with self._database.write() as session:
            digests = await CollectionTable(session).purge_algorithm_versions(self._now())
        await self._algorithms.remove_images(digests)
        return len(digests)

    async def _finish_to_purge(self, project: str) -> bool:
        async with self._database.read() as session:
            row = await ProjectTable(session).find(project)
        assert row is not None, "of a purged project its id is left"
        await self._memberships.forget_project(ProjectName(project), row.uid)
        async with self._database.write() as session:
            return await CollectionTable(session).finish_to_purge(project)

    async def _remove_checkpoints(self) -> int:
        freed: list[tuple[str, list[str]]] = []
        async with self._database.write() as session:
            expired = await CollectionTable(session).expired_checkpoints(_VERSIONS_AT_ONCE)
            for job in expired:
                project = JobName.parse(job).project
                freed.append((project, await _remove_checkpoint(session, project, job)))
        await self._remove_files(freed)
        return len(expired)

    async def _remove_blobs(self) -> int:
        before = self._now() - self._keeping.blobs
        async with self._database.write() as session:
            removed = await CollectionTable(session).remove_unheld_blobs(before, _BLOBS_AT_ONCE)
        await self._remove_files([(project, [digest]) for project, digest in removed])
        return len(removed)

    async def _remove_files(self, freed: Sequence[tuple[str, Sequence[str]]]) -> None:
        for project, digests in freed:
            await self._blobs.remove(project, digests)

    async def _mark(self, project: str) -> None:
        """Mark the pictures that nothing names."""
        async with self._database.read() as session:
            unnamed = await CollectionTable(session).unnamed(project)
        for start in range(0, len(unnamed.digests), _MARKED_AT_ONCE):
            async with self._database.write() as session:
                table = CollectionTable(session)
                await table.lock_datasets(project)
                if await table.versions(project) - unnamed.versions:
                    return  # a version was made since, which may name them: the next pass looks again
                await MarkTable(session).mark(project, unnamed.digests[start : start + _MARKED_AT_ONCE], self._now())

    async def _remove_pictures(self, project: str, kept: float) -> int:
        """Remove some pictures that have been marked for longer than `kept` seconds, and return how many."""
        async with self._database.write() as session:
            marks = MarkTable(session)
            due = await marks.due(project, self._now() - kept, _PICTURES_AT_ONCE)
            if not due:
                return 0
            table = CollectionTable(session)
            held = await table.held_pictures(project, due)
            gone = [digest for digest in due if digest not in held]
            await PictureTable(session).remove(project, gone)
            await table.forget_annotations(project, gone)
            await marks.clear(project, due)
        return len(due)


async def _purge_model_version(session: Session, key: ModelVersionKey) -> list[str]:
    """Let a version's files go, and return those of its blobs that went with it."""
    name = ModelVersionName(key.project, key.model, str(key.number))
    for kind in (MODEL, PARAMETERS):
        await BlobTable(session).hold(Holder(key.project, kind, str(name)), [])
    await CollectionTable(session).purge_model_version(key, encode_remains(key.document))
    digests = [file.digest for file in version_files(key.document)]
    return await BlobTable(session).drop_unheld(key.project, key.job, digests)


async def _remove_checkpoint(session: Session, project: str, job: str) -> list[str]:
    """Remove a job's checkpoint, and return those of its blobs that went with it."""
    document = await ModelTable(session).checkpoint(job)
    await BlobTable(session).hold(Holder(project, CHECKPOINT, job), [])
    await CollectionTable(session).remove_checkpoint(job)
    digests = [file.digest for file in decode_checkpoint(document).files] if document is not None else []
    return await BlobTable(session).drop_unheld(project, job, digests)
