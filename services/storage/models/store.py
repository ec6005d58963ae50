"""Models, their versions and checkpoints in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Column, Float, ForeignKey, Integer, LargeBinary, String

from loupe.names import JobName, ModelVersionName
from services.storage.blobs.blob_references import BlobReference
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
class ModelRow:
    """A model; latest and latest_released are version numbers, 0 while there is none."""

    project: str
    model: str
    uid: str
    latest: int
    latest_released: int
    create_time: float


@dataclass(frozen=True)
class ModelVersionRow:
    """A version and the job that made it; document is the contract's ModelVersion, encoded."""

    project: str
    model: str
    number: int
    job: str
    document: bytes

    @property
    def name(self) -> ModelVersionName:
        """Its resource name."""
        return ModelVersionName(self.project, self.model, str(self.number))


@dataclass(frozen=True)
class TrainedModel:
    """What a job hands in: what the library has to know of it, and all of it as the encoded ModelVersion that came."""

    job: JobName
    attempt: int
    dataset_version: str
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

    async def page(self, project: str, after: str, limit: int) -> list[ModelRow]:
        """Return models by id, after one of them."""
        query = (
            sa.select(models)
            .where(models.c.project == project, models.c.model > after)
            .order_by(models.c.model)
            .limit(limit)
        )
        return [ModelRow(**row._mapping) for row in await self._connection.execute(query)]

    async def add_version(self, row: ModelVersionRow, released: bool) -> None:
        """Write a version and make it the newest, and the newest released one when it is."""
        key = (models.c.project == row.project) & (models.c.model == row.model)
        newest = {"latest": row.number} | ({"latest_released": row.number} if released else {})
        await self._connection.execute(models.update().where(key).values(**newest))
        await self._connection.execute(versions.insert().values(**row.__dict__))

    async def version(self, project: str, model: str, number: int) -> ModelVersionRow | None:
        """Return a version."""
        key = (versions.c.project == project) & (versions.c.model == model) & (versions.c.number == number)
        return await self._version(key)

    async def version_of_job(self, job: str) -> ModelVersionRow | None:
        """Return the version that a job made."""
        return await self._version(versions.c.job == job)

    async def _version(self, which: sa.ColumnElement[bool]) -> ModelVersionRow | None:
        row = (await self._connection.execute(sa.select(versions).where(which))).one_or_none()
        return ModelVersionRow(**row._mapping) if row else None

    async def versions(self, project: str, model: str, before: int, limit: int) -> list[ModelVersionRow]:
        """Return versions, newest first, numbers below `before`."""
        query = (
            sa.select(versions)
            .where(versions.c.project == project, versions.c.model == model, versions.c.number < before)
            .order_by(versions.c.number.desc())
            .limit(limit)
        )
        return [ModelVersionRow(**row._mapping) for row in await self._connection.execute(query)]

    async def version_count(self, project: str) -> int:
        """Return how many versions all models of a project have."""
        query = sa.select(sa.func.count()).select_from(versions).where(versions.c.project == project)
        return (await self._connection.execute(query)).scalar_one()

    async def checkpoint(self, job: str) -> bytes | None:
        """Return the document of a job's checkpoint."""
        query = sa.select(checkpoints.c.document).where(checkpoints.c.job == job)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def set_checkpoint(self, job: str, document: bytes) -> None:
        """Put a checkpoint in place of the job's last one."""
        await self._connection.execute(checkpoints.delete().where(checkpoints.c.job == job))
        await self._connection.execute(checkpoints.insert().values(job=job, document=document))
