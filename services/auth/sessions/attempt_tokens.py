"""Tokens with which training attempts work, with the rights of who submitted the job."""

from __future__ import annotations

from loupe.access import denial
from loupe.errors import FailedPrecondition, invalid
from loupe.names import AccountName, JobName, ProjectName
from services.auth.policy.authority import Authority
from services.auth.sessions.tokens import Tokens

SUBMIT = "jobs.submit"


class AttemptTokens:
    """Issues them; whoever reads one asks for the account's present rights at every call."""

    def __init__(self, authority: Authority, tokens: Tokens) -> None:
        self._authority = authority
        self._tokens = tokens

    async def issue(self, account: AccountName, job: JobName, attempt: int) -> tuple[str, int]:
        """Return a token and its lifetime in seconds.

        Raises FailedPrecondition for an unknown or disabled account, PermissionDenied for one that may not submit jobs
        in the job's project now.
        """
        if attempt < 1:
            raise invalid("attempt", attempt, "1 or more")
        if not self._authority.is_active(account, ""):
            raise FailedPrecondition(f"{account} is unknown or disabled", resource=account, state="inactive")
        project = ProjectName(job.project)
        decision = await self._authority.decide(account, project, SUBMIT, "")
        if not decision.allowed:
            raise denial(account, project, SUBMIT, decision)
        return self._tokens.attempt(account, job, attempt), self._tokens.lifetimes.attempt
