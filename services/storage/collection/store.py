"""What the collector asks the tables of the rooms, and what it takes out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from loupe.annotations import UNLABELLED
from loupe.lifetimes import PURGED, PURGING, THERE
from services.storage.algorithms.store import versions as algorithm_versions
from services.storage.blobs.store import blobs, fences, held_blobs, held_pictures
from services.storage.database.array_parameter import ArrayParameter
from services.storage.database.session import Session
from services.storage.datasets.store import annotation_texts, dataset_items, datasets, tested_pictures, version_hashes
from services.storage.datasets.store import versions as dataset_versions
from services.storage.marks.store import picture_marks
from services.storage.models.store import checkpoints, models
from services.storage.models.store import versions as model_versions
from services.storage.pictures.store import packs, pictures
from services.storage.projects.store import ProjectTable, projects


@dataclass(frozen=True)
class DatasetVersionKey:
    """A data set version that is to be purged."""

    project: str
    dataset: str
    number: int
    uid: str


@dataclass(frozen=True)
class ModelVersionKey:
    """A model version that is to be purged, and what made it."""

    project: str
    model: str
    number: int
    job: str
    document: bytes


@dataclass(frozen=True)
class Unnamed:
    """Pictures that none of the versions name. versions: the uids of all of these."""

    versions: frozenset[str]
    digests: Sequence[str]


def _name(table: sa.Table, collection: str, parent: str) -> sa.ColumnElement[str]:
    """Return the resource name of a version."""
    of_parent = sa.literal("projects/", sa.Text) + table.c.project + f"/{collection}/" + table.c[parent]
    return of_parent + "/versions/" + sa.cast(table.c.number, sa.Text)


def _algorithm_name() -> sa.ColumnElement[str]:
    return (
        sa.literal("algorithms/", sa.Text)
        + algorithm_versions.c.algorithm
        + "/versions/"
        + algorithm_versions.c.version
    )


_MADE = model_versions.alias("made")
"""The model versions that were made from what is looked at."""
_OF_A_MODEL, _BASE_OF_A_MODEL, _ALGORITHM_OF_A_MODEL = (
    sa.exists().where(origin == name, _MADE.c.purged == THERE)
    for origin, name in (
        (_MADE.c.dataset_version, _name(dataset_versions, "datasets", "dataset")),
        (_MADE.c.base_model, _name(model_versions, "models", "model")),
        (_MADE.c.algorithm_version, _algorithm_name()),
    )
)
_PURGING = projects.c.purged == PURGING
_OF_A_PURGING_PROJECT = sa.exists().where(
    _PURGING, checkpoints.c.job.like(sa.literal("projects/", sa.Text) + projects.c.project + "/jobs/%")
)
_EXPIRING = (dataset_versions, datasets, model_versions, models)
"""What can be deleted in a project."""


class CollectionTable:
    """Reads and writes inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection

    async def begin_to_purge(self, now: float) -> list[str]:
        """Return the projects that can no longer be restored and are not purged yet; all that is in them expires.

        Nobody restores them any more once this transaction has ended.
        """
        expired = projects.update().where(projects.c.purged == THERE, projects.c.expire_time < now)
        await self._connection.execute(expired.values(purged=PURGING))
        purging = list((await self._connection.execute(sa.select(projects.c.project).where(_PURGING))).scalars())
        for table in _EXPIRING if purging else ():
            there = table.update().where(table.c.project.in_(purging), table.c.purged == THERE)
            delete_time = sa.func.coalesce(table.c.delete_time, now)
            await self._connection.execute(there.values(delete_time=delete_time, expire_time=0.0))
        return purging

    async def finish_to_purge(self, project: str) -> bool:
        """Leave of a project that is being purged its id, if nothing is left in it; say whether this call did."""
        jobs = f"projects/{project}/jobs/"
        left = (
            sa.select(checkpoints.c.job).where(checkpoints.c.job.startswith(jobs)),
            sa.select(pictures.c.digest).where(pictures.c.project == project),
            sa.select(blobs.c.digest).where(blobs.c.project == project),
            sa.select(packs.c.pack).where(packs.c.project == project, packs.c.length > 0),
            *(
                sa.select(each.c.project).where(each.c.project == project, each.c.purged != PURGED)
                for each in _EXPIRING
            ),
        )
        for query in left:
            if (await self._connection.execute(query.limit(1))).first() is not None:
                return False
        await self._connection.execute(fences.delete().where(fences.c.job.startswith(jobs)))
        for table in (annotation_texts, *_EXPIRING, packs, picture_marks):
            await self._connection.execute(table.delete().where(table.c.project == project))
        purged = projects.update().where(projects.c.project == project, _PURGING)
        found = await self._connection.execute(purged.values(purged=PURGED, display_name=""))
        return found.rowcount == 1

    async def purge_algorithm_versions(self, now: float) -> list[str]:
        """Purge versions of algorithms that can no longer be restored and that no model was made with.

        Return the digests of their images. Of a version its digest is remembered, so that no other takes its name.
        """
        expired = (algorithm_versions.c.purged == THERE) & (algorithm_versions.c.expire_time < now)
        purge = algorithm_versions.update().where(expired, ~_ALGORITHM_OF_A_MODEL).values(purged=PURGED)
        return list((await self._connection.execute(purge.returning(algorithm_versions.c.digest))).scalars())

    async def expired_model_versions(self, now: float, limit: int) -> list[ModelVersionKey]:
        """Return model versions that can no longer be restored and from which no other was made.

        Nobody restores them before this transaction ends.
        """
        query = (
            sa.select(*model_versions.c["project", "model", "number", "job", "document"])
            .where(model_versions.c.purged == THERE, model_versions.c.expire_time < now, ~_BASE_OF_A_MODEL)
            .limit(limit)
            .with_for_update()
        )
        return [ModelVersionKey(*row) for row in await self._connection.execute(query)]

    async def purge_model_version(self, key: ModelVersionKey, remains: bytes) -> None:
        """Leave of a version what is remembered of it."""
        where = (model_versions.c.project == key.project) & (model_versions.c.model == key.model)
        update = model_versions.update().where(where, model_versions.c.number == key.number)
        await self._connection.execute(update.values(purged=PURGED, document=remains))

    async def expired_checkpoints(self, limit: int) -> list[str]:
        """Return jobs with a checkpoint of projects that are being purged; of others the scheduler removes it."""
        query = sa.select(checkpoints.c.job).where(_OF_A_PURGING_PROJECT).limit(limit)
        return list((await self._connection.execute(query)).scalars())

    async def remove_checkpoint(self, job: str) -> None:
        """Forget a job's checkpoint."""
        await self._connection.execute(checkpoints.delete().where(checkpoints.c.job == job))

    async def remove_unheld_blobs(self, before: float, limit: int) -> list[tuple[str, str]]:
        """Remove blobs that nothing holds and that nobody asked for since then; return their projects and digests.

        Of projects that are being purged it does not matter when somebody asked.
        """
        held = sa.exists().where(held_blobs.c.project == blobs.c.project, held_blobs.c.digest == blobs.c.digest)
        unasked = (blobs.c.use_time < before) | blobs.c.project.in_(sa.select(projects.c.project).where(_PURGING))
        unheld = unasked & ~held
        found = sa.select(*blobs.c["project", "digest"]).where(unheld).limit(limit)
        removed = []
        for project, digest in (await self._connection.execute(found)).all():
            key = (blobs.c.project == project) & (blobs.c.digest == digest)
            query = blobs.delete().where(key, unheld).returning(blobs.c.size)
            size = (await self._connection.execute(query)).scalar_one_or_none()
            if size is not None:
                await ProjectTable(self._session).count(project, blobs=-1, blob_bytes=-size)
                removed.append((project, digest))
        return removed

    async def expired_dataset_versions(self, now: float, limit: int) -> list[DatasetVersionKey]:
        """Return versions of data sets that can no longer be restored and that no model was trained on.

        A purge that was begun is among them. Nobody restores them before this transaction ends.
        """
        expired = (dataset_versions.c.purged == THERE) & (dataset_versions.c.expire_time < now) & ~_OF_A_MODEL
        query = (
            sa.select(*dataset_versions.c["project", "dataset", "number", "uid"])
            .where(expired | (dataset_versions.c.purged == PURGING))
            .limit(limit)
            .with_for_update()
        )
        return [DatasetVersionKey(*row) for row in await self._connection.execute(query)]

    async def set_purged(self, uid: str, purged: int) -> None:
        """Say how much is left of a version of a data set."""
        await self._connection.execute(
            dataset_versions.update().where(dataset_versions.c.uid == uid).values(purged=purged)
        )

    async def remove_items(self, uid: str, limit: int) -> int:
        """Remove some items of a version and return how many that were; with the last ones go its hashes."""
        mine = dataset_items.c.version == uid
        first = (await self._connection.execute(sa.select(sa.func.min(dataset_items.c.position)).where(mine))).scalar()
        if first is None:
            await self._connection.execute(version_hashes.delete().where(version_hashes.c.version == uid))
            return 0
        some = dataset_items.delete().where(mine, dataset_items.c.position < first + limit)
        return (await self._connection.execute(some)).rowcount

    async def forget_annotations(self, project: str, digests: Sequence[str]) -> None:
        """Forget what was annotated in pictures that were in test; that they were, and their class, is remembered."""
        array = ArrayParameter(self._session, digests)
        key = (tested_pictures.c.project == project) & tested_pictures.c.digest.in_(array.values)
        annotated = tested_pictures.update().where(key, tested_pictures.c.annotations != UNLABELLED)
        await self._connection.execute(annotated.values(annotations=UNLABELLED), array.parameters)

    async def purge_datasets(self, now: float, limit: int) -> bool:
        """Purge data sets of which no version is left; False when nothing is left to do.

        Their names can be given again then, and numbers go on where they ended.
        """
        same = (dataset_versions.c.project == datasets.c.project) & (dataset_versions.c.dataset == datasets.c.dataset)
        some_left = sa.exists().where(same, dataset_versions.c.purged != PURGED)
        query = sa.select(*datasets.c["project", "dataset"]).where(
            datasets.c.purged == THERE, datasets.c.expire_time < now, ~some_left
        )
        row = (await self._connection.execute(query.limit(1).with_for_update())).first()
        if row is None:
            return False
        tested = (tested_pictures.c.project == row.project) & (tested_pictures.c.dataset == row.dataset)
        some = sa.select(tested_pictures.c.digest).where(tested).limit(limit)
        found = await self._connection.execute(
            tested_pictures.delete().where(tested, tested_pictures.c.digest.in_(some))
        )
        if found.rowcount == 0:
            key = (datasets.c.project == row.project) & (datasets.c.dataset == row.dataset)
            await self._connection.execute(datasets.update().where(key).values(purged=PURGED, test_classes=""))
        return True

    async def purge_models(self, now: float) -> None:
        """Purge models of which no version is left; see purge_datasets."""
        same = (model_versions.c.project == models.c.project) & (model_versions.c.model == models.c.model)
        some_left = sa.exists().where(same, model_versions.c.purged != PURGED)
        key = (models.c.purged == THERE) & (models.c.expire_time < now) & ~some_left
        await self._connection.execute(models.update().where(key).values(purged=PURGED))

    async def versions(self, project: str) -> frozenset[str]:
        """Return the uids of the project's data set versions that name pictures, deleted ones too."""
        query = sa.select(dataset_versions.c.uid).where(
            dataset_versions.c.project == project, dataset_versions.c.purged == THERE
        )
        return frozenset((await self._connection.execute(query)).scalars())

    async def lock_datasets(self, project: str) -> None:
        """Let nobody make a version in the project before this transaction ends."""
        query = sa.select(datasets.c.dataset).where(datasets.c.project == project).with_for_update()
        (await self._connection.execute(query)).all()

    async def unnamed(self, project: str) -> Unnamed:
        """Return pictures that no version and no model names and that are not marked yet."""
        versions = await self.versions(project)
        same = dataset_versions.c.uid == dataset_items.c.version
        named = (
            sa.select(dataset_items.c.digest)
            .join(dataset_versions, same)
            .where(dataset_versions.c.project == project, dataset_versions.c.purged == THERE)
        )
        left = sa.except_(
            sa.select(pictures.c.digest).where(pictures.c.project == project),
            named,
            sa.select(held_pictures.c.digest).where(held_pictures.c.project == project),
            sa.select(picture_marks.c.digest).where(picture_marks.c.project == project),
        )
        found = await self._connection.execute(left)
        return Unnamed(versions, list(found.scalars()))

    async def held_pictures(self, project: str, digests: Sequence[str]) -> set[str]:
        """Return those of the pictures that a model consists of."""
        array = ArrayParameter(self._session, digests)
        key = (held_pictures.c.project == project) & held_pictures.c.digest.in_(array.values)
        query = sa.select(held_pictures.c.digest).where(key)
        return set((await self._connection.execute(query, array.parameters)).scalars())
