"""Callers who have not said who they are: how much is read of what they send, at one time and for how long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from loupe.errors import ResourceExhausted
from loupe.notifier import Notifier

MAX_BYTES = 64 << 10
"""Size of a message whose sender is not known: names, a password, a token."""
READ_SECONDS = 10.0
_SHARE = 4


def short(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the deserializer for messages of at most MAX_BYTES; for others it raises ResourceExhausted."""

    def deserialize(data: bytes) -> Any:
        if (size := len(data)) > MAX_BYTES:
            del data  # or the error would hold it
            raise ResourceExhausted(
                f"{size} bytes in a message of a call without a login; at most {MAX_BYTES} are taken",
                limit="message_bytes",
            )
        return deserializer(data)

    return deserialize


class Strangers:
    """The places of a public door at which messages of unknown callers are read; one address gets a quarter at most.

    places: how many messages are read at the same time. seconds: how long a message may take
    to get a place and to come.
    """

    def __init__(self, places: int, seconds: float = READ_SECONDS) -> None:
        self._places = places
        self._seconds = seconds
        self._taken: Counter[str] = Counter()
        self._freed = Notifier()

    async def read(self, messages: AsyncIterator[Any], peer: str) -> Any:
        """Return the next message, when there is a place. Raises StopAsyncIteration, and ResourceExhausted in time."""
        try:
            async with asyncio.timeout(self._seconds), self._place(peer.rpartition(":")[0]):
                return await anext(messages)
        except TimeoutError:
            raise ResourceExhausted(
                f"within {self._seconds:.0f} s the message did not come, or too many others without a login were read",
                limit="strangers",
            ) from None

    async def each(self, messages: AsyncIterator[Any], peer: str) -> AsyncIterator[Any]:
        """Yield the messages of a stream, each read at a place of its own."""
        while True:
            try:
                message = await self.read(messages, peer)
            except StopAsyncIteration:
                return
            yield message

    @asynccontextmanager
    async def _place(self, address: str) -> AsyncIterator[None]:
        share = max(1, self._places // _SHARE)
        while self._taken.total() >= self._places or self._taken[address] >= share:
            await self._freed.next().wait()
        self._taken[address] += 1
        try:
            yield
        finally:
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]
            self._freed.notify()
