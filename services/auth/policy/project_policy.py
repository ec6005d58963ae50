"""Who may do what in one project, decided by Casbin: a level per group, a membership per account, a need to meet.

Casbin fails open in several ways (an empty policy with empty strings, `g(x, x)`, levels compared as text, a need of 0
or True, a reload in mid-check). So names carry prefixes and match a pattern before Casbin sees them, memberships are
looked up in a role manager without inheritance, every exception is a denial, and a policy that was built never changes:
a change builds a new one, and the reference to it is swapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeGuard, TypeVar

import casbin
import structlog
from casbin.rbac import RoleManager

from loupe.errors import DataLoss
from loupe.names import GroupName
from loupe.patterns import ID

log = structlog.get_logger(__name__)

LOWEST, HIGHEST = 1, 100
"""The range of permission parameters and thresholds."""

MODEL = """
[request_definition]
r = sub, dom, need

[policy_definition]
p = role, level

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = atLeast(p.level, r.need) && g(r.sub, p.role, r.dom)
"""

_ID = re.compile(ID)
_LEVEL = re.compile(r"[1-9][0-9]?|100")
_ROLE = re.compile(rf"role:({ID}):({ID})")
_USER = re.compile(rf"user:({ID})")
_DOMAIN = re.compile(rf"proj:({ID})")
_REMEMBERED = 10_000
V = TypeVar("V")

RuleRow = tuple[str, str, str, str | None]
"""A row of the policy table: ptype, v0, v1, v2."""


def user(account: str) -> str:
    """Return an account's id in the policy."""
    return f"user:{account}"


def role(project: str, group: str) -> str:
    """Return a group's id in the policy; groups belong to their project, so the project is part of it."""
    return f"role:{project}:{group}"


def domain(project: str) -> str:
    """Return a project's id in the policy."""
    return f"proj:{project}"


def at_least(level: object, need: object) -> bool:
    """Compare as numbers. Raises ValueError unless level is "1" to "100" and need an int from 1 to 100."""
    if not isinstance(level, str) or not _LEVEL.fullmatch(level):
        raise ValueError(f"level {level!r} is not a permission parameter")
    if not is_need(need):
        raise ValueError(f"need {need!r} is not a threshold")
    return int(level) >= need


def is_need(value: object) -> TypeGuard[int]:
    """Tell whether a value is an int from 1 to 100; True is none."""
    return type(value) is int and LOWEST <= value <= HIGHEST


class ProjectRoles(RoleManager):  # type: ignore[misc]  # Casbin has no types
    """Answers Casbin's g(): exactly one project's rows, no inheritance, nobody is their own role."""

    def __init__(self, project: str, members: Mapping[str, str]) -> None:
        self._project = project
        self._members = members

    def has_link(self, name1: str, name2: str, *domains: str) -> bool:
        """Tell whether user `name1` has role `name2` in the one domain given."""
        match = _USER.fullmatch(name1)
        if match is None or domains != (domain(self._project),):
            return False
        group = self._members.get(match[1])
        return group is not None and name2 == role(self._project, group)


class ProjectPolicy:
    """Decides in one project. It never changes; `with_level` and `with_member` build another.

    levels: permission parameter by group. members: group by account. Both belong to the policy from now on.
    """

    def __init__(self, project: str, levels: dict[str, int], members: dict[str, str]) -> None:
        self.project = project
        self.levels = MappingProxyType(levels)
        self.members = MappingProxyType(members)
        self.names = {group: str(GroupName(project, group)) for group in levels}
        self._decided: dict[tuple[str, int], bool] = {}
        self._enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=MODEL))
        self._enforcer.add_function("atLeast", at_least)
        self._enforcer.add_policies([[role(project, group), str(level)] for group, level in self.levels.items()])
        roles = ProjectRoles(project, self.members)
        self._enforcer.set_role_manager(roles)
        self._enforcer.model["g"]["g"].rm = roles

    def allows(self, account: object, need: object) -> bool:
        """Tell what Casbin decides; anything malformed, and any exception, is a denial."""
        if not self.levels or not isinstance(account, str) or not _ID.fullmatch(account) or not is_need(need):
            return False
        known = self._decided.get((account, need))
        if known is not None:
            return known
        try:
            decided = self._enforcer.enforce(user(account), domain(self.project), need) is True
        except Exception:
            log.exception("the policy could not be evaluated; denied", project=self.project)
            return False
        if len(self._decided) >= _REMEMBERED:
            self._decided.clear()
        self._decided[account, need] = decided
        return decided

    def with_level(self, group: str, level: int | None) -> ProjectPolicy:
        """Return this policy with a group's parameter changed; None takes the group out."""
        return ProjectPolicy(self.project, _with(self.levels, group, level), self.members.copy())

    def with_member(self, account: str, group: str | None) -> ProjectPolicy:
        """Return this policy with an account in `group`; None takes it out."""
        return ProjectPolicy(self.project, self.levels.copy(), _with(self.members, account, group))


def _with(mapping: MappingProxyType[str, V], key: str, value: V | None) -> dict[str, V]:
    """Return a copy with one entry set, or taken out for None."""
    changed = mapping.copy()
    if value is None:
        changed.pop(key, None)
    else:
        changed[key] = value
    return changed


@dataclass(frozen=True)
class LevelRule:
    """A p row, parsed."""

    project: str
    group: str
    level: int


@dataclass(frozen=True)
class MemberRule:
    """A g row, parsed."""

    project: str
    account: str
    group: str


def parse_level(row: RuleRow) -> LevelRule:
    """Read a p row. Raises DataLoss for one that this service would never have written."""
    ptype, v0, v1, v2 = row
    found = _ROLE.fullmatch(v0)
    if ptype != "p" or found is None or not _LEVEL.fullmatch(v1) or v2 is not None:
        raise _damaged(row)
    return LevelRule(found[1], found[2], int(v1))


def parse_member(row: RuleRow) -> MemberRule:
    """Read a g row. Raises DataLoss for one that this service would never have written."""
    ptype, v0, v1, v2 = row
    who, found, where = _USER.fullmatch(v0), _ROLE.fullmatch(v1), _DOMAIN.fullmatch(v2 or "")
    if ptype != "g" or who is None or found is None or where is None or where[1] != found[1]:
        raise _damaged(row)
    return MemberRule(found[1], who[1], found[2])


def _damaged(row: RuleRow) -> DataLoss:
    return DataLoss("a row of the policy is damaged; nothing is allowed until it is repaired", row=row)


def build_policies(rows: Iterable[RuleRow]) -> dict[str, ProjectPolicy]:
    """Build the policy of every project. Raises DataLoss for damaged, dangling or absent rows."""
    levels: dict[str, dict[str, int]] = {}
    members: dict[str, dict[str, str]] = {}
    for row in rows:
        if row[0] == "p":
            rule = parse_level(row)
            levels.setdefault(rule.project, {})[rule.group] = rule.level
        else:
            member = parse_member(row)
            members.setdefault(member.project, {})[member.account] = member.group
    if not levels:
        raise DataLoss("the policy is empty; nothing is allowed until it is restored")
    for project, groups in members.items():
        if dangling := set(groups.values()) - levels.get(project, {}).keys():
            raise DataLoss("the policy names groups that have no level", project=project, groups=sorted(dangling))
    return {project: ProjectPolicy(project, levels[project], members.get(project, {})) for project in levels}
