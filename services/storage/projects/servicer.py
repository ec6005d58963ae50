"""ProjectService: unpack, call, pack."""

from __future__ import annotations

from loupe.identity import current_caller
from loupe.names import ProjectName
from loupe.rpc.calls import acting_account, idempotent
from loupe.storage.v1 import project_service_pb2 as rpc
from loupe.storage.v1.project_service_pb2_grpc import ProjectServiceServicer
from services.storage.projects.deletion import ProjectDeletion
from services.storage.projects.messages import pack_project, pack_quota, pack_usage
from services.storage.projects.projects import Projects
from services.storage.projects.usage import Usages


class ProjectServicer(ProjectServiceServicer):
    """Serves loupe.storage.v1.ProjectService."""

    def __init__(self, projects: Projects, deletion: ProjectDeletion, usages: Usages) -> None:
        self._projects = projects
        self._deletion = deletion
        self._usages = usages

    async def CreateProject(self, request: rpc.CreateProjectRequest, context: object) -> rpc.CreateProjectResponse:
        """Make a project; the caller owns it."""
        project = await self._projects.create(
            request.project_id, request.project.display_name, acting_account(), request.request_id
        )
        return rpc.CreateProjectResponse(project=pack_project(project))

    async def GetProject(self, request: rpc.GetProjectRequest, context: object) -> rpc.GetProjectResponse:
        """Return a project."""
        name = ProjectName.parse(request.name)
        project = await self._projects.get(name, current_caller(), show_deleted=request.show_deleted)
        return rpc.GetProjectResponse(project=pack_project(project))

    async def ListProjects(self, request: rpc.ListProjectsRequest, context: object) -> rpc.ListProjectsResponse:
        """List the caller's projects, by id."""
        page, more = await self._projects.page(
            current_caller(), request.page_size, request.page_token, show_deleted=request.show_deleted
        )
        return rpc.ListProjectsResponse(projects=map(pack_project, page), next_page_token=more)

    async def GetProjectUsage(
        self, request: rpc.GetProjectUsageRequest, context: object
    ) -> rpc.GetProjectUsageResponse:
        """Say what a project holds and may hold."""
        room, parts = await self._usages.report(ProjectName.parse(request.name))
        return rpc.GetProjectUsageResponse(usage=pack_usage(room, parts))

    async def SetProjectQuota(
        self, request: rpc.SetProjectQuotaRequest, context: object
    ) -> rpc.SetProjectQuotaResponse:
        """Limit what a project may hold."""
        pictures = request.max_pictures if request.HasField("max_pictures") else None
        size = request.max_bytes if request.HasField("max_bytes") else None
        quota = await self._usages.set_quota(ProjectName.parse(request.name), pictures, size)
        return rpc.SetProjectQuotaResponse(quota=pack_quota(quota))

    async def DeleteProject(self, request: rpc.DeleteProjectRequest, context: object) -> rpc.DeleteProjectResponse:
        """Delete a project with all that is in it."""
        answer = await self._deletion.delete(ProjectName.parse(request.name), idempotent("DeleteProject", request))
        return rpc.DeleteProjectResponse.FromString(answer)

    async def UndeleteProject(
        self, request: rpc.UndeleteProjectRequest, context: object
    ) -> rpc.UndeleteProjectResponse:
        """Restore a project."""
        answer = await self._deletion.restore(ProjectName.parse(request.name), idempotent("UndeleteProject", request))
        return rpc.UndeleteProjectResponse.FromString(answer)
