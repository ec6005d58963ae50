"""Models, their versions and checkpoints in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, LargeBinary, String, Text

from loupe.lifetimes import THERE
from loupe.names import JobName, ModelVersionName
from services.storage.blobs.blob_references import BlobReference
from services.storage.database.lifetimes import Lifetime, lifetime_columns, visible
from services.storage.database.metadata import metadata
from services.storage.database.session import Session
from services.storage.projects.store import projects

models = sa.Table(
    "models",
    metadata,
    Column("project", ForeignKey(projects.c.project), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("latest", Integer, nullable=False),
    Column("latest_released", Integer, nullable=False),
    Column("create_time", Float, nullable=False),
    *lifetime_columns(),
)

versions = sa.Table(
    "model_versions",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("job", String(160), nullable=False, unique=True),
    # document is the loupe.storage.v1.ModelVersion, encoded.
    Column("document", LargeBinary, nullable=False),
    # released, and the names of the data set, model and algorithm versions that it was made from, are those of the
    # document.
    Column("released", Boolean, nullable=False, server_default=sa.false()),
    Column("dataset_version", Text, nullable=False, server_default=""),
    Column("base_model", Text, nullable=False, server_default=""),
    Column("algorithm_version", Text, nullable=False, server_default=""),
    *lifetime_columns(),
    sa.Index("model_versions_by_dataset_version", "dataset_version"),
    sa.Index("model_versions_by_base_model", "base_model"),
    sa.Index("model_versions_by_algorithm_version", "algorithm_version"),
    sa.ForeignKeyConstraint(["project", "model"], [models.c.project, models.c.model]),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    Column("job", String(160), primary_key=True),
    # document is the loupe.storage.v1.Checkpoint, encoded.
    Column("document", LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class ModelRow(Lifetime):
    """A model; latest and latest_released are version numbers, 0 while there is none."""

    project: str
    model: str
    uid: str
    latest: int
    latest_released: int
    create_time: float


@dataclass(frozen=True)
class ModelVersionRow(Lifetime):
    """A version and the job that made it; document is the contract's ModelVersion, encoded."""

    project: str
    model: str
    number: int
    job: str
    document: bytes
    released: bool
    dataset_version: str
    base_model: str = ""
    algorithm_version: str = ""

    @property
    def name(self) -> ModelVersionName:
        """Its resource name."""
        return ModelVersionName(self.project, self.model, str(self.number))


@dataclass(frozen=True)
class TrainedModel:
    """What a job hands in: what the library has to know of it, and all of it.

    parameter_files: the digests among its parameters, by their names. document: the encoded ModelVersion.
    """

    job: JobName
    attempt: int
    dataset_version: str
    base_model: str
    algorithm_version: str
    parameter_files: Mapping[str, str]
    released: bool
    files: Sequence[BlobReference]
    document: bytes


@dataclass(frozen=True)
class Checkpoint:
    """From where a job can go on, and the attempt that wrote it."""

    job: JobName
    attempt: int
    files: Sequence[BlobReference]


