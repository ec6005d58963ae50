"""Where the public doors of the mesh are."""

from __future__ import annotations

from dataclasses import dataclass

from loupe.discovery import Discovery


@dataclass(frozen=True)
class Doors:
    """Where storage and scheduler are, "host:port", empty while they are nowhere, and the URL of NATS."""

    storage: str
    scheduler: str
    nats_url: str


class Endpoints:
    """Finds the doors that a terminal needs besides auth's."""

    def __init__(self, discovery: Discovery, nats_url: str) -> None:
        self._discovery = discovery
        self._nats_url = nats_url

    async def find(self) -> Doors:
        """Return the doors that are open now."""
        storage = await self._door("loupe-storage")
        return Doors(storage, await self._door("loupe-scheduler"), self._nats_url)

    async def _door(self, name: str) -> str:
        return next((one.public for one in await self._discovery.instances(name) if one.public), "")
