"""The outside end of the pipe between a run and its trainer: whole messages of bounded size, at a bounded rate."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

from loupe.algorithm.pipe import LENGTH, MAX_MESSAGE, encode
from loupe.token_bucket import TokenBucket

MESSAGES_PER_SECOND = 1000
BURST = 2000
# What is read ahead of a run that sends too fast; a message may be larger.
READ_AHEAD = 1 << 15


class ProtocolBroken(Exception):
    """Says what a run sent that it must not send."""


class Channel:
    """Reads what a run sends, as JSON objects that nobody has checked yet.

    A run that sends faster than the bound is read no faster than the bound, so that it waits, and nobody else.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._bucket = TokenBucket(MESSAGES_PER_SECOND, BURST)

    @classmethod
    async def open(cls, sock: socket.socket, clock: Callable[[], float]) -> Channel:
        """Wrap a duplicate of the trainer's end of the socket."""
        ours = sock.dup()
        ours.setblocking(False)
        return cls(*await asyncio.open_connection(sock=ours, limit=READ_AHEAD), clock)

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None at the end. Raises ProtocolBroken."""
        now = self._clock()
        if not self._bucket.take(now):
            await asyncio.sleep(self._bucket.wait(now))
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > MAX_MESSAGE:
                raise ProtocolBroken(f"a message of {length} bytes; at most {MAX_MESSAGE} are taken")
            body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ProtocolBroken("the pipe was closed in the middle of a message") from error
            return None
        except ConnectionError:
            return None
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ProtocolBroken("a message that is not JSON") from error
        if not isinstance(message, dict):
            raise ProtocolBroken("a message that is not a JSON object")
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        """Pass a message to the run; one that has ended gets nothing, and that is no error."""
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except ConnectionError:
            return

    def close(self) -> None:
        """Give the socket up."""
        self._writer.close()
