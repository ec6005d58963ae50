"""The model library: one version per job, numbered without gaps, each with its files and its lineage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from loupe import paging
from loupe.errors import FailedPrecondition, invalid, not_found
from loupe.identity import AttemptGrant
from loupe.lifetimes import PURGED
from loupe.names import ModelName, ModelVersionName, ProjectName, project_of
from services.storage.blobs.blob_references import BlobReference, check_files, hold_files, hold_what_is_there
from services.storage.blobs.fences import require_current
from services.storage.blobs.store import MODEL, PARAMETERS, Holder
from services.storage.database.lifetimes import Lifetime, list_scope
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
        if model is None or model.purged == PURGED:
            put = table.add if model is None else table.revive
            model = ModelRow(parent.project, parent.model, uuid.uuid4().hex, 0, 0, now)
            await put(model)
        elif model.deleted:
            # What a job has made is not lost because its model was deleted meanwhile; other versions stay deleted.
            model = await table.set_lifetime(model, Lifetime())
        number = await table.next_number(parent.project, parent.model)
        name = ModelVersionName(parent.project, parent.model, str(number))
        await hold_files(session, Holder(parent.project, MODEL, str(name)), trained.files)
        await hold_what_is_there(session, Holder(parent.project, PARAMETERS, str(name)), trained.parameter_files)
        document = encode_version(trained, name, uuid.uuid4().hex, now)
        row = ModelVersionRow(
            parent.project,
            parent.model,
            number,
            str(trained.job),
            document,
            trained.released,
            trained.dataset_version,
            trained.base_model,
            trained.algorithm_version,
        )
        await table.add_version(row)
        await table.settle_latest(model)
        return row

    async def get(self, name: ModelName, *, show_deleted: bool = False) -> ModelRow:
        """Return a model, a deleted one only when it is asked for. Raises NotFound."""
        async with self._database.read() as session:
            return await find_model(session, name, show_deleted=show_deleted)

    async def page(
        self, project: ProjectName, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[ModelRow], str]:
        """Return a page of models by id, and the next page's token; deleted ones only when they are asked for."""
        scope, size = list_scope(f"models of {project}", show_deleted=show_deleted), paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await find_project(session, project)
            after = str(last[0]) if last else ""
            rows = await ModelTable(session).page(project.project, after, size + 1, show_deleted=show_deleted)
        more = paging.encode(scope, [rows[size - 1].model]) if len(rows) > size else ""
        return rows[:size], more

    async def get_version(self, name: ModelVersionName, *, show_deleted: bool = False) -> ModelVersionRow:
        """Return a version; "latest" is the newest released one. Raises NotFound, see find_model_version."""
        async with self._database.read() as session:
            return await find_model_version(session, name, show_deleted=show_deleted)

    async def page_versions(
        self, name: ModelName, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[ModelVersionRow], str]:
        """Return a page of versions, newest first, and the next page's token. Raises NotFound.

        Deleted ones are among them only when they are asked for.
        """
        scope, size = list_scope(f"versions of {name}", show_deleted=show_deleted), paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await find_model(session, name, show_deleted=show_deleted)
            before, table = int(last[0]) if last else _NO_LIMIT, ModelTable(session)
            rows = await table.versions(name.project, name.model, before, size + 1, show_deleted=show_deleted)
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
    origins = {"lineage.dataset_version": trained.dataset_version, "lineage.base_model": trained.base_model}
    for field, origin in origins.items():
        if origin and project_of(origin, field).project != parent.project:
            raise not_found(origin)
    if trained.attempt < 1:
        raise invalid("lineage.attempt", trained.attempt, "1 or more")


async def find_model(session: Session, name: ModelName, *, lock: bool = False, show_deleted: bool = False) -> ModelRow:
    """Return a model; see ModelTable.find. Raises NotFound, with show_deleted only where none can be restored."""
    await find_project(session, ProjectName(name.project), name)
    row = await ModelTable(session).find(name.project, name.model, lock=lock)
    if row is None or not row.visible(show_deleted=show_deleted):
        raise not_found(name)
    return row


async def find_model_version(
    session: Session, name: ModelVersionName, *, show_deleted: bool = False
) -> ModelVersionRow:
    """Return a version; "latest" is the newest released one that is not deleted. Raises NotFound, see find_model."""
    await find_project(session, ProjectName(name.project), name)
    if name.number == "latest":
        number = (await find_model(session, ModelName(name.project, name.model))).latest_released
    else:
        number = int(name.number)
    version = await ModelTable(session).version(name.project, name.model, number)
    if version is None or not version.visible(show_deleted=show_deleted):
        raise not_found(name)
    return version
