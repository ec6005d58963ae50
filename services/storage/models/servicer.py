"""ModelService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from loupe.identity import current_caller
from loupe.names import JobName, ModelName, ModelVersionName, ProjectName
from loupe.rpc.calls import idempotent
from loupe.storage.v1 import model_service_pb2 as rpc
from loupe.storage.v1.model_service_pb2_grpc import ModelServiceServicer
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.fences import Fences
from services.storage.models import messages
from services.storage.models.checkpoints import Checkpoints
from services.storage.models.deletion import ModelDeletion
from services.storage.models.library import Models


class ModelServicer(ModelServiceServicer):
    """Serves loupe.storage.v1.ModelService."""

    def __init__(
        self,
        models: Models,
        deletion: ModelDeletion,
        checkpoints: Checkpoints,
        fences: Fences,
        downloads: Downloads,
    ) -> None:
        self._models = models
        self._deletion = deletion
        self._checkpoints = checkpoints
        self._fences = fences
        self._downloads = downloads

    async def PublishModelVersion(
        self, request: rpc.PublishModelVersionRequest, context: object
    ) -> rpc.PublishModelVersionResponse:
        """Put a job's result into the library."""
        parent = ModelName.parse(request.parent, "parent")
        version = await self._models.publish(parent, messages.unpack_trained(request.model_version))
        return rpc.PublishModelVersionResponse(model_version=messages.pack_version(version))

    async def GetModel(self, request: rpc.GetModelRequest, context: object) -> rpc.GetModelResponse:
        """Return a model."""
        model = await self._models.get(ModelName.parse(request.name), show_deleted=request.show_deleted)
        return rpc.GetModelResponse(model=messages.pack_model(model))

    async def ListModels(self, request: rpc.ListModelsRequest, context: object) -> rpc.ListModelsResponse:
        """List a project's models, by id."""
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._models.page(
            project, request.page_size, request.page_token, show_deleted=request.show_deleted
        )
        return rpc.ListModelsResponse(models=map(messages.pack_model, page), next_page_token=more)

    async def GetModelVersion(
        self, request: rpc.GetModelVersionRequest, context: object
    ) -> rpc.GetModelVersionResponse:
        """Return a version with its report."""
        name = ModelVersionName.parse(request.name)
        version = await self._models.get_version(name, show_deleted=request.show_deleted)
        return rpc.GetModelVersionResponse(model_version=messages.pack_version(version))

    async def ListModelVersions(
        self, request: rpc.ListModelVersionsRequest, context: object
    ) -> rpc.ListModelVersionsResponse:
        """List a model's versions without their reports, newest first."""
        name = ModelName.parse(request.parent, "parent")
        page, more = await self._models.page_versions(
            name, request.page_size, request.page_token, show_deleted=request.show_deleted
        )
        return rpc.ListModelVersionsResponse(model_versions=map(messages.pack_summary, page), next_page_token=more)

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

    async def DeleteModelVersion(
        self, request: rpc.DeleteModelVersionRequest, context: object
    ) -> rpc.DeleteModelVersionResponse:
        """Delete a version."""
        name = ModelVersionName.parse(request.name)
        answer = await self._deletion.delete_version(name, idempotent("DeleteModelVersion", request))
        return rpc.DeleteModelVersionResponse.FromString(answer)

    async def UndeleteModelVersion(
        self, request: rpc.UndeleteModelVersionRequest, context: object
    ) -> rpc.UndeleteModelVersionResponse:
        """Restore a version."""
        name = ModelVersionName.parse(request.name)
        answer = await self._deletion.restore_version(name, idempotent("UndeleteModelVersion", request))
        return rpc.UndeleteModelVersionResponse.FromString(answer)

    async def DeleteModel(self, request: rpc.DeleteModelRequest, context: object) -> rpc.DeleteModelResponse:
        """Delete a model with its versions."""
        answer = await self._deletion.delete(ModelName.parse(request.name), idempotent("DeleteModel", request))
        return rpc.DeleteModelResponse.FromString(answer)

    async def UndeleteModel(self, request: rpc.UndeleteModelRequest, context: object) -> rpc.UndeleteModelResponse:
        """Restore a model, and the versions that were deleted with it."""
        answer = await self._deletion.restore(ModelName.parse(request.name), idempotent("UndeleteModel", request))
        return rpc.UndeleteModelResponse.FromString(answer)

    async def RaiseFence(self, request: rpc.RaiseFenceRequest, context: object) -> rpc.RaiseFenceResponse:
        """Refuse what older attempts of a job write from now on."""
        job = JobName.parse(request.job, "job")
        attempt = await self._fences.raise_to(job, request.attempt)
        return rpc.RaiseFenceResponse(attempt=attempt)

    async def SaveCheckpoint(self, request: rpc.SaveCheckpointRequest, context: object) -> rpc.SaveCheckpointResponse:
        """Put a checkpoint in place of the job's last one."""
        await self._checkpoints.save(messages.unpack_checkpoint(request.checkpoint), current_caller().attempt)
        return rpc.SaveCheckpointResponse()

    async def GetCheckpoint(self, request: rpc.GetCheckpointRequest, context: object) -> rpc.GetCheckpointResponse:
        """Return the job's last whole checkpoint; empty when there is none."""
        job, caller = JobName.parse(request.job, "job"), current_caller()
        checkpoint = await self._checkpoints.get(job, caller.attempt, of_any=caller.service == "scheduler")
        return rpc.GetCheckpointResponse(checkpoint=messages.pack_checkpoint(checkpoint) if checkpoint else None)

    async def CopyCheckpoint(self, request: rpc.CopyCheckpointRequest, context: object) -> rpc.CopyCheckpointResponse:
        """Have a job begin with the last checkpoint of another one."""
        await self._checkpoints.copy(JobName.parse(request.job, "job"), JobName.parse(request.source, "source"))
        return rpc.CopyCheckpointResponse()

    async def RemoveCheckpoint(
        self, request: rpc.RemoveCheckpointRequest, context: object
    ) -> rpc.RemoveCheckpointResponse:
        """Remove the last checkpoint of a job that is over."""
        await self._checkpoints.remove(JobName.parse(request.job, "job"))
        return rpc.RemoveCheckpointResponse()
