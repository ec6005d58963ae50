"""Auth's gRPC services: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from google.protobuf.duration_pb2 import Duration

from loupe.auth.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    group_service_pb2,
    group_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from loupe.identity import current_caller
from loupe.names import AccountName, GroupName, JobName, ProjectName, ThresholdName
from services.auth.accounts.accounts import Accounts
from services.auth.groups.groups import Groups
from services.auth.messages import (
    account_message,
    acting_account,
    address,
    decision_message,
    group_message,
    idempotency,
    threshold_message,
    tokens_message,
)
from services.auth.policy.authority import Authority
from services.auth.policy.explain import why_denied
from services.auth.sessions.attempt_tokens import Attempts
from services.auth.sessions.endpoints import Endpoints
from services.auth.sessions.sessions import Sessions
from services.auth.sessions.tokens import KeyRing

Context = grpc.aio.ServicerContext


class AccountServicer(account_service_pb2_grpc.AccountServiceServicer):
    """Speaks loupe.auth.v1.AccountService."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def CreateAccount(self, request, context: Context):
        asked = idempotency("CreateAccount", request, "password")
        account = await self._accounts.create(
            asked, request.account_id, request.account.display_name, request.password, request.group
        )
        return account_service_pb2.CreateAccountResponse(account=account_message(account))

    async def GetAccount(self, request, context: Context):
        account = await self._accounts.get(AccountName.parse(request.name))
        return account_service_pb2.GetAccountResponse(account=account_message(account))

    async def ListAccounts(self, request, context: Context):
        accounts, token = await self._accounts.list(request.page_size, request.page_token)
        page = [account_message(account) for account in accounts]
        return account_service_pb2.ListAccountsResponse(accounts=page, next_page_token=token)

    async def DisableAccount(self, request, context: Context):
        account = await self._accounts.set_disabled(acting_account(), AccountName.parse(request.name), True)
        return account_service_pb2.DisableAccountResponse(account=account_message(account))

    async def EnableAccount(self, request, context: Context):
        account = await self._accounts.set_disabled(acting_account(), AccountName.parse(request.name), False)
        return account_service_pb2.EnableAccountResponse(account=account_message(account))

    async def SetPassword(self, request, context: Context):
        name, caller = AccountName.parse(request.name), current_caller()
        await self._accounts.set_password(
            acting_account(),
            name,
            login=caller.login,
            old_password=request.old_password,
            new_password=request.new_password,
            peer=address(context),
        )
        return account_service_pb2.SetPasswordResponse()


