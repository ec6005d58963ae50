"""Accounts, groups, thresholds and projects: who may do what."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from loupe.auth.v1 import account_pb2, group_pb2, policy_service_pb2
from loupe.auth.v1 import account_service_pb2 as account_service
from loupe.auth.v1 import group_service_pb2 as group_service
from loupe.auth.v1.account_service_pb2_grpc import AccountServiceStub
from loupe.auth.v1.group_service_pb2_grpc import GroupServiceStub
from loupe.auth.v1.policy_service_pb2_grpc import PolicyServiceStub
from loupe.storage.v1 import project_pb2
from loupe.storage.v1 import project_service_pb2 as project_service
from loupe.storage.v1.project_service_pb2_grpc import ProjectServiceStub
from loupe.terminal.connection import Connection, Service, flatten


class Accounts:
    """The people and terminals that may log in."""

    def __init__(self, connection: Connection) -> None:
        self._accounts = Service(connection, AccountServiceStub)

    async def create(self, account_id: str, password: str, group: str, display_name: str = "") -> account_pb2.Account:
        """Make an account that lands in `group`, "projects/{project}/groups/{group}"."""
        request = account_service.CreateAccountRequest(
            account_id=account_id,
            account=account_pb2.Account(display_name=display_name),
            password=password,
            group=group,
            request_id=str(uuid.uuid4()),
        )
        return (await self._accounts.call(lambda stub: stub.CreateAccount, request)).account

    def list(self) -> AsyncIterator[account_pb2.Account]:
        """Yield all accounts, by id."""
        request = account_service.ListAccountsRequest()
        return flatten(self._accounts.pages(lambda stub: stub.ListAccounts, request), lambda page: page.accounts)

    async def get(self, name: str) -> account_pb2.Account:
        """Return an account. Raises NotFound."""
        request = account_service.GetAccountRequest(name=name)
        return (await self._accounts.call(lambda stub: stub.GetAccount, request)).account

    async def disable(self, name: str) -> account_pb2.Account:
        """Refuse an account's logins and tokens from now on."""
        request = account_service.DisableAccountRequest(name=name)
        return (await self._accounts.call(lambda stub: stub.DisableAccount, request)).account

    async def enable(self, name: str) -> account_pb2.Account:
        """Let an account log in again."""
        request = account_service.EnableAccountRequest(name=name)
        return (await self._accounts.call(lambda stub: stub.EnableAccount, request)).account

    async def delete(self, name: str) -> account_pb2.Account:
        """Delete an account; until its expire_time it can be restored. Raises NotFound, FailedPrecondition."""
        request = account_service.DeleteAccountRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._accounts.call(lambda stub: stub.DeleteAccount, request)).account

    async def undelete(self, name: str) -> account_pb2.Account:
        """Restore an account with its password and its groups. Raises NotFound once it is purged, AlreadyExists."""
        request = account_service.UndeleteAccountRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._accounts.call(lambda stub: stub.UndeleteAccount, request)).account

    async def deleted(self) -> AsyncGenerator[account_pb2.Account]:
        """Yield the accounts that are deleted and can be restored, by id."""
        request = account_service.ListAccountsRequest(show_deleted=True)
        pages = self._accounts.pages(lambda stub: stub.ListAccounts, request)
        async for one in flatten(pages, lambda page: page.accounts):
            if one.HasField("delete_time"):
                yield one

    async def set_password(self, name: str, new: str, old: str = "") -> None:
        """Change a password and end the account's logins; `old` is needed for one's own."""
        request = account_service.SetPasswordRequest(name=name, old_password=old, new_password=new)
        await self._accounts.call(lambda stub: stub.SetPassword, request, again=False)


class Groups:
    """The account groups of a project, each with its permission parameter."""

    def __init__(self, connection: Connection) -> None:
        self._groups = Service(connection, GroupServiceStub)

    async def create(self, project: str, group_id: str, parameter: int) -> group_pb2.Group:
        """Make a group whose members may do what needs at most `parameter`, 1 to 100."""
        request = group_service.CreateGroupRequest(
            parent=project,
            group_id=group_id,
            group=group_pb2.Group(permission_parameter=parameter),
            request_id=str(uuid.uuid4()),
        )
        return (await self._groups.call(lambda stub: stub.CreateGroup, request)).group

    def list(self, project: str) -> AsyncIterator[group_pb2.Group]:
        """Yield a project's groups, by id."""
        request = group_service.ListGroupsRequest(parent=project)
        return flatten(self._groups.pages(lambda stub: stub.ListGroups, request), lambda page: page.groups)

    async def get(self, name: str) -> group_pb2.Group:
        """Return a group. Raises NotFound."""
        request = group_service.GetGroupRequest(name=name)
        return (await self._groups.call(lambda stub: stub.GetGroup, request)).group

    async def set_parameter(self, name: str, parameter: int) -> group_pb2.Group:
        """Adjust the permission parameter, 1 to 100."""
        request = group_service.UpdateGroupRequest(group=group_pb2.Group(name=name, permission_parameter=parameter))
        return (await self._groups.call(lambda stub: stub.UpdateGroup, request)).group

    async def delete(self, name: str) -> None:
        """Remove a group that has no members."""
        await self._groups.call(lambda stub: stub.DeleteGroup, group_service.DeleteGroupRequest(name=name))

    async def add(self, name: str, account: str) -> group_pb2.Group:
        """Put an account into a group; it leaves the one of that project in which it was."""
        request = group_service.AddMemberRequest(name=name, account=account)
        return (await self._groups.call(lambda stub: stub.AddMember, request)).group

    async def remove(self, name: str, account: str) -> group_pb2.Group:
        """Take an account out of a group."""
        request = group_service.RemoveMemberRequest(name=name, account=account)
        return (await self._groups.call(lambda stub: stub.RemoveMember, request)).group

    def members(self, name: str) -> AsyncIterator[str]:
        """Yield the accounts in a group, by id."""
        request = group_service.ListMembersRequest(name=name)
        return flatten(self._groups.pages(lambda stub: stub.ListMembers, request), lambda page: page.accounts)


