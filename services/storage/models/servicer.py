"""ModelService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from loupe.identity import current_caller
from loupe.names import JobName, ModelName, ModelVersionName, ProjectName
from loupe.storage.v1 import model_service_pb2 as rpc
from loupe.storage.v1.model_service_pb2_grpc import ModelServiceServicer
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.fences import Fences
from services.storage.models import messages
from services.storage.models.checkpoints import Checkpoints
from services.storage.models.library import Models


class ModelServicer(ModelServiceServicer):
    """Serves loupe.storage.v1.ModelService."""

    def __init__(self, models: Models, checkpoints: Checkpoints, fences: Fences, downloads: Downloads) -> None:
        self._models = models
        self._checkpoints = checkpoints
        self._fences = fences
        self._downloads = downloads

    async def PublishModelVersion(
        self, request: rpc.PublishModelVersionRequest, context: object
    ) -> rpc.PublishModelVersionResponse:
        """Put a job's result into the library."""
        parent = ModelName.parse(request.parent, "parent")
        version = await self._models.publish(parent, messages.unpack_trained(request.model_version))
        return rpc.PublishModelVersionResponse(model_version=messages.pack_version(version.document))

    async def GetModel(self, request: rpc.GetModelRequest, context: object) -> rpc.GetModelResponse:
        """Return a model."""
        model = await self._models.get(ModelName.parse(request.name))
        return rpc.GetModelResponse(model=messages.pack_model(model))

    async def ListModels(self, request: rpc.ListModelsRequest, context: object) -> rpc.ListModelsResponse:
        """List a project's models, by id."""
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._models.page(project, request.page_size, request.page_token)
        return rpc.ListModelsResponse(models=map(messages.pack_model, page), next_page_token=more)

    async def GetModelVersion(
        self, request: rpc.GetModelVersionRequest, context: object
    ) -> rpc.GetModelVersionResponse:
        """Return a version with its report."""
        version = await self._models.get_version(ModelVersionName.parse(request.name))
        return rpc.GetModelVersionResponse(model_version=messages.pack_version(version.document))

    async def ListModelVersions(
        self, request: rpc.ListModelVersionsRequest, context: object
    ) -> rpc.ListModelVersionsResponse:
        """List a model's versions without their reports, newest first."""
        name = ModelName.parse(request.parent, "parent")
        page, more = await self._models.page_versions(name, request.page_size, request.page_token)
        packed = [messages.pack_summary(version.document) for version in page]
        return rpc.ListModelVersionsResponse(model_versions=packed, next_page_token=more)

    async def DownloadModelFile(
        self, request: rpc.DownloadModelFileRequest, context: object
    ) -> AsyncIterator[rpc.DownloadModelFileResponse]:
        """Send a version's file."""
        name = ModelVersionName.parse(request.name)
        file = await self._models.file(name, request.filename)
        found = self._downloads.read(ProjectName(name.project), [file.digest], request.offset)
        async with aclosing(found):
            async for chunks in found:
                yield rpc.DownloadModelFileResponse(chunk=chunks[0].data)

    async def RaiseFence(self, request: rpc.RaiseFenceRequest, context: object) -> rpc.RaiseFenceResponse:
        """Refuse what older attempts of a job write from now on."""
        attempt = await self._fences.raise_to(JobName.parse(request.job, "job"), request.attempt)
        return rpc.RaiseFenceResponse(attempt=attempt)

    async def SaveCheckpoint(self, request: rpc.SaveCheckpointRequest, context: object) -> rpc.SaveCheckpointResponse:
        """Put a checkpoint in place of the job's last one."""
        await self._checkpoints.save(messages.unpack_checkpoint(request.checkpoint), current_caller().attempt)
        return rpc.SaveCheckpointResponse()

    async def GetCheckpoint(self, request: rpc.GetCheckpointRequest, context: object) -> rpc.GetCheckpointResponse:
        """Return the job's last whole checkpoint; empty when there is none."""
        checkpoint = await self._checkpoints.get(JobName.parse(request.job, "job"), current_caller().attempt)
        return rpc.GetCheckpointResponse(checkpoint=messages.pack_checkpoint(checkpoint) if checkpoint else None)
