"""Groups and thresholds as messages of the contract."""

from __future__ import annotations

from loupe.auth.v1 import group_pb2
from loupe.names import ThresholdName
from loupe.timestamps import timestamp
from services.auth.groups.groups import Group


def pack_group(group: Group) -> group_pb2.Group:
    """Return the message."""
    return group_pb2.Group(
        name=group.name,
        uid=group.uid,
        permission_parameter=group.permission_parameter,
        member_count=group.member_count,
        create_time=timestamp(group.create_time),
    )


def pack_threshold(name: ThresholdName, value: int) -> group_pb2.Threshold:
    """Return the message."""
    return group_pb2.Threshold(name=str(name), value=value)
