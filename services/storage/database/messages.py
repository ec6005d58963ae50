"""Lifetimes as fields of the contract's messages."""

from __future__ import annotations

from typing import Protocol, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from loupe.timestamps import timestamp
from services.storage.database.lifetimes import Lifetime


class Deletable(Protocol):
    """A resource that can be deleted."""

    @property
    def delete_time(self) -> Timestamp:
        """When it was."""

    @property
    def expire_time(self) -> Timestamp:
        """Until when it can be restored."""


Resource = TypeVar("Resource", bound=Deletable)


def with_lifetime(resource: Resource, lifetime: Lifetime) -> Resource:
    """Say in a resource when it was deleted and until when it can be restored; nothing where it is not deleted."""
    if lifetime.delete_time is not None and lifetime.expire_time is not None:
        resource.delete_time.CopyFrom(timestamp(lifetime.delete_time))
        resource.expire_time.CopyFrom(timestamp(lifetime.expire_time))
    return resource
