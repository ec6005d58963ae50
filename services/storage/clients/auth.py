"""What storage asks of auth, over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import grpc

from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.names import AccountName, ProjectName

_SECONDS = 10


class Memberships(Protocol):
    """Knows which accounts are in which projects."""

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Make the project's groups and put the owner into "owners"; once per uid. Raises Unavailable."""

    async def of(self, account: AccountName) -> list[ProjectName]:
        """Return the projects that an account is in. Raises Unavailable."""

    async def may(self, account: AccountName, project: ProjectName, action: str, login: str) -> bool:
        """Say whether an account may do something in a project. Raises Unavailable."""

    async def forget_project(self, project: ProjectName, uid: str) -> None:
        """Forget a purged project's groups and who is in them. Idempotent per uid. Raises Unavailable."""


class AuthMemberships:
    """Asks auth's PolicyService.

    channel: returns a channel to auth.
    """

    def __init__(self, channel: Callable[[], Awaitable[grpc.aio.Channel]]) -> None:
        self._channel = channel

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Make the project's groups and put the owner into "owners"."""
        request = policy_service_pb2.EnsureProjectRequest(project=str(project), project_uid=uid, owner=str(owner))
        await (await self._stub()).EnsureProject(request, timeout=_SECONDS)

    async def of(self, account: AccountName) -> list[ProjectName]:
        """Return the projects that an account is in."""
        request = policy_service_pb2.ListMembershipsRequest(account=str(account))
        answer = await (await self._stub()).ListMemberships(request, timeout=_SECONDS)
        return [ProjectName.parse(name, "projects") for name in answer.projects]

    async def may(self, account: AccountName, project: ProjectName, action: str, login: str) -> bool:
        """Say whether an account may do something in a project."""
        request = policy_service_pb2.AuthorizeRequest(
            account=str(account), project=str(project), action=action, login=login
        )
        decision = (await (await self._stub()).Authorize(request, timeout=_SECONDS)).decision
        return decision.allowed and decision.active

    async def forget_project(self, project: ProjectName, uid: str) -> None:
        """Forget a purged project's groups and who is in them."""
        request = policy_service_pb2.RemoveProjectRequest(project=str(project), project_uid=uid)
        await (await self._stub()).RemoveProject(request, timeout=_SECONDS)

    async def _stub(self) -> policy_service_pb2_grpc.PolicyServiceAsyncStub:
        return policy_service_pb2_grpc.PolicyServiceStub(await self._channel())
