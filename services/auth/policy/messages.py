"""Decisions as messages of the contract."""

from __future__ import annotations

from loupe.access import Decision
from loupe.auth.v1 import policy_service_pb2


def pack_decision(decision: Decision) -> policy_service_pb2.Decision:
    """Return the message."""
    return policy_service_pb2.Decision(
        allowed=decision.allowed,
        member=decision.member,
        group=decision.group,
        parameter=decision.parameter,
        threshold=decision.threshold,
        active=decision.active,
    )