class Policy:
    """What actions need, and why one was refused."""

    def __init__(self, connection: Connection) -> None:
        self._groups = Service(connection, GroupServiceStub)
        self._policy = Service(connection, PolicyServiceStub)

    async def thresholds(self) -> list[group_pb2.Threshold]:
        """Return what each action needs, by name."""
        request = group_service.ListThresholdsRequest()
        return list((await self._groups.call(lambda stub: stub.ListThresholds, request)).thresholds)

    async def set_threshold(self, name: str, value: int) -> group_pb2.Threshold:
        """Change what an action needs, 1 to 100, in all projects; name is "thresholds/{action}"."""
        request = group_service.SetThresholdRequest(threshold=group_pb2.Threshold(name=name, value=value))
        return (await self._groups.call(lambda stub: stub.SetThreshold, request)).threshold

    async def why(self, project: str, action: str, account: str = "") -> policy_service_pb2.WhyDeniedResponse:
        """Explain a decision: group, parameter, threshold; account "" is oneself."""
        request = policy_service_pb2.WhyDeniedRequest(account=account, project=project, action=action)
        return await self._policy.call(lambda stub: stub.WhyDenied, request)


class Projects:
    """What holds data sets, jobs and models; no right crosses a project's border."""

    def __init__(self, connection: Connection) -> None:
        self._projects = Service(connection, ProjectServiceStub)

    async def create(self, project_id: str, display_name: str = "") -> project_pb2.Project:
        """Make a project with the usual groups; the caller becomes an owner."""
        request = project_service.CreateProjectRequest(
            project_id=project_id,
            project=project_pb2.Project(display_name=display_name),
            request_id=str(uuid.uuid4()),
        )
        return (await self._projects.call(lambda stub: stub.CreateProject, request)).project

    def list(self) -> AsyncIterator[project_pb2.Project]:
        """Yield the projects that the caller is in, by id."""
        request = project_service.ListProjectsRequest()
        return flatten(self._projects.pages(lambda stub: stub.ListProjects, request), lambda page: page.projects)

    async def get(self, name: str) -> project_pb2.Project:
        """Return a project. Raises NotFound."""
        request = project_service.GetProjectRequest(name=name)
        return (await self._projects.call(lambda stub: stub.GetProject, request)).project

    async def usage(self, name: str) -> project_pb2.ProjectUsage:
        """Say what a project holds and may hold. Raises NotFound."""
        request = project_service.GetProjectUsageRequest(name=name)
        return (await self._projects.call(lambda stub: stub.GetProjectUsage, request)).usage

    async def set_quota(
        self, name: str, *, max_pictures: int | None = None, max_bytes: int | None = None
    ) -> project_pb2.ProjectQuota:
        """Limit what a project may hold and return what holds now; None: that one stays, 0: no limit.

        For administrators of the mesh. Raises NotFound, InvalidArgument.
        """
        request = project_service.SetProjectQuotaRequest(name=name, max_pictures=max_pictures, max_bytes=max_bytes)
        return (await self._projects.call(lambda stub: stub.SetProjectQuota, request)).quota

    async def delete(self, name: str) -> project_pb2.Project:
        """Delete a project with all that is in it; until its expire_time it can be restored. Raises NotFound."""
        request = project_service.DeleteProjectRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._projects.call(lambda stub: stub.DeleteProject, request)).project

    async def undelete(self, name: str) -> project_pb2.Project:
        """Restore a project. Raises NotFound once it is purged, AlreadyExists."""
        request = project_service.UndeleteProjectRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._projects.call(lambda stub: stub.UndeleteProject, request)).project

    async def deleted(self) -> AsyncGenerator[project_pb2.Project]:
        """Yield the projects that are deleted and that this account may restore."""
        request = project_service.ListProjectsRequest(show_deleted=True)
        pages = self._projects.pages(lambda stub: stub.ListProjects, request)
        async for one in flatten(pages, lambda page: page.projects):
            if one.HasField("delete_time"):
                yield one
