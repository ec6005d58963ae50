"""NATS: what takes job events to the terminals."""

from __future__ import annotations

from typing import Protocol

from loupe.bus import ProgressBus
from loupe.errors import Unavailable
from loupe.names import JobName
from loupe.settings import ServiceSettings


class Bus(Protocol):
    """Takes job events to the terminals."""

    async def publish(self, job: JobName, sequence: int, body: bytes) -> None:
        """Return when the event is taken; the same sequence again is dropped there.

        body: the event as it is stored. Raises Unavailable, and ResourceExhausted for one that is too large.
        """

    async def close(self) -> None:
        """End the connection."""


async def connect_bus(settings: ServiceSettings) -> ProgressBus:
    """Return a bus that is ready to publish. Raises Unavailable."""
    bus = await ProgressBus.connect(settings)
    try:
        await bus.ensure_stream()
    except Unavailable:
        await bus.close()
        raise
    return bus
