"""Fair turns at what there is little of: whoever asks often waits behind himself, not before the others."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loupe.errors import Throttled


class Turns:
    """Lets `places` callers work at once; those who wait are taken in turn, one of each source.

    each: how many of one source may wait. waiting: how many of all sources.
    """

    def __init__(self, places: int, *, each: int, waiting: int) -> None:
        self._free = places
        self._each = each
        self._most = waiting
        self._waiting = 0
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, source: str) -> AsyncIterator[None]:
        """Hold a place during the block. Raises Throttled when too many wait already."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(source)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, source: str) -> None:
        queue = self._queues.get(source, deque())
        if self._waiting >= self._most or len(queue) >= self._each:
            raise Throttled("too many passwords at once; try again in a moment", retry_after_seconds=1)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        self._queues[source] = queue
        self._waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._pass_on()  # the place came just when the caller went
            elif place in queue:
                self._leave(source, queue, place)
            raise
        finally:
            self._waiting -= 1

    def _leave(self, source: str, queue: deque[asyncio.Future[None]], place: asyncio.Future[None]) -> None:
        queue.remove(place)
        if not queue:
            del self._queues[source]

    def _pass_on(self) -> None:
        while self._queues:
            source, queue = self._queues.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._queues[source] = queue  # behind the other sources
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
