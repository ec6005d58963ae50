"""Telling tasks of one process that something has changed, so that nobody polls and no change is missed."""

from __future__ import annotations

import asyncio


class Notifier:
    """Wakes everybody who waits.

    Take next() first, look at the state then, and wait last: a change in between is not missed.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all who hold the current next()."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event that the next notify() sets."""
        return self._event


async def wait_for(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event and return True, or False after so many seconds; None: for ever."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
