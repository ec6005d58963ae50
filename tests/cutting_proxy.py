"""A TCP proxy that cuts connections: each after so many bytes sent, or all that are open at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence


class CuttingProxy:
    """Stands before a server on 127.0.0.1.

    budgets: how many bytes each next connection may send; the connections after those may send without end.
    """

    def __init__(self, target: int, budgets: Sequence[int] = ()) -> None:
        self._target = target
        self._budgets = list(budgets)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def spent(self) -> bool:
        """Whether every budget was given to a connection."""
        return not self._budgets

    async def start(self) -> str:
        """Open the proxy and return its address, "host:port"."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Reset every connection that is open now; new ones are taken."""
        for writer in self._open:
            writer.transport.abort()

    async def close(self) -> None:
        """End the proxy with its connections."""
        assert self._server is not None
        self._server.close()
        while self._open:
            self.cut()
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = self._budgets.pop(0) if self._budgets else sys.maxsize
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, to_writer}
        back = asyncio.create_task(_pipe(to_reader, writer))
        await _pipe(reader, to_writer, budget)
        writer.transport.abort()
        await back
        self._open -= {writer, to_writer}


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int = sys.maxsize) -> None:
    with contextlib.suppress(OSError):
        while budget and (data := await reader.read(min(budget, 1 << 16))):
            writer.write(data)
            await writer.drain()
            budget -= len(data)
    writer.close()
