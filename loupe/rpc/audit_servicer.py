"""AuditService, the same in every service that has a database: unpack, call, pack."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from loupe.audit import AuditEntry
from loupe.audit_log import AuditLog, AuditQuery
from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceServicer
from loupe.names import ProjectName
from loupe.timestamps import timestamp_of_micros

_FARTHEST = 253_402_300_799
"""The last second that a Timestamp may name."""


class AuditServicer(AuditServiceServicer):
    """Serves loupe.common.v1.AuditService."""

    def __init__(self, audit_log: AuditLog[Any]) -> None:
        self._log = audit_log

    async def ListAuditEntries(
        self, request: rpc.ListAuditEntriesRequest, context: object
    ) -> rpc.ListAuditEntriesResponse:
        """List a project's rows, newest first."""
        page, more = await self._log.page(unpack_query(request), request.page_size, request.page_token)
        return rpc.ListAuditEntriesResponse(entries=map(pack_entry, page), next_page_token=more)


def unpack_query(request: rpc.ListAuditEntriesRequest) -> AuditQuery:
    """Read which rows are wanted. Raises InvalidArgument."""
    return AuditQuery(
        ProjectName.parse(request.parent, "parent"),
        request.caller,
        request.action_prefix,
        _micros(request.since) if request.HasField("since") else None,
        _micros(request.until) if request.HasField("until") else None,
    )


def pack_entry(entry: AuditEntry) -> audit_pb2.AuditEntry:
    """Pack a row."""
    return audit_pb2.AuditEntry(
        time=timestamp_of_micros(entry.time),
        caller=entry.caller,
        action=entry.action,
        method=entry.method,
        project=str(ProjectName(entry.project)),
        resource=entry.resource,
        peer=entry.peer,
        request_id=entry.request_id,
        outcome=entry.outcome,
        summary=entry.summary,
    )


def _micros(moment: Timestamp) -> int:
    """Return a time that anybody may have sent; one beyond all calendars is their first or last."""
    return max(-_FARTHEST, min(moment.seconds, _FARTHEST)) * 1_000_000 + moment.nanos // 1000
