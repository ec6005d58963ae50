"""The audit log: who changed what, of all services, newest first."""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceStub
from loupe.concurrency import gather
from loupe.errors import Unavailable, invalid
from loupe.terminal.connection import Connection, Service, flatten
from loupe.timestamps import timestamp

SERVICES = ("auth", "storage", "scheduler")
"""Those that keep a log."""
LIMIT = 50
_MOST_AT_ONCE = 1000
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_EXPECTED = "a time ago such as 30m, 2h or 7d, or a time such as 2026-05-04 or 2026-05-04T13:30"


@dataclass(frozen=True)
class AuditRows:
    """The newest rows, newest first; away: why services that could not be asked are missing, by their names."""

    entries: list[audit_pb2.AuditEntry]
    away: dict[str, Unavailable] = field(default_factory=dict)


class Audit:
    """What was changed, or tried, in a project; it takes the action "audit.read" there."""

    def __init__(self, connection: Connection) -> None:
        self._services = {name: Service(connection, AuditServiceStub, name=name) for name in SERVICES}

    async def newest(
        self,
        project: str,
        *,
        caller: str = "",
        action: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = LIMIT,
    ) -> AuditRows:
        """Return a project's newest rows from all services; "projects/system" is what belongs to no project.

        caller: whose, "accounts/{account}"; action: what the action or the RPC begins with. Services that are away are
        named in the answer. Raises PermissionDenied, NotFound, and Unavailable where all are away.
        """
        wanted = rpc.ListAuditEntriesRequest(
            parent=project,
            caller=caller,
            action_prefix=action,
            since=None if since is None else timestamp(since),
            until=None if until is None else timestamp(until),
            page_size=min(limit, _MOST_AT_ONCE),
        )
        found = await gather(*(self._of(name, wanted, limit) for name in SERVICES))
        away = {name: each for name, each in zip(SERVICES, found, strict=True) if isinstance(each, Unavailable)}
        if len(away) == len(SERVICES):
            raise next(iter(away.values()))
        entries = [entry for each in found if not isinstance(each, Unavailable) for entry in each]
        entries.sort(key=lambda entry: (entry.time.seconds, entry.time.nanos), reverse=True)
        return AuditRows(entries[:limit], away)

    async def _of(
        self, service: str, wanted: rpc.ListAuditEntriesRequest, limit: int
    ) -> list[audit_pb2.AuditEntry] | Unavailable:
        request, entries = rpc.ListAuditEntriesRequest(), list[audit_pb2.AuditEntry]()
        request.CopyFrom(wanted)
        pages = self._services[service].pages(lambda stub: stub.ListAuditEntries, request)
        try:
            async with aclosing(flatten(pages, lambda page: page.entries)) as rows:
                async for entry in rows:
                    entries.append(entry)
                    if len(entries) == limit:
                        break
        except Unavailable as error:
            return error
        return entries


def moment(field_name: str, text: str, now: datetime) -> datetime:
    """Return the time that a person means; one without a zone is of now's. Raises InvalidArgument.

    >>> now = datetime.fromisoformat("2026-05-04T12:00:00+02:00")
    >>> moment("since", "2h", now).isoformat(), moment("since", "2026-05-01", now).isoformat()
    ('2026-05-04T10:00:00+02:00', '2026-05-01T00:00:00+02:00')
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        given = datetime.fromisoformat(text.strip())
        return given if given.tzinfo else given.replace(tzinfo=now.tzinfo)
    except (ValueError, OverflowError):
        raise invalid(field_name, text, _EXPECTED) from None