class ModelTable:
    """Reads and writes models and checkpoints inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection

    async def find(self, project: str, model: str, *, lock: bool = False) -> ModelRow | None:
        """Return a model; with lock, nobody else may add a version before this transaction ends."""
        query = sa.select(models).where(models.c.project == project, models.c.model == model)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        return ModelRow(**row._mapping) if row else None

    async def add(self, row: ModelRow) -> None:
        """Write a new model."""
        await self._connection.execute(models.insert().values(**row.__dict__))

    async def revive(self, row: ModelRow) -> None:
        """Write a new model in the place of a purged one; its versions are numbered on."""
        key = (models.c.project == row.project) & (models.c.model == row.model)
        await self._connection.execute(models.update().where(key).values(**row.__dict__))

    async def set_lifetime(self, row: ModelRow, lifetime: Lifetime) -> ModelRow:
        """Delete or restore a model and return it."""
        key = (models.c.project == row.project) & (models.c.model == row.model)
        await self._connection.execute(models.update().where(key).values(**lifetime.__dict__))
        return replace(row, **lifetime.__dict__)

    async def page(self, project: str, after: str, limit: int, *, show_deleted: bool = False) -> list[ModelRow]:
        """Return models by id, after one of them; deleted ones only when they are asked for."""
        query = (
            sa.select(models)
            .where(models.c.project == project, models.c.model > after, visible(models, show_deleted=show_deleted))
            .order_by(models.c.model)
            .limit(limit)
        )
        return [ModelRow(**row._mapping) for row in await self._connection.execute(query)]

    async def add_version(self, row: ModelVersionRow) -> None:
        """Write a version."""
        await self._connection.execute(versions.insert().values(**row.__dict__))

    async def settle_latest(self, row: ModelRow) -> ModelRow:
        """Make the newest versions that are not deleted the latest ones, and return the model."""
        there = (versions.c.project == row.project) & (versions.c.model == row.model)
        released = sa.case((versions.c.released, versions.c.number), else_=0)
        query = sa.select(
            sa.func.coalesce(sa.func.max(versions.c.number), 0), sa.func.coalesce(sa.func.max(released), 0)
        ).where(there, visible(versions, show_deleted=False))
        latest, latest_released = (await self._connection.execute(query)).one()
        new = {"latest": latest, "latest_released": latest_released}
        key = (models.c.project == row.project) & (models.c.model == row.model)
        await self._connection.execute(models.update().where(key).values(**new))
        return replace(row, **new)

    async def next_number(self, project: str, model: str) -> int:
        """Return the number of the version that comes next: no number is given twice."""
        query = sa.select(sa.func.coalesce(sa.func.max(versions.c.number), 0) + 1).where(
            versions.c.project == project, versions.c.model == model
        )
        number: int = (await self._connection.execute(query)).scalar_one()
        return number

    async def set_version_lifetime(self, row: ModelVersionRow, lifetime: Lifetime) -> ModelVersionRow:
        """Delete or restore a version and return it."""
        key = (versions.c.project == row.project) & (versions.c.model == row.model) & (versions.c.number == row.number)
        await self._connection.execute(versions.update().where(key).values(**lifetime.__dict__))
        return replace(row, **lifetime.__dict__)

    async def delete_all(self, row: ModelRow, lifetime: Lifetime) -> int:
        """Delete those of a model's versions that are not deleted, and return how many that are."""
        key = (versions.c.project == row.project) & (versions.c.model == row.model)
        update = versions.update().where(key, visible(versions, show_deleted=False)).values(**lifetime.__dict__)
        return (await self._connection.execute(update)).rowcount

    async def restore_all(self, row: ModelRow) -> int:
        """Restore those of a model's versions that were deleted with it, and return how many that are."""
        key = (versions.c.project == row.project) & (versions.c.model == row.model)
        with_it = versions.c.delete_time == row.delete_time
        update = versions.update().where(key, with_it, versions.c.purged == THERE).values(**Lifetime().__dict__)
        return (await self._connection.execute(update)).rowcount

    async def version(self, project: str, model: str, number: int) -> ModelVersionRow | None:
        """Return a version, deleted or not."""
        key = (versions.c.project == project) & (versions.c.model == model) & (versions.c.number == number)
        return await self._version(key)

    async def version_of_job(self, job: str) -> ModelVersionRow | None:
        """Return the version that a job made."""
        return await self._version(versions.c.job == job)

    async def _version(self, which: sa.ColumnElement[bool]) -> ModelVersionRow | None:
        row = (await self._connection.execute(sa.select(versions).where(which))).one_or_none()
        return ModelVersionRow(**row._mapping) if row else None

    async def versions(
        self, project: str, model: str, before: int, limit: int, *, show_deleted: bool = False
    ) -> list[ModelVersionRow]:
        """Return versions, newest first, numbers below `before`; deleted ones only when they are asked for."""
        query = (
            sa.select(versions)
            .where(versions.c.project == project, versions.c.model == model, versions.c.number < before)
            .where(visible(versions, show_deleted=show_deleted))
            .order_by(versions.c.number.desc())
            .limit(limit)
        )
        return [ModelVersionRow(**row._mapping) for row in await self._connection.execute(query)]

    async def version_count(self, project: str) -> tuple[int, int]:
        """Return how many versions all models of a project have, and how many of these are deleted."""
        query = sa.select(sa.func.count(), sa.func.count(versions.c.delete_time)).where(
            versions.c.project == project, versions.c.purged == THERE
        )
        count, deleted = (await self._connection.execute(query)).one()
        return count, deleted

    async def made_with(self, algorithm_version: str) -> bool:
        """Say whether any version of any project that is not purged was made with a version of an algorithm."""
        query = sa.select(versions.c.number).where(
            versions.c.algorithm_version == algorithm_version, versions.c.purged == THERE
        )
        return (await self._connection.execute(query.limit(1))).first() is not None

    async def checkpoint(self, job: str) -> bytes | None:
        """Return the document of a job's checkpoint."""
        query = sa.select(checkpoints.c.document).where(checkpoints.c.job == job)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def set_checkpoint(self, job: str, document: bytes) -> None:
        """Put a checkpoint in place of the job's last one."""
        await self.remove_checkpoint(job)
        await self._connection.execute(checkpoints.insert().values(job=job, document=document))

    async def remove_checkpoint(self, job: str) -> None:
        """Forget a job's checkpoint."""
        await self._connection.execute(checkpoints.delete().where(checkpoints.c.job == job))
