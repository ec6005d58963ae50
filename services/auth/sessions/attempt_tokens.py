"""Tokens with which training attempts work, with the rights of who submitted the job."""

from __future__ import annotations

from loupe.errors import FailedPrecondition, invalid
from loupe.names import AccountName, JobName
from services.auth.policy.authority import Authority
from services.auth.sessions.tokens import Tokens


class AttemptTokens:
    """Issues them; whoever reads one asks for the account's present rights at every call."""

    def __init__(self, authority: Authority, tokens: Tokens) -> None:
        self._authority = authority
        self._tokens = tokens

    def issue(self, account: AccountName, job: JobName, attempt: int) -> tuple[str, int]:
        """Return a token and its lifetime in seconds.

        Raises FailedPrecondition for an unknown or disabled account.
        """
        if attempt < 1:
            raise invalid("attempt", attempt, "1 or more")
        if not self._authority.is_active(account, ""):
            raise FailedPrecondition(f"{account} is unknown or disabled", resource=account, state="inactive")
        return self._tokens.attempt(account, job, attempt), self._tokens.lifetimes.attempt
