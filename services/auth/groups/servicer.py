"""The RPCs about groups and thresholds: unpack, call, pack."""

from __future__ import annotations

from loupe.auth.v1 import group_service_pb2 as rpc
from loupe.auth.v1.group_service_pb2_grpc import GroupServiceServicer
from loupe.names import AccountName, GroupName, ProjectName, ThresholdName
from loupe.rpc.calls import acting_account, idempotent
from services.auth.groups.groups import Groups
from services.auth.groups.messages import pack_group, pack_threshold


class GroupServicer(GroupServiceServicer):
    """Serves loupe.auth.v1.GroupService."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    async def CreateGroup(self, request: rpc.CreateGroupRequest, context: object) -> rpc.CreateGroupResponse:
        """Create a group of a project."""
        once, project = idempotent("CreateGroup", request), ProjectName.parse(request.parent, "parent")
        parameter = request.group.permission_parameter
        group = await self._groups.create(acting_account(), once, project, request.group_id, parameter)
        return rpc.CreateGroupResponse(group=pack_group(group))

    async def GetGroup(self, request: rpc.GetGroupRequest, context: object) -> rpc.GetGroupResponse:
        """Return a group."""
        return rpc.GetGroupResponse(group=pack_group(await self._groups.get(GroupName.parse(request.name))))

    async def ListGroups(self, request: rpc.ListGroupsRequest, context: object) -> rpc.ListGroupsResponse:
        """List a project's groups, by id."""
        project = ProjectName.parse(request.parent, "parent")
        page, token = await self._groups.page(project, request.page_size, request.page_token)
        return rpc.ListGroupsResponse(groups=map(pack_group, page), next_page_token=token)

    async def UpdateGroup(self, request: rpc.UpdateGroupRequest, context: object) -> rpc.UpdateGroupResponse:
        """Adjust a group's permission parameter."""
        name = GroupName.parse(request.group.name, "group.name")
        group = await self._groups.update(acting_account(), name, request.group.permission_parameter)
        return rpc.UpdateGroupResponse(group=pack_group(group))

    async def DeleteGroup(self, request: rpc.DeleteGroupRequest, context: object) -> rpc.DeleteGroupResponse:
        """Remove a group without members."""
        await self._groups.delete(acting_account(), GroupName.parse(request.name))
        return rpc.DeleteGroupResponse()

    async def AddMember(self, request: rpc.AddMemberRequest, context: object) -> rpc.AddMemberResponse:
        """Put an account into a group, out of its other one in that project."""
        name, account = GroupName.parse(request.name), AccountName.parse(request.account, "account")
        group = await self._groups.add_member(acting_account(), name, account)
        return rpc.AddMemberResponse(group=pack_group(group))

    async def RemoveMember(self, request: rpc.RemoveMemberRequest, context: object) -> rpc.RemoveMemberResponse:
        """Take an account out of a group."""
        name, account = GroupName.parse(request.name), AccountName.parse(request.account, "account")
        group = await self._groups.remove_member(acting_account(), name, account)
        return rpc.RemoveMemberResponse(group=pack_group(group))

    async def ListMembers(self, request: rpc.ListMembersRequest, context: object) -> rpc.ListMembersResponse:
        """List a group's accounts, by id."""
        name = GroupName.parse(request.name)
        accounts, token = await self._groups.members(name, request.page_size, request.page_token)
        return rpc.ListMembersResponse(accounts=map(str, accounts), next_page_token=token)

    async def ListThresholds(self, request: rpc.ListThresholdsRequest, context: object) -> rpc.ListThresholdsResponse:
        """List what every action needs."""
        thresholds = [pack_threshold(name, value) for name, value in self._groups.thresholds()]
        return rpc.ListThresholdsResponse(thresholds=thresholds)

    async def SetThreshold(self, request: rpc.SetThresholdRequest, context: object) -> rpc.SetThresholdResponse:
        """Change what an action needs in all projects."""
        name = ThresholdName.parse(request.threshold.name, "threshold.name")
        value = await self._groups.set_threshold(name, request.threshold.value)
        return rpc.SetThresholdResponse(threshold=pack_threshold(name, value))
