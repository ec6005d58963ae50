"""ModelService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from loupe.identity import current_caller
from loupe.names import JobName, ModelName, ModelVersionName, ProjectName
from loupe.storage.v1 import model_service_pb2 as messages
from loupe.storage.v1 import model_service_pb2_grpc
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.fences import Fences
from services.storage.models.checkpoints import Checkpoints
from services.storage.models.library import Models


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Serves loupe.storage.v1.ModelService."""

    def __init__(self, models: Models, checkpoints: Checkpoints, fences: Fences, downloads: Downloads) -> None:
        self._models = models
        self._checkpoints = checkpoints
        self._fences = fences
        self._downloads = downloads

    async def PublishModelVersion(
        self, request: messages.PublishModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> messages.PublishModelVersionResponse:
        version = await self._models.publish(ModelName.parse(request.parent, "parent"), request.model_version)
        return messages.PublishModelVersionResponse(model_version=version)

    async def GetModel(
        self, request: messages.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetModelResponse:
        return messages.GetModelResponse(model=await self._models.get(ModelName.parse(request.name)))

    async def ListModels(
        self, request: messages.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListModelsResponse:
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._models.list(project, request.page_size, request.page_token)
        return messages.ListModelsResponse(models=page, next_page_token=more)

    async def GetModelVersion(
        self, request: messages.GetModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetModelVersionResponse:
        version = await self._models.get_version(ModelVersionName.parse(request.name))
        return messages.GetModelVersionResponse(model_version=version)

    async def ListModelVersions(
        self, request: messages.ListModelVersionsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListModelVersionsResponse:
        name = ModelName.parse(request.parent, "parent")
        page, more = await self._models.list_versions(name, request.page_size, request.page_token)
        return messages.ListModelVersionsResponse(model_versions=page, next_page_token=more)

    async def DownloadModelFile(
        self, request: messages.DownloadModelFileRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.DownloadModelFileResponse]:
        name = ModelVersionName.parse(request.name)
        file = await self._models.file(name, request.filename)
        async for pieces in self._downloads.read(ProjectName(name.project), [file.digest], request.offset):
            yield messages.DownloadModelFileResponse(chunk=pieces[0].data)

    async def RaiseFence(
        self, request: messages.RaiseFenceRequest, context: grpc.aio.ServicerContext
    ) -> messages.RaiseFenceResponse:
        attempt = await self._fences.raise_to(JobName.parse(request.job, "job"), request.attempt)
        return messages.RaiseFenceResponse(attempt=attempt)

    async def SaveCheckpoint(
        self, request: messages.SaveCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> messages.SaveCheckpointResponse:
        await self._checkpoints.save(request.checkpoint, current_caller().attempt)
        return messages.SaveCheckpointResponse()

    async def GetCheckpoint(
        self, request: messages.GetCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetCheckpointResponse:
        checkpoint = await self._checkpoints.get(JobName.parse(request.job, "job"), current_caller().attempt)
        return messages.GetCheckpointResponse(checkpoint=checkpoint)
