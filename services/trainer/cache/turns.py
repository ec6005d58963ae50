"""Whose turn it is: a few things that many want, handed out to those who wait in turn, not in order of arrival."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable


class Turns:
    """Hands out numbers. Who asks a hundred times at once waits no less than who asks once."""

    def __init__(self, numbers: Iterable[int]) -> None:
        # The one that was used last comes first: its process is there, and others may never be needed.
        self._free = sorted(numbers, reverse=True)
        self._waiting: OrderedDict[int, deque[asyncio.Future[int]]] = OrderedDict()

    async def take(self, whose: object) -> int:
        """Wait for a number. whose: who wants it, told apart by identity."""
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id(whose), deque()).append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())
            raise

    def give_back(self, number: int) -> None:
        """Pass a number on to the one whose turn it is."""
        while self._waiting:
            whose, queue = self._waiting.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._waiting[whose] = queue
            if not waiter.done():
                waiter.set_result(number)
                return
        self._free.append(number)
