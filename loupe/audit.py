"""What is told of a call that changes something: who made it, from where, on what, and what it said.

The interceptor begins such a call and says how one that failed has ended; a database writes the row of one that changed
something together with the change (`loupe.audit_log`). In between, the call is known to whatever serves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from loupe.errors import InvalidArgument
from loupe.escapes import escaped
from loupe.identity import Caller
from loupe.names import SYSTEM, AccountName, project_of

OK = "OK"
LEFT_OUT = "LEFT_OUT"
"""The outcome of a row that stands for failed calls which were too many to be listed."""
WIDTHS: Mapping[str, int] = {
    "caller": 200,
    "action": 64,
    "method": 80,
    "project": 63,
    "resource": 240,
    "peer": 80,
    "request_id": 128,
    "outcome": 40,
    "summary": 240,
}
"""The longest text of each field, in characters."""


@dataclass(frozen=True)
class AuditEntry:
    """One row of the audit log; what its texts mean stands in protos/loupe/common/v1/audit.proto.

    time: microseconds since 1970. project: the project's id; "system" for what belongs to no project.
    """

    time: int
    caller: str
    action: str = ""
    method: str = ""
    project: str = SYSTEM
    resource: str = ""
    peer: str = ""
    request_id: str = ""
    outcome: str = OK
    summary: str = ""


class AuditedCall:
    """A call that leaves a row, as far as it is known before it is served.

    noted: whether the row of its change is durable. over: whether it was answered, so that what goes on in the
    background is no longer its doing.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        method: str,
        action: str = "",
        resource: str = "",
        peer: str = "",
        request_id: str = "",
        summary: str = "",
    ) -> None:
        self.caller = name_of(caller)
        self.project = _project(resource)
        self.noted = False
        self.over = False
        self._texts = {
            "method": method,
            "action": action,
            "resource": resource,
            "peer": peer,
            "request_id": request_id,
            "summary": summary,
        }

    def due(self) -> bool:
        """Say whether the next change takes the call's row along."""
        return not self.noted and not self.over

    def entry(self, time: int, outcome: str = OK) -> AuditEntry:
        """Return the call's row, each text escaped and cut at its width."""
        texts = self._texts | {"caller": self.caller, "project": self.project, "outcome": outcome}
        return AuditEntry(time, **{field: escaped(text, WIDTHS[field]) for field, text in texts.items()})


class Recorder(Protocol):
    """Writes down what became of calls that failed."""

    async def failed(self, call: AuditedCall, outcome: str) -> None:
        """Write the row of a call that failed; never raises, since the caller's answer stands."""


_call: ContextVar[AuditedCall | None] = ContextVar("loupe_audited_call", default=None)


def begin_call(call: AuditedCall) -> None:
    """Say which call is served from here on: for the interceptor, and for tests."""
    _call.set(call)


def current_call() -> AuditedCall | None:
    """Return the call that is being served and leaves a row; None where nothing does."""
    call = _call.get()
    return None if call is None or call.over else call


def name_caller(account: AccountName) -> None:
    """Say who makes the call that is being served, where only its effect tells: a login."""
    if (call := current_call()) is not None:
        call.caller = str(account)


def name_of(caller: Caller) -> str:
    """Return who calls as it stands in a row; empty for a stranger.

    >>> name_of(Caller(account=AccountName("anna"))), name_of(Caller(service="scheduler"))
    ('accounts/anna', 'services/scheduler')
    """
    if caller.attempt is not None:
        return str(caller.attempt.job)
    if caller.account is not None:
        return str(caller.account)
    if caller.trainer is not None:
        return str(caller.trainer)
    return f"services/{caller.service}" if caller.service else ""


def _project(resource: str) -> str:
    try:
        return project_of(resource).project
    except InvalidArgument:
        return SYSTEM
