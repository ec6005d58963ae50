"""Processes that decode pictures: what strangers send is decoded nowhere else, and it takes no time from the calls."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import structlog

from loupe.errors import Unavailable
from services.storage.pictures.inspection import Inspected, inspect

log = structlog.get_logger(__name__)

_NICE = 10
_PR_SET_PDEATHSIG = 1
_MOST_MEMORY = 4 << 30

Encoded = tuple[str, bytes]
"""A picture's digest and file."""


class Decoders:
    """A small pool of processes at low priority; one that died is replaced."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    async def warm(self) -> None:
        """Start a process ahead of the first picture, which need not wait for it then."""
        await self._run([])

    async def inspect(self, pictures: Sequence[Encoded]) -> list[Inspected]:
        """Decode pictures and return what was found out, in any order.

        A picture on which a decoder dies is broken; the others are decoded again. Raises Unavailable when decoders
        die of themselves: that is no picture's fault.
        """
        shares = [pictures[start :: self.processes] for start in range(self.processes)]
        found = await asyncio.gather(*(self._inspect(share) for share in shares if share))
        return [row for share in found for row in share]

    async def _inspect(self, pictures: Sequence[Encoded]) -> list[Inspected]:
        inspected = await self._run(pictures)
        if inspected is not None:
            return inspected
        if await self._run([]) is None:
            raise Unavailable("no process that decodes pictures can be started", dependency="decoders")
        if len(pictures) > 1:
            return [row for each in pictures for row in await self._inspect([each])]
        digest = pictures[0][0]
        log.warning("a decoder died on a picture", digest=digest)
        return [Inspected(digest, "decoding it failed badly")]

    async def _run(self, pictures: Sequence[Encoded]) -> list[Inspected] | None:
        """Return None when the process died."""
        pool = self._pool = self._pool or self._start()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _inspect_all, pictures)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
                pool.shutdown(wait=False)
            return None

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.processes, context, initializer=_prepare, initargs=(os.getpid(),))

    async def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def _prepare(parent: int) -> None:
    # A parent that is killed cannot end its decoders, and they would wait for work for ever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _inspect_all(pictures: Sequence[Encoded]) -> list[Inspected]:
    return [inspect(digest, data) for digest, data in pictures]
