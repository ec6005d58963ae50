"""Models: listing the library and pulling a version to this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

from loupe.errors import NotFound
from loupe.storage.v1 import model_pb2
from loupe.storage.v1 import model_service_pb2 as service
from loupe.storage.v1.model_service_pb2_grpc import ModelServiceStub
from loupe.terminal.connection import Connection, Service, flatten
from loupe.terminal.progress import PullProgress
from loupe.terminal.pull import Pulled, pull_version


class Models:
    """The model library of the projects that the account is in."""

    def __init__(self, connection: Connection) -> None:
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
        """Return a version; "latest" is the newest released one. Raises NotFound."""
        request = service.GetModelVersionRequest(name=name)
        return (await self._models.call(lambda stub: stub.GetModelVersion, request)).model_version

    def versions(self, model: str) -> AsyncIterator[model_pb2.ModelVersion]:
        """Yield a model's versions, newest first, without their reports."""
        request = service.ListModelVersionsRequest(parent=model)
        return flatten(
            self._models.pages(lambda stub: stub.ListModelVersions, request), lambda page: page.model_versions
        )

    async def pull(
        self,
        name: str,
        folder: Path | None = None,
        *,
        allow_below_target: bool = False,
        show: Callable[[PullProgress], None] = lambda progress: None,
    ) -> Pulled:
        """Bring a version to this machine, checked, and say where it is; see `loupe.terminal.pull`."""
        version = await self._wanted(name, allow_below_target)

        def read(filename: str, offset: int) -> AsyncGenerator[bytes]:
            return self._chunks(version.name, filename, offset)

        return await pull_version(version, read, folder, allow_below_target=allow_below_target, show=show)

    async def _wanted(self, name: str, allow_below_target: bool) -> model_pb2.ModelVersion:
        try:
            return await self.version(name)
        except NotFound as error:
            model, _, number = name.rpartition("/versions/")
            if number != "latest":
                raise
            async for newest in self.versions(model):
                if allow_below_target:
                    return newest
                raise NotFound(
                    f"{model} has no version that reached its target; its newest is {newest.name}: "
                    "pull that by name with --allow-below-target, or train again",
                    resource=name,
                ) from error
            raise

    async def _chunks(self, name: str, filename: str, offset: int) -> AsyncGenerator[bytes]:
        request = service.DownloadModelFileRequest(name=name, filename=filename, offset=offset)
        async for response in self._models.read(lambda stub: stub.DownloadModelFile(request)):
            yield response.chunk
