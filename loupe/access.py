"""Who may do what, as every service sees it: the actions, a decision and what it rests on, and its refusal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from loupe.errors import PermissionDenied
from loupe.names import SYSTEM, AccountName, ProjectName

SYSTEM_PROJECT = ProjectName(SYSTEM)

DEFAULT_THRESHOLDS: dict[str, int] = {
    "accounts.create": 40,
    "accounts.delete": 90,
    "accounts.disable": 90,
    "accounts.read": 90,
    "algorithms.delete": 40,
    "algorithms.write": 30,
    "audit.read": 40,
    "blobs.write": 20,
    "datasets.delete": 40,
    "datasets.read": 10,
    "datasets.write": 20,
    "groups.admin": 90,
    "groups.read": 20,
    "groups.write": 40,
    "jobs.cancel": 30,
    "jobs.delete": 40,
    "jobs.read": 10,
    "jobs.submit": 30,
    "models.delete": 40,
    "models.read": 10,
    "projects.create": 30,
    "projects.delete": 40,
    "projects.read": 10,
    "quotas.write": 90,
    "thresholds.write": 90,
}
"""Every action of the contract and the permission parameter that it needs until an administrator changes it."""


@dataclass(frozen=True)
class Decision:
    """What auth decided and what it rests on; the fields are those of loupe.auth.v1.Decision."""

    allowed: bool
    member: bool
    group: str
    parameter: int
    threshold: int
    active: bool


class Authorizer(Protocol):
    """Decides what an account may do."""

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Answer one question. Raises Unavailable when it cannot be decided, never for a denial."""

    def changed(self) -> asyncio.Event:
        """Return the event that is set, and replaced by a new one, when earlier decisions may no longer hold."""


def denial(account: AccountName, project: ProjectName, action: str, decision: Decision) -> PermissionDenied:
    """Make the error that names group, parameter and threshold."""
    where = decision.group or str(project)
    has = (
        f"its group {decision.group} has the permission parameter {decision.parameter}"
        if decision.group
        else f"it is in no group of {project}"
    )
    return PermissionDenied(
        f"{account} may not do {action} in {project}: {has}, and {action} needs {decision.threshold}",
        account=account,
        action=action,
        project=project,
        group=where if decision.group else "",
        parameter=decision.parameter,
        threshold=decision.threshold,
    )
