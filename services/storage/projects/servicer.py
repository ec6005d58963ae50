"""ProjectService: unpack, call, pack."""

from __future__ import annotations

import grpc

from loupe.names import ProjectName
from loupe.storage.v1 import project_service_pb2 as messages
from loupe.storage.v1 import project_service_pb2_grpc
from services.storage.projects.projects import Projects
from services.storage.streams import require_account


class ProjectServicer(project_service_pb2_grpc.ProjectServiceServicer):
    """Serves loupe.storage.v1.ProjectService."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    async def CreateProject(
        self, request: messages.CreateProjectRequest, context: grpc.aio.ServicerContext
    ) -> messages.CreateProjectResponse:
        project = await self._projects.create(
            request.project_id, request.project.display_name, require_account(), request.request_id
        )
        return messages.CreateProjectResponse(project=project)

    async def GetProject(
        self, request: messages.GetProjectRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetProjectResponse:
        return messages.GetProjectResponse(project=await self._projects.get(ProjectName.parse(request.name)))

    async def ListProjects(
        self, request: messages.ListProjectsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListProjectsResponse:
        page, more = await self._projects.list(require_account(), request.page_size, request.page_token)
        return messages.ListProjectsResponse(projects=page, next_page_token=more)
