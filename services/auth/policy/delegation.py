"""Nobody gives more than they have: which permission parameters a person may give, change or take away."""

from __future__ import annotations

from loupe.access import DEFAULT_THRESHOLDS
from loupe.errors import FailedPrecondition, PermissionDenied, invalid
from loupe.names import SYSTEM, AccountName, GroupName, ProjectName
from services.auth.database.session import Session
from services.auth.policy.authority import GROUPS_ADMIN, AccountStates
from services.auth.policy.project_policy import HIGHEST, LOWEST, is_need
from services.auth.policy.store import RuleTable, ThresholdTable

ADMINISTRATORS = GroupName(SYSTEM, "administrators")
OWNERS = "owners"
GROUPS_WRITE = "groups.write"


def check_parameter(field: str, value: int) -> None:
    """Raise InvalidArgument for what is no permission parameter or threshold."""
    if not is_need(value):
        raise invalid(field, value, f"a number from {LOWEST} to {HIGHEST}")


def reach(own: int, system: int, groups_admin: int) -> int:
    """Return the highest parameter that somebody may give in a project.

    own: their parameter there, 0 for none. system: their system-wide one; it counts from `groups_admin` on.
    """
    return max(own, system if system >= groups_admin else 0)


async def check_reach(session: Session, by: AccountName, group: GroupName, wanted: int) -> None:
    """Raise PermissionDenied when a group's parameter is above what the caller may give or take there now."""
    rules = RuleTable(session)
    own = await rules.parameter_of(group.project, by.account)
    system = await rules.parameter_of(SYSTEM, by.account)
    groups_admin = (await ThresholdTable(session).all()).get(GROUPS_ADMIN, DEFAULT_THRESHOLDS[GROUPS_ADMIN])
    may = reach(own, system, groups_admin)
    if wanted > may:
        raise PermissionDenied(
            f"{by} has the permission parameter {may} in projects/{group.project} and may not deal with {group}, "
            f"which has {wanted}",
            account=by,
            action="groups.write",
            project=ProjectName(group.project),
            group=group,
            parameter=may,
            threshold=wanted,
        )


async def check_not_last(session: Session, accounts: AccountStates, project: str, account: AccountName) -> None:
    """Raise FailedPrecondition when an account is a project's last enabled owner, or the last enabled administrator.

    A disabled one goes as long as another member stays.
    """
    rules = RuleTable(session)
    group = await rules.group_of(project, account.account)
    if group is None:
        return
    if not _must_have_members(GroupName(project, group)):
        return
    others = [one for one in await rules.members(project, group) if one != account.account]
    if not await accounts.enabled(others):
        name = GroupName(project, group)
        raise FailedPrecondition(
            f"{account} is the last member of {name}; put somebody else in first", resource=name, state="last_member"
        )


def _must_have_members(group: GroupName) -> bool:
    return group == ADMINISTRATORS if group.project == SYSTEM else group.group == OWNERS


async def check_lowering(session: Session, group: GroupName, before: int, after: int) -> None:
    """Raise FailedPrecondition when a parameter would go so low that the group's members manage nothing any more.

    The administrators' stays as it is; a project's owners stay at what managing its groups needs, or where they are.
    """
    if group == ADMINISTRATORS and after != before:
        raise FailedPrecondition(
            f"the permission parameter of {group} cannot be changed", resource=group, state="fixed"
        )
    need = (await ThresholdTable(session).all()).get(GROUPS_WRITE, DEFAULT_THRESHOLDS[GROUPS_WRITE])
    if _must_have_members(group) and after < min(before, need):
        raise FailedPrecondition(
            f"the members of {group} have to be able to manage projects/{group.project}, which needs {need} "
            f"({GROUPS_WRITE}); {after} is less",
            resource=group,
            state="owners",
        )
