"""The model library: one version per job, numbered without gaps, each with its files and its lineage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from loupe import paging
from loupe.errors import FailedPrecondition, invalid, not_found
from loupe.identity import AttemptGrant
from loupe.names import JobName, ModelName, ModelVersionName, ProjectName, project_of
from loupe.storage.v1 import model_pb2
from services.storage.blobs.blob_references import check_files, hold_files
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import Holder
from services.storage.clock import timestamp
from services.storage.database.session import Database, Session
from services.storage.models.store import ModelRow

_NO_LIMIT = 1 << 30


class Models:
    """Publishes and lists models.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def publish(self, parent: ModelName, version: model_pb2.ModelVersion) -> model_pb2.ModelVersion:
        """Put a job's result into the library, or return what this job published before.

        Raises StaleAttempt, BlobMissing, NotFound, InvalidArgument, FailedPrecondition; then nothing was made.
        """
        job = _check_lineage(parent, version.lineage)
        check_files(version.files)
        async with self._database.write() as session:
            if await session.projects.find(parent.project) is None:
                raise not_found(parent)
            await require_current(session, AttemptGrant(job, version.lineage.attempt))
            there = await session.models.version_of_job(str(job))
            if there is not None:
                return _published(there, parent, job)
            return await self._add(session, parent, job, version)

    async def _add(
        self, session: Session, parent: ModelName, job: JobName, version: model_pb2.ModelVersion
    ) -> model_pb2.ModelVersion:
        now = self._now()
        model = await session.models.find(parent.project, parent.model, lock=True)
        if model is None:
            model = ModelRow(parent.project, parent.model, uuid.uuid4().hex, 0, 0, now)
            await session.models.add(model)
        number = model.latest + 1
        made = model_pb2.ModelVersion()
        made.CopyFrom(version)
        made.name = str(ModelVersionName(parent.project, parent.model, str(number)))
        made.uid = uuid.uuid4().hex
        made.create_time.CopyFrom(timestamp(now))
        await hold_files(session, Holder(parent.project, "model", made.name), made.files)
        document = made.SerializeToString(deterministic=True)
        await session.models.add_version(model, number, str(job), made.released, document)
        return made

    async def get(self, name: ModelName) -> model_pb2.Model:
        """Return a model. Raises NotFound."""
        async with self._database.read() as session:
            return _model(await _find(session, name))

    async def list(
        self, project: ProjectName, page_size: int, page_token: str
    ) -> tuple[Sequence[model_pb2.Model], str]:
        """Return a page of models by id, and the next page's token."""
        scope, size = f"models of {project}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            rows = await session.models.page(project.project, str(last[0]) if last else "", size + 1)
        more = paging.encode(scope, [rows[size - 1].model]) if len(rows) > size else ""
        return [_model(row) for row in rows[:size]], more

    async def get_version(self, name: ModelVersionName) -> model_pb2.ModelVersion:
        """Return a version; "latest" is the newest released one. Raises NotFound."""
        async with self._database.read() as session:
            if name.number == "latest":
                model = await _find(session, ModelName(name.project, name.model))
                number = model.latest_released
            else:
                number = int(name.number)
            document = await session.models.version(name.project, name.model, number)
        if document is None:
            raise not_found(name)
        return model_pb2.ModelVersion.FromString(document)

    async def list_versions(
        self, name: ModelName, page_size: int, page_token: str
    ) -> tuple[Sequence[model_pb2.ModelVersion], str]:
        """Return a page of versions without their reports, newest first, and the next page's token."""
        scope, size = f"versions of {name}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await _find(session, name)
            before = int(last[0]) if last else _NO_LIMIT
            rows = await session.models.versions(name.project, name.model, before, size + 1)
        more = paging.encode(scope, [rows[size - 1][0]]) if len(rows) > size else ""
        versions = [model_pb2.ModelVersion.FromString(document) for _, document in rows[:size]]
        for version in versions:
            version.ClearField("report_json")
        return versions, more

    async def file(self, name: ModelVersionName, filename: str) -> model_pb2.ModelFile:
        """Return a version's file by its name. Raises NotFound."""
        version = await self.get_version(name)
        for file in version.files:
            if file.filename == filename:
                return file
        raise not_found(f"{version.name}: file {filename!r}")


def _check_lineage(parent: ModelName, lineage: model_pb2.ModelLineage) -> JobName:
    """Everything that the lineage names in a project must stand in the model's own."""
    job = JobName.parse(lineage.job, "lineage.job")
    if job.project != parent.project:
        raise not_found(job)
    if (
        lineage.dataset_version
        and project_of(lineage.dataset_version, "lineage.dataset_version").project != job.project
    ):
        raise not_found(lineage.dataset_version)
    if lineage.attempt < 1:
        raise invalid("lineage.attempt", lineage.attempt, "1 or more")
    return job


def _published(document: bytes, parent: ModelName, job: JobName) -> model_pb2.ModelVersion:
    version = model_pb2.ModelVersion.FromString(document)
    if not version.name.startswith(f"{parent}/versions/"):
        raise FailedPrecondition(f"{job} has published {version.name} already", resource=job, state=version.name)
    return version


async def _find(session: Session, name: ModelName) -> ModelRow:
    row = await session.models.find(name.project, name.model)
    if row is None:
        raise not_found(name)
    return row


def _model(row: ModelRow) -> model_pb2.Model:
    name = ModelName(row.project, row.model)
    return model_pb2.Model(
        name=str(name),
        uid=row.uid,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        latest_released_version=f"{name}/versions/{row.latest_released}" if row.latest_released else "",
        create_time=timestamp(row.create_time),
    )
