"""Consul's lock: of all schedulers of a mesh, the one that holds it leads, which is to say: places jobs."""

from __future__ import annotations

import structlog

from loupe.discovery import Discovery
from loupe.notifier import Notifier

log = structlog.get_logger(__name__)

LEADER_KEY = "loupe/scheduler/leader"


class Leadership:
    """Whether this process holds the leader lock. changed: told when it takes or loses it."""

    def __init__(self, changed: Notifier) -> None:
        self.held = False
        self._changed = changed

    async def follow(self, discovery: Discovery) -> None:
        """Keep `held` current until it is cancelled."""
        async for held in discovery.leadership(LEADER_KEY):
            log.info("leader" if held else "not the leader")
            self.held = held
            self._changed.notify()
