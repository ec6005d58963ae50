"""A budget of bytes in memory that several parties share: whoever needs some waits, and gets it in fair turns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from loupe.concurrency import interrupt, interruptible
from loupe.errors import Unavailable

STALLED_SECONDS = 20.0
_LOOKS = 4

Parties = tuple[str, ...]
"""Whom bytes are counted for, for example a project and an account; each has its own share."""


class Hold:
    """Bytes that were taken from a budget, until they are released. Without a budget it counts nothing."""

    def __init__(self, budget: ByteBudget | None = None, parties: Parties = (), size: int = 0) -> None:
        self.parties = parties
        self.size = size
        self._budget = budget
        self._since: float | None = None
        self._task: asyncio.Task[object] | None = None

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes."""
        if self._budget is not None and size < self.size:
            self._budget.give_back(self, self.size - size)

    def release(self) -> None:
        """Give everything back; once is enough."""
        if self._budget is not None:
            self._budget.drop(self)
            self._budget = None

    @contextmanager
    def waiting_for_peer(self) -> Iterator[None]:
        """Wait in the block for the other side of a call.

        The task is interrupted with Unavailable when nothing has moved for too long and somebody else needs the bytes.
        """
        self._task, self._since = asyncio.current_task(), time.monotonic()
        try:
            with interruptible():
                yield
        finally:
            self._task = self._since = None

    def idle_seconds(self) -> float:
        """Return for how long the other side has been waited for, 0 when it is not."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def evict(self) -> None:
        """End the block that waits for the other side."""
        if self._task is not None:
            message = "nothing came or went for too long while others were waiting; go on where it stopped"
            interrupt(self._task, Unavailable(message))


class _Waiter:
    def __init__(self, size: int) -> None:
        self.size = size
        self.granted: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()


class ByteBudget:
    """Hands out bytes: who holds the least is served first, then who came first.

    total: bytes that are out at a time. share: bytes that one party has at most. stalled_seconds: how long a holder may
    wait for its peer while somebody else waits for the bytes.
    """

    def __init__(self, total: int, share: int, stalled_seconds: float = STALLED_SECONDS) -> None:
        self._total = total
        self._share = min(share, total)
        self._stalled_seconds = stalled_seconds
        self._taken = 0
        self._by_party: Counter[str] = Counter()
        self._holds: set[Hold] = set()
        self._waiting: dict[Parties, deque[_Waiter]] = {}

    @property
    def taken(self) -> int:
        """How many bytes are out."""
        return self._taken

    async def take(self, parties: Parties, size: int) -> Hold:
        """Wait for so many bytes, at most a whole share, and return them."""
        size = min(size, self._share)
        if (hold := self.try_take(parties, size)) is not None:
            return hold
        waiter = _Waiter(size)
        self._waiting.setdefault(parties, deque()).append(waiter)
        try:
            while not waiter.granted.done():
                await asyncio.wait([waiter.granted], timeout=self._stalled_seconds / _LOOKS)
                if not waiter.granted.done():
                    self._evict_for(parties, size)
            return waiter.granted.result()
        except BaseException:
            self._leave(parties, waiter)
            raise

    def try_take(self, parties: Parties, size: int) -> Hold | None:
        """Return so many bytes when they are free and nobody who could have them waits, else None."""
        size = min(size, self._share)
        before = parties in self._waiting or any(
            self._within_share(others, queue[0].size) for others, queue in self._waiting.items()
        )
        return None if before or not self._fits(parties, size) else self._give(parties, size)

    def give_back(self, hold: Hold, size: int) -> None:
        """Take back some of what is out."""
        hold.size -= size
        self._taken -= size
        for party in hold.parties:
            self._by_party[party] -= size
            if not self._by_party[party]:
                del self._by_party[party]
        self._serve()

    def drop(self, hold: Hold) -> None:
        """Take back all of a hold."""
        self._holds.discard(hold)
        self.give_back(hold, hold.size)

    def _within_share(self, parties: Parties, size: int) -> bool:
        return all(self._by_party[party] + size <= self._share for party in parties)

    def _fits(self, parties: Parties, size: int) -> bool:
        return self._taken + size <= self._total and self._within_share(parties, size)

    def _give(self, parties: Parties, size: int) -> Hold:
        hold = Hold(self, parties, size)
        self._taken += size
        self._by_party.update(dict.fromkeys(parties, size))
        self._holds.add(hold)
        return hold

    def _serve(self) -> None:
        while (parties := self._next()) is not None:
            queue = self._waiting.pop(parties)
            waiter = queue.popleft()
            if queue:
                self._waiting[parties] = queue  # behind the others who hold as little
            if not waiter.granted.done():
                waiter.granted.set_result(self._give(parties, waiter.size))

    def _next(self) -> Parties | None:
        """Return whose turn it is; None where the bytes do not suffice: nobody who needs less slips past."""
        within = [parties for parties, queue in self._waiting.items() if self._within_share(parties, queue[0].size)]
        if not within:
            return None
        parties = min(within, key=self._most_held)
        return parties if self._taken + self._waiting[parties][0].size <= self._total else None

    def _most_held(self, parties: Parties) -> int:
        return max((self._by_party[party] for party in parties), default=0)

    def _evict_for(self, parties: Parties, size: int) -> None:
        """End one stalled hold that stands in the way: of those who hold most, the one that has waited longest."""
        idle = [hold for hold in self._holds if hold.idle_seconds() >= self._stalled_seconds]
        if not self._within_share(parties, size):
            full = {party for party in parties if self._by_party[party] + size > self._share}
            idle = [hold for hold in idle if full.intersection(hold.parties)]
        if idle:
            max(idle, key=lambda hold: (self._most_held(hold.parties), hold.idle_seconds())).evict()

    def _leave(self, parties: Parties, waiter: _Waiter) -> None:
        if waiter.granted.done() and not waiter.granted.cancelled():
            waiter.granted.result().release()
        elif queue := self._waiting.get(parties):
            queue.remove(waiter)
            if not queue:
                del self._waiting[parties]
            self._serve()


class Message(Protocol):
    """A message as protobuf makes them."""

    def ByteSize(self) -> int:
        """Return the length of its encoding."""


M = TypeVar("M", bound=Message)


async def read_message(messages: AsyncIterator[M], budget: ByteBudget, parties: Parties, most: int) -> tuple[M, Hold]:
    """Read the next message of a call, when there is room for one of `most` bytes; it holds what it really has.

    Raises StopAsyncIteration, and Unavailable for a peer that sends nothing while others wait.
    """
    hold = await budget.take(parties, most)
    try:
        with hold.waiting_for_peer():
            message = await anext(messages)
    except BaseException:
        hold.release()
        raise
    hold.shrink(message.ByteSize())
    return message, hold
