"""The model library: one version per job, numbered without gaps, each with its files and its lineage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from loupe import paging
from loupe.errors import FailedPrecondition, invalid, not_found
from loupe.identity import AttemptGrant
from loupe.names import ModelName, ModelVersionName, ProjectName, project_of
from services.storage.blobs.blob_references import BlobReference, check_files, hold_files
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import Holder
from services.storage.database.session import Database, Session
from services.storage.models.messages import encode_version, version_files
from services.storage.models.store import ModelRow, ModelTable, ModelVersionRow, TrainedModel
from services.storage.projects.projects import find_project

_NO_LIMIT = 1 << 30


class Models:
    """Publishes and lists models.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def publish(self, parent: ModelName, trained: TrainedModel) -> ModelVersionRow:
        """Put a job's result into the library, or return what this job published before.

        Raises StaleAttempt, BlobMissing, NotFound, InvalidArgument, FailedPrecondition; then nothing was made.
        """
        _check_lineage(parent, trained)
        check_files(trained.files)
        async with self._database.write() as session:
            await find_project(session, ProjectName(parent.project), parent)
            await require_current(session, AttemptGrant(trained.job, trained.attempt))
            there = await ModelTable(session).version_of_job(str(trained.job))
            if there is None:
                return await self._add(session, parent, trained)
        if (there.project, there.model) != (parent.project, parent.model):
            message = f"{trained.job} has published {there.name} already"
            raise FailedPrecondition(message, resource=trained.job, state=there.name)
        return there

    async def _add(self, session: Session, parent: ModelName, trained: TrainedModel) -> ModelVersionRow:
        table, now = ModelTable(session), self._now()
        model = await table.find(parent.project, parent.model, lock=True)
        if model is None:
            model = ModelRow(parent.project, parent.model, uuid.uuid4().hex, 0, 0, now)
            await table.add(model)
        number = model.latest + 1
        name = ModelVersionName(parent.project, parent.model, str(number))
        await hold_files(session, Holder(parent.project, "model", str(name)), trained.files)
        document = encode_version(trained, name, uuid.uuid4().hex, now)
        row = ModelVersionRow(parent.project, parent.model, number, str(trained.job), document)
        await table.add_version(row, trained.released)
        return row

    async def get(self, name: ModelName) -> ModelRow:
        """Return a model. Raises NotFound."""
        async with self._database.read() as session:
            return await _find(session, name)

    async def page(self, project: ProjectName, page_size: int, page_token: str) -> tuple[Sequence[ModelRow], str]:
        """Return a page of models by id, and the next page's token."""
        scope, size = f"models of {project}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            rows = await ModelTable(session).page(project.project, str(last[0]) if last else "", size + 1)
        more = paging.encode(scope, [rows[size - 1].model]) if len(rows) > size else ""
        return rows[:size], more

    async def get_version(self, name: ModelVersionName) -> ModelVersionRow:
        """Return a version; "latest" is the newest released one. Raises NotFound."""
        async with self._database.read() as session:
            if name.number == "latest":
                number = (await _find(session, ModelName(name.project, name.model))).latest_released
            else:
                number = int(name.number)
            version = await ModelTable(session).version(name.project, name.model, number)
        if version is None:
            raise not_found(name)
        return version

    async def page_versions(
        self, name: ModelName, page_size: int, page_token: str
    ) -> tuple[Sequence[ModelVersionRow], str]:
        """Return a page of versions, newest first, and the next page's token. Raises NotFound."""
        scope, size = f"versions of {name}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await _find(session, name)
            before = int(last[0]) if last else _NO_LIMIT
            rows = await ModelTable(session).versions(name.project, name.model, before, size + 1)
        more = paging.encode(scope, [rows[size - 1].number]) if len(rows) > size else ""
        return rows[:size], more

    async def file(self, name: ModelVersionName, filename: str) -> BlobReference:
        """Return a version's file by its name. Raises NotFound."""
        version = await self.get_version(name)
        for file in version_files(version.document):
            if file.filename == filename:
                return file
        raise not_found(f"{version.name}: file {filename!r}")


def _check_lineage(parent: ModelName, trained: TrainedModel) -> None:
    """Refuse a lineage that names something of another project than the model's own."""
    if trained.job.project != parent.project:
        raise not_found(trained.job)
    dataset_version = trained.dataset_version
    if dataset_version and project_of(dataset_version, "lineage.dataset_version").project != parent.project:
        raise not_found(dataset_version)
    if trained.attempt < 1:
        raise invalid("lineage.attempt", trained.attempt, "1 or more")


async def _find(session: Session, name: ModelName) -> ModelRow:
    row = await ModelTable(session).find(name.project, name.model)
    if row is None:
        raise not_found(name)
    return row
