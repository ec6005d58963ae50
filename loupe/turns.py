"""Fair turns at what there is little of: whoever asks often waits behind himself, not before the others."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager

from loupe.errors import Throttled


class Turns:
    """Numbered places; those who wait for one are taken in turn, one of each source.

    numbers: of the places. The one that was left last is given first: what stands there may be warm.
    each, waiting: how many of one source, and of all sources, may wait.
    """

    def __init__(self, numbers: Iterable[int], *, each: int = sys.maxsize, waiting: int = sys.maxsize) -> None:
        self._free = sorted(numbers, reverse=True)
        self._each = each
        self._most = waiting
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[int]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, source: Hashable) -> AsyncIterator[int]:
        """Hold a place during the block and give its number. Raises Throttled when too many wait already."""
        number = self._free.pop() if self._free else await self._wait(source)
        try:
            yield number
        finally:
            self._pass_on(number)

    async def _wait(self, source: Hashable) -> int:
        queue = self._queues.get(source, deque())
        if len(queue) >= self._each or sum(map(len, self._queues.values())) >= self._most:
            raise Throttled("too many are waiting at this moment; try again", retry_after_seconds=1)
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        queue.append(place)
        self._queues[source] = queue
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on(place.result())  # the place came just when the caller went
            elif place in queue:
                queue.remove(place)
                if not queue:
                    del self._queues[source]
            raise

    def _pass_on(self, number: int) -> None:
        while self._queues:
            source, queue = self._queues.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._queues[source] = queue  # behind the other sources
            if not place.done():
                place.set_result(number)
                return
        self._free.append(number)
