"""Models: listing the library, pulling a version to this machine, and receiving what is released."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from loupe.errors import Fact, NotFound, invalid
from loupe.names import ModelName, ModelVersionName
from loupe.storage.v1 import model_pb2
from loupe.storage.v1 import model_service_pb2 as service
from loupe.storage.v1.model_service_pb2_grpc import ModelServiceStub
from loupe.terminal.clearing import clear
from loupe.terminal.connection import Connection, Service, flatten
from loupe.terminal.jobs import Jobs
from loupe.terminal.progress import PullProgress
from loupe.terminal.pull import Pulled, pull_version
from loupe.terminal.releases import POLL_SECONDS, JobEnds, Problem, Releases

LATEST = "latest"


class NotReleased(NotFound):
    """The model is there, but none of its versions passed its gate. newest: the name of the newest one."""

    newest = Fact(str)


class Models:
    """The model library of the projects that the account is in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models = Service(connection, ModelServiceStub)

    async def get(self, name: str) -> model_pb2.Model:
        """Return a model. Raises NotFound."""
        request = service.GetModelRequest(name=name)
        return (await self._models.call(lambda stub: stub.GetModel, request)).model

    def list(self, project: str) -> AsyncIterator[model_pb2.Model]:
        """Yield a project's models, by id."""
        request = service.ListModelsRequest(parent=project)
        return flatten(self._models.pages(lambda stub: stub.ListModels, request), lambda page: page.models)

    async def version(self, name: str) -> model_pb2.ModelVersion:
        """Return a version; "latest" is the newest released one.

        Raises NotFound, NotReleased where the model has versions of which none is released.
        """
        request = service.GetModelVersionRequest(name=name)
        try:
            return (await self._models.call(lambda stub: stub.GetModelVersion, request)).model_version
        except NotFound as error:
            model, _, number = name.rpartition("/versions/")
            if number == LATEST and (newest := await self._newest(model)):
                raise _not_released(name, newest) from error
            raise

    def versions(self, model: str, page_size: int = 0) -> AsyncIterator[model_pb2.ModelVersion]:
        """Yield a model's versions, newest first, without their reports; page_size: how many are asked for at once."""
        request = service.ListModelVersionsRequest(parent=model, page_size=page_size)
        return flatten(
            self._models.pages(lambda stub: stub.ListModelVersions, request), lambda page: page.model_versions
        )

    async def delete(self, name: str) -> service.DeleteModelResponse:
        """Delete a model with its versions; until its expire_time it can be restored. Raises NotFound."""
        request = service.DeleteModelRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._models.call(lambda stub: stub.DeleteModel, request)

    async def undelete(self, name: str) -> service.UndeleteModelResponse:
        """Restore a model with the versions that were deleted with it. Raises NotFound, AlreadyExists."""
        request = service.UndeleteModelRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._models.call(lambda stub: stub.UndeleteModel, request)

    async def delete_version(self, name: str) -> service.DeleteModelVersionResponse:
        """Delete a version and say which one is the newest now. Raises NotFound."""
        request = service.DeleteModelVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._models.call(lambda stub: stub.DeleteModelVersion, request)

    async def undelete_version(self, name: str) -> service.UndeleteModelVersionResponse:
        """Restore a version and say which one is the newest now.

        Raises NotFound once it is purged, AlreadyExists, FailedPrecondition while all of it is deleted.
        """
        request = service.UndeleteModelVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return await self._models.call(lambda stub: stub.UndeleteModelVersion, request)

    async def deleted(self, project: str) -> AsyncGenerator[model_pb2.Model | model_pb2.ModelVersion]:
        """Yield what is deleted in a project and can be restored: each whole, or the versions of one that is there."""
        request = service.ListModelsRequest(parent=project, show_deleted=True)
        pages = self._models.pages(lambda stub: stub.ListModels, request)
        async for one in flatten(pages, lambda page: page.models):
            if one.HasField("delete_time"):
                yield one
                continue
            of_it = service.ListModelVersionsRequest(parent=one.name, show_deleted=True)
            of_pages = self._models.pages(lambda stub: stub.ListModelVersions, of_it)
            async for version in flatten(of_pages, lambda page: page.model_versions):
                if version.HasField("delete_time"):
                    yield version

    async def newest(self, model: model_pb2.Model) -> model_pb2.ModelVersion | None:
        """Return a model's newest released version, without its report; its newest while none is released."""
        wanted = model.latest_released_version or model.latest_version
        page_size = 1 if wanted == model.latest_version else 0
        async for one in self.versions(model.name, page_size):
            if one.name == wanted:
                return one
        return None

    async def _newest(self, model: str) -> Sequence[model_pb2.ModelVersion]:
        """Return the two newest versions of a model, as far as there are any."""
        found = []
        async for one in self.versions(model, page_size=2):
            found.append(one)
            if len(found) == 2:
                break
        return found

    async def pull(
        self,
        name: str,
        folder: Path | None = None,
        *,
        allow_below_target: bool = False,
        named: bool = False,
        show: Callable[[PullProgress], None] = lambda progress: None,
    ) -> Pulled:
        """Bring a version to this machine, checked, and say where it is; see `loupe.terminal.pull`.

        name: its number may be "latest", the newest released one; with allow_below_target, the newest where none is.
        named: this very version is wanted, and `follow` with `keep` leaves it alone.
        """
        try:
            version = await self.version(name)
        except NotReleased as error:
            if not allow_below_target or error.newest is None:
                raise
            version = await self.version(error.newest)

        def read(filename: str, offset: int) -> AsyncGenerator[bytes]:
            return self._chunks(version.name, filename, offset)

        return await pull_version(version, read, folder, allow_below_target=allow_below_target, named=named, show=show)

    def follow(
        self,
        project: str,
        models: Collection[str] = (),
        *,
        once: bool = False,
        keep: int | None = None,
        show: Callable[[PullProgress], None] = lambda progress: None,
        on_problem: Callable[[Problem], None] = lambda problem: None,
        poll_seconds: float = POLL_SECONDS,
    ) -> AsyncGenerator[Pulled]:
        """Yield the newest released version of each model as it stands on this machine, and each new one as it comes.

        project: "projects/{project}". models: ids of the models, also of ones that are yet to come; all when empty.
        once: end when those of now are here. keep: how many released versions of a model stay here, the newest; all
        when None; see `loupe.terminal.clearing`. Each was checked and was installed beside the old one; see
        `loupe.terminal.releases`. A mesh that is away is waited for. A release arrives within a second or two after the
        end of a job that was active at the last look, else `poll_seconds` after it at most.

            async for arrived in loupe.models.follow("projects/line-7", ["screws"]):
                classifier = Classifier(arrived.folder)
        """
        if keep is not None and keep < 1:
            raise invalid("keep", keep, "1 or more")

        async def bring(version: str) -> Pulled:
            pulled = await self.pull(version, show=show)
            if keep is None:
                return pulled
            parsed = ModelVersionName.parse(version)
            return replace(pulled, cleared=await clear(ModelName(parsed.project, parsed.model), keep))

        releases = Releases(
            lambda: self.list(project),
            bring,
            JobEnds(Jobs(self._connection), project).wait,
            wanted=models,
            on_problem=on_problem,
            poll_seconds=poll_seconds,
        )
        return releases.arrivals(once=once)

    async def _chunks(self, name: str, filename: str, offset: int) -> AsyncGenerator[bytes]:
        request = service.DownloadModelFileRequest(name=name, filename=filename, offset=offset)
        async for response in self._models.read(lambda stub: stub.DownloadModelFile(request)):
            yield response.chunk


def _not_released(name: str, newest: Sequence[model_pb2.ModelVersion]) -> NotReleased:
    version = newest[0].name
    parsed = ModelVersionName.parse(version)
    short = f"{parsed.model}/versions/{parsed.number}"
    told = (
        f"the only version is not released: `{short}`"
        if len(newest) == 1
        else f"no version of {parsed.model} is released; the newest is `{short}`"
    )
    return NotReleased(
        f"{told}; pull it with --allow-below-target, or train until the target is reached",
        resource=name,
        newest=version,
    )
