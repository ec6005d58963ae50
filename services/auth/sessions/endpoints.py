"""Where the public doors of the mesh are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loupe.discovery import Instance


class Catalogue(Protocol):
    """Knows the healthy processes of a service."""

    async def instances(self, name: str) -> list[Instance]:
        """Return them by id; empty when there is none."""


@dataclass(frozen=True)
class Doors:
    """The name "host:port" of storage and scheduler, empty while there is none, and the URL of NATS."""

    storage: str
    scheduler: str
    nats_url: str


class Endpoints:
    """Finds the doors that a terminal needs besides auth's."""

    def __init__(self, catalogue: Catalogue, nats_url: str) -> None:
        self._catalogue = catalogue
        self._nats_url = nats_url

    async def find(self) -> Doors:
        """Return the doors that are open now."""
        storage = await self._door("loupe-storage")
        return Doors(storage, await self._door("loupe-scheduler"), self._nats_url)

    async def _door(self, name: str) -> str:
        return next((one.public for one in await self._catalogue.instances(name) if one.public), "")