class GroupServicer(group_service_pb2_grpc.GroupServiceServicer):
    """Speaks loupe.auth.v1.GroupService."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    async def CreateGroup(self, request, context: Context):
        asked, project = idempotency("CreateGroup", request), ProjectName.parse(request.parent, "parent")
        group = await self._groups.create(asked, project, request.group_id, request.group.permission_parameter)
        return group_service_pb2.CreateGroupResponse(group=group_message(group))

    async def GetGroup(self, request, context: Context):
        group = await self._groups.get(GroupName.parse(request.name))
        return group_service_pb2.GetGroupResponse(group=group_message(group))

    async def ListGroups(self, request, context: Context):
        project = ProjectName.parse(request.parent, "parent")
        groups, token = await self._groups.list(project, request.page_size, request.page_token)
        page = [group_message(group) for group in groups]
        return group_service_pb2.ListGroupsResponse(groups=page, next_page_token=token)

    async def UpdateGroup(self, request, context: Context):
        name = GroupName.parse(request.group.name, "group.name")
        group = await self._groups.update(acting_account(), name, request.group.permission_parameter)
        return group_service_pb2.UpdateGroupResponse(group=group_message(group))

    async def DeleteGroup(self, request, context: Context):
        await self._groups.delete(acting_account(), GroupName.parse(request.name))
        return group_service_pb2.DeleteGroupResponse()

    async def AddMember(self, request, context: Context):
        name, account = GroupName.parse(request.name), AccountName.parse(request.account, "account")
        group = await self._groups.add_member(acting_account(), name, account)
        return group_service_pb2.AddMemberResponse(group=group_message(group))

    async def RemoveMember(self, request, context: Context):
        name, account = GroupName.parse(request.name), AccountName.parse(request.account, "account")
        group = await self._groups.remove_member(acting_account(), name, account)
        return group_service_pb2.RemoveMemberResponse(group=group_message(group))

    async def ListMembers(self, request, context: Context):
        name = GroupName.parse(request.name)
        accounts, token = await self._groups.members(name, request.page_size, request.page_token)
        names = [str(account) for account in accounts]
        return group_service_pb2.ListMembersResponse(accounts=names, next_page_token=token)

    async def ListThresholds(self, request, context: Context):
        thresholds = [threshold_message(name, value) for name, value in self._groups.thresholds()]
        return group_service_pb2.ListThresholdsResponse(thresholds=thresholds)

    async def SetThreshold(self, request, context: Context):
        name = ThresholdName.parse(request.threshold.name, "threshold.name")
        value = await self._groups.set_threshold(name, request.threshold.value)
        return group_service_pb2.SetThresholdResponse(threshold=threshold_message(name, value))


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Speaks loupe.auth.v1.PolicyService."""

    def __init__(self, authority: Authority, groups: Groups, attempts: Attempts) -> None:
        self._authority = authority
        self._groups = groups
        self._attempts = attempts

    async def Authorize(self, request, context: Context):
        account = AccountName.parse(request.account, "account")
        project = ProjectName.parse(request.project, "project")
        decision = await self._authority.decide(account, project, request.action, request.login)
        return policy_service_pb2.AuthorizeResponse(
            decision=decision_message(decision), revision=self._authority.revision
        )

    async def WhyDenied(self, request, context: Context):
        by, login = acting_account(), current_caller().login
        account = AccountName.parse(request.account, "account") if request.account else by
        project = ProjectName.parse(request.project, "project")
        decision, explanation = await why_denied(self._authority, by, account, project, request.action, login=login)
        return policy_service_pb2.WhyDeniedResponse(decision=decision_message(decision), explanation=explanation)

    async def WatchPolicy(self, request, context: Context) -> AsyncIterator[policy_service_pb2.WatchPolicyResponse]:
        async for revision in self._authority.revisions():
            yield policy_service_pb2.WatchPolicyResponse(revision=revision)

    async def EnsureProject(self, request, context: Context):
        project = ProjectName.parse(request.project, "project")
        owner = AccountName.parse(request.owner, "owner")
        await self._groups.ensure_project(project, request.project_uid, owner)
        return policy_service_pb2.EnsureProjectResponse()

    async def ListMemberships(self, request, context: Context):
        projects = self._authority.memberships(AccountName.parse(request.account, "account"))
        return policy_service_pb2.ListMembershipsResponse(projects=[str(project) for project in projects])

    async def IssueAttemptToken(self, request, context: Context):
        account, job = AccountName.parse(request.account, "account"), JobName.parse(request.job, "job")
        token, lifetime = self._attempts.issue(account, job, request.attempt)
        return policy_service_pb2.IssueAttemptTokenResponse(token=token, lifetime=Duration(seconds=lifetime))


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Speaks loupe.auth.v1.SessionService."""

    def __init__(self, sessions: Sessions, accounts: Accounts, keys: KeyRing, endpoints: Endpoints) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._keys = keys
        self._endpoints = endpoints

    async def Login(self, request, context: Context):
        account = AccountName.parse(request.account, "account")
        pair, described = await self._sessions.login(account, request.password, address(context))
        return session_service_pb2.LoginResponse(tokens=tokens_message(pair), account=account_message(described))

    async def Refresh(self, request, context: Context):
        pair = await self._sessions.refresh(request.refresh_token, request.request_id)
        return session_service_pb2.RefreshResponse(tokens=tokens_message(pair))

    async def Logout(self, request, context: Context):
        await self._sessions.logout(request.refresh_token)
        return session_service_pb2.LogoutResponse()

    async def WhoAmI(self, request, context: Context):
        account = await self._accounts.get(acting_account())
        return session_service_pb2.WhoAmIResponse(account=account_message(account))

    async def GetJwks(self, request, context: Context):
        return session_service_pb2.GetJwksResponse(jwks_json=self._keys.jwks())

    async def ListEndpoints(self, request, context: Context):
        found = await self._endpoints.find()
        return session_service_pb2.ListEndpointsResponse(
            storage=found.storage, scheduler=found.scheduler, nats_url=found.nats_url
        )
