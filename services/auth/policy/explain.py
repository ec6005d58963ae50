"""Why an action is denied, for people who may know."""

from __future__ import annotations

from dataclasses import replace

from loupe.access import DEFAULT_THRESHOLDS, SYSTEM_PROJECT, Decision, denial
from loupe.errors import invalid, not_found
from loupe.names import AccountName, ProjectName
from services.auth.policy.authority import Authority


async def explain(
    authority: Authority, by: AccountName, account: AccountName, project: ProjectName, action: str, *, login: str
) -> tuple[Decision, str]:
    """Return the decision about an account with a sentence that explains it.

    Anybody may ask about themselves; about others needs "groups.read" in that project (NotFound, PermissionDenied).
    Of an account that is in no group there, nobody learns whether it exists who may not read accounts.
    """
    if action not in DEFAULT_THRESHOLDS:
        raise invalid("action", action, f"one of {', '.join(sorted(DEFAULT_THRESHOLDS))}")
    if account != by:
        may = await authority.decide(by, project, "groups.read", login)
        if not may.member:
            raise not_found(project)
        if not may.allowed:
            raise denial(by, project, "groups.read", may)
    decision = await authority.decide(account, project, action, login if account == by else "")
    if account != by and not decision.member:
        accounts = await authority.decide(by, SYSTEM_PROJECT, "accounts.read", login)
        if not accounts.allowed:
            return replace(decision, active=False), _no_member(account, project, action, decision)
    return decision, sentence(account, project, action, decision)


def sentence(account: AccountName, project: ProjectName, action: str, decision: Decision) -> str:
    """Put a decision into one sentence."""
    if not decision.active:
        return f"{account} is unknown or disabled, or this login has ended, so nothing is allowed."
    if not decision.member:
        return _no_member(account, project, action, decision)
    relation = "at least" if decision.allowed else "below"
    verdict = "allowed" if decision.allowed else "denied"
    return (
        f"{action} is {verdict} to {account} in {project}: its group {decision.group} has the permission parameter "
        f"{decision.parameter}, {relation} the threshold {decision.threshold}."
    )


def _no_member(account: AccountName, project: ProjectName, action: str, decision: Decision) -> str:
    return f"{account} is in no group of {project}, so nothing is allowed there; {action} needs {decision.threshold}."
