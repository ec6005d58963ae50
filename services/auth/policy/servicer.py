"""The RPCs about the policy: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.duration_pb2 import Duration

from loupe.auth.v1 import policy_service_pb2 as rpc
from loupe.auth.v1.policy_service_pb2_grpc import PolicyServiceServicer
from loupe.identity import current_caller
from loupe.names import AccountName, JobName, ProjectName
from loupe.rpc.calls import acting_account
from services.auth.policy.authority import Authority
from services.auth.policy.explain import explain
from services.auth.policy.messages import pack_decision


class PolicyServicer(PolicyServiceServicer):
    """Serves loupe.auth.v1.PolicyService.

    ensure_project, remove_project, attempt_token: what the rooms of groups and of sessions do for it.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        ensure_project: Callable[[ProjectName, str, AccountName], Awaitable[None]],
        remove_project: Callable[[ProjectName, str], Awaitable[None]],
        attempt_token: Callable[[AccountName, JobName, int], Awaitable[tuple[str, int]]],
    ) -> None:
        self._authority = authority
        self._ensure_project = ensure_project
        self._remove_project = remove_project
        self._attempt_token = attempt_token

    async def Authorize(self, request: rpc.AuthorizeRequest, context: object) -> rpc.AuthorizeResponse:
        """Decide whether an account may do an action in a project."""
        account = AccountName.parse(request.account, "account")
        project = ProjectName.parse(request.project, "project")
        decision = await self._authority.decide(account, project, request.action, request.login)
        return rpc.AuthorizeResponse(decision=pack_decision(decision), revision=self._authority.revision)

    async def WhyDenied(self, request: rpc.WhyDeniedRequest, context: object) -> rpc.WhyDeniedResponse:
        """Explain a decision to whoever may know."""
        by, login = acting_account(), current_caller().login
        account = AccountName.parse(request.account, "account") if request.account else by
        project = ProjectName.parse(request.project, "project")
        decision, explanation = await explain(self._authority, by, account, project, request.action, login=login)
        return rpc.WhyDeniedResponse(decision=pack_decision(decision), explanation=explanation)

    async def WatchPolicy(
        self, request: rpc.WatchPolicyRequest, context: object
    ) -> AsyncIterator[rpc.WatchPolicyResponse]:
        """Send the policy's revision at once, at every change and every second."""
        async for revision in self._authority.revisions():
            yield rpc.WatchPolicyResponse(revision=revision)

    async def EnsureProject(self, request: rpc.EnsureProjectRequest, context: object) -> rpc.EnsureProjectResponse:
        """Make the predefined groups of a new project."""
        project = ProjectName.parse(request.project, "project")
        owner = AccountName.parse(request.owner, "owner")
        await self._ensure_project(project, request.project_uid, owner)
        return rpc.EnsureProjectResponse()

    async def RemoveProject(self, request: rpc.RemoveProjectRequest, context: object) -> rpc.RemoveProjectResponse:
        """Forget the groups of a project that is gone."""
        await self._remove_project(ProjectName.parse(request.project, "project"), request.project_uid)
        return rpc.RemoveProjectResponse()

    async def ListMemberships(
        self, request: rpc.ListMembershipsRequest, context: object
    ) -> rpc.ListMembershipsResponse:
        """List the projects that an account is in."""
        projects = self._authority.memberships(AccountName.parse(request.account, "account"))
        return rpc.ListMembershipsResponse(projects=map(str, projects))

    async def IssueAttemptToken(
        self, request: rpc.IssueAttemptTokenRequest, context: object
    ) -> rpc.IssueAttemptTokenResponse:
        """Return the token with which a training attempt works."""
        account, job = AccountName.parse(request.account, "account"), JobName.parse(request.job, "job")
        token, lifetime = await self._attempt_token(account, job, request.attempt)
        return rpc.IssueAttemptTokenResponse(token=token, lifetime=Duration(seconds=lifetime))
