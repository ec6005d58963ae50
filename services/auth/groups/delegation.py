"""Nobody gives more than they have: which permission parameters a person may give, change or take away."""

from __future__ import annotations

from loupe.access import DEFAULT_THRESHOLDS
from loupe.errors import FailedPrecondition, PermissionDenied, invalid
from loupe.names import SYSTEM, AccountName, GroupName, ProjectName
from services.auth.database.reads import Reads
from services.auth.policy.authority import GROUPS_ADMIN
from services.auth.policy.project_policy import HIGHEST, LOWEST, is_need

ADMINISTRATORS = GroupName(SYSTEM, "administrators")
OWNERS = "owners"
PREDEFINED = {OWNERS: 40, "engineers": 30, "operators": 20, "viewers": 10}
"""The groups of a new project with their permission parameters."""
SYSTEM_GROUPS = {ADMINISTRATORS.group: 100, "staff": 30}
"""The groups of the system with their permission parameters."""


def check_parameter(field: str, value: int) -> int:
    """Return a permission parameter or threshold, or raise InvalidArgument."""
    if not is_need(value):
        raise invalid(field, value, f"a number from {LOWEST} to {HIGHEST}")
    return value


def reach(own: int, system: int, groups_admin: int) -> int:
    """Return the highest parameter that somebody may give in a project.

    own: their parameter there, 0 for none. system: their system-wide one; it counts from `groups_admin` on.
    """
    return max(own, system if system >= groups_admin else 0)


async def reach_of(tx: Reads, account: AccountName, project: str) -> int:
    """Return `reach` for what the database holds now."""
    own = await tx.parameter_of(project, account.account)
    system = await tx.parameter_of(SYSTEM, account.account)
    groups_admin = (await tx.thresholds()).get(GROUPS_ADMIN, DEFAULT_THRESHOLDS[GROUPS_ADMIN])
    return reach(own, system, groups_admin)


def check_reach(by: AccountName, project: str, wanted: int, may: int, group: str) -> None:
    """Raise PermissionDenied when a parameter is above what the caller may give or take."""
    if wanted > may:
        raise PermissionDenied(
            f"{by} has the permission parameter {may} in projects/{project} and may not deal with {group}, "
            f"which has {wanted}",
            account=by,
            action="groups.write",
            project=ProjectName(project),
            group=group,
            parameter=may,
            threshold=wanted,
        )


async def check_not_last(tx: Reads, project: str, group: str | None, account: str) -> None:
    """Raise FailedPrecondition when an account is the last owner, or the last enabled administrator."""
    if group == OWNERS and project != SYSTEM:
        others = await tx.member_count(project, group) - 1
    elif (project, group) == (ADMINISTRATORS.project, ADMINISTRATORS.group):
        others = len(await tx.enabled([one for one in await tx.members(project, group) if one != account]))
    else:
        return
    if others < 1:
        raise FailedPrecondition(
            f"accounts/{account} is the last member of projects/{project}/groups/{group}; put somebody else in first",
            resource=GroupName(project, group),
            state="last_member",
        )
