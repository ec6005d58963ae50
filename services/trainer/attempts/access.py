"""Who may call a trainer: the scheduler, by its certificate, and nobody with a token."""

from __future__ import annotations

import asyncio

from loupe.access import Decision
from loupe.errors import PermissionDenied, Unauthenticated
from loupe.identity import Caller
from loupe.names import AccountName, ProjectName
from loupe.notifier import Notifier


class DenyAll:
    """Refuses every token and allows no account anything: the verifier and the authorizer of a trainer."""

    def __init__(self) -> None:
        self._never = Notifier()

    async def verify(self, token: str) -> Caller:
        raise Unauthenticated("a trainer takes calls from the scheduler's certificate only", problem="type")

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        raise PermissionDenied(f"{account} may not call a trainer", account=account, action=action, project=project)

    def changed(self) -> asyncio.Event:
        """Return an event that is never set: what is always refused does not change."""
        return self._never.next()
