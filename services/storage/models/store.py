"""Models, their versions and checkpoints in the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.storage.database.schema import checkpoints, model_versions, models


@dataclass(frozen=True)
class ModelRow:
    """A model; latest and latest_released are version numbers, 0 while there is none."""

    project: str
    model: str
    uid: str
    latest: int
    latest_released: int
    create_time: float


class ModelTable:
    """Reads and writes models and checkpoints inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, project: str, model: str, *, lock: bool = False) -> ModelRow | None:
        """Return a model; with lock, nobody else may add a version before this transaction ends."""
        query = sa.select(models).where(models.c.project == project, models.c.model == model)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        return ModelRow(**row._mapping) if row else None

    async def add(self, row: ModelRow) -> None:
        """Write a new model."""
        await self._connection.execute(models.insert().values(**row.__dict__))

    async def add_version(self, model: ModelRow, number: int, job: str, released: bool, document: bytes) -> None:
        """Write a version and make it the newest, and the newest released one when it is."""
        key = (models.c.project == model.project) & (models.c.model == model.model)
        newest = {"latest": number} | ({"latest_released": number} if released else {})
        await self._connection.execute(models.update().where(key).values(**newest))
        await self._connection.execute(
            model_versions.insert().values(
                project=model.project, model=model.model, number=number, job=job, document=document
            )
        )

    async def version(self, project: str, model: str, number: int) -> bytes | None:
        """Return a version's document."""
        query = sa.select(model_versions.c.document).where(
            model_versions.c.project == project, model_versions.c.model == model, model_versions.c.number == number
        )
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def version_of_job(self, job: str) -> bytes | None:
        """Return the document of the version that a job made."""
        query = sa.select(model_versions.c.document).where(model_versions.c.job == job)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def page(self, project: str, after: str, limit: int) -> list[ModelRow]:
        """Return models by id, after one of them."""
        query = (
            sa.select(models)
            .where(models.c.project == project, models.c.model > after)
            .order_by(models.c.model)
            .limit(limit)
        )
        return [ModelRow(**row._mapping) for row in await self._connection.execute(query)]

    async def versions(self, project: str, model: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (number, document), newest first, numbers below `before`."""
        query = (
            sa.select(model_versions.c.number, model_versions.c.document)
            .where(
                model_versions.c.project == project, model_versions.c.model == model, model_versions.c.number < before
            )
            .order_by(model_versions.c.number.desc())
            .limit(limit)
        )
        return [(row.number, row.document) for row in await self._connection.execute(query)]

    async def checkpoint(self, job: str) -> bytes | None:
        """Return the document of a job's checkpoint."""
        query = sa.select(checkpoints.c.document).where(checkpoints.c.job == job)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def set_checkpoint(self, job: str, document: bytes) -> None:
        """Put a checkpoint in place of the job's last one."""
        await self._connection.execute(checkpoints.delete().where(checkpoints.c.job == job))
        await self._connection.execute(checkpoints.insert().values(job=job, document=document))
