"""The trainer's slots, and the warm sandboxes that wait in them, everything costly imported, for one job each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from services.trainer.sandbox.leftovers import FreshFolders
from services.trainer.sandbox.process import SandboxedProcess
from services.trainer.sandbox.sandbox import Sandbox
from services.trainer.sandbox.warm import SlotPlan, WarmSandbox, start_warm

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class SlotCounts:
    """How the slots are used now."""

    total: int
    busy: int
    warm: int


class Slots:
    """Hands out sandboxes. Each serves one job and is thrown away; a new one is warmed in its place."""

    def __init__(self, sandbox: Sandbox, folder: Path, plan: SlotPlan, clock: Callable[[], float]) -> None:
        self._launcher = sandbox
        self._folders = FreshFolders(folder)
        self._plan = plan
        self._clock = clock
        self._free = set(range(plan.count))
        self._ready: list[WarmSandbox] = []
        self._warming: dict[int, asyncio.Task[WarmSandbox]] = {}
        self._starting: dict[int, SandboxedProcess] = {}
        self._busy = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self) -> None:
        """Begin to warm; what an earlier trainer left behind is removed meanwhile."""
        self._spawn(self._folders.clear())
        self._refill()

    @property
    def counts(self) -> SlotCounts:
        """How the slots are used now."""
        return SlotCounts(self._plan.count, self._busy, len(self._ready))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[WarmSandbox]:
        """Wait for a slot and give its sandbox, warm when there is one. Raises SandboxFailed."""
        sandbox = await self._take()
        self._busy += 1
        try:
            yield sandbox
        finally:
            self._busy -= 1
            await asyncio.shield(self._discard(sandbox))

    async def close(self) -> None:
        """End every sandbox that waits."""
        self._closed = True
        for task in (*self._warming.values(), *self._tasks):
            task.cancel()
        await asyncio.gather(*self._warming.values(), *self._tasks, return_exceptions=True)
        ready, self._ready = self._ready, []
        for sandbox in ready:
            await sandbox.close()

    async def _take(self) -> WarmSandbox:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._ready or self._warming or self._free))
            while self._ready:
                sandbox = self._ready.pop()
                if not sandbox.process.ended:
                    sandbox.warm = True
                    sandbox.process.raise_priority()
                    return sandbox
                await self._discard(sandbox)
            if self._warming:
                slot, task = self._warming.popitem()
                self._urge(slot)
                return await task
            if self._free:
                return await self._prepare(self._free.pop(), nice=0)

    def _refill(self) -> None:
        while not self._closed and self._free and len(self._ready) + len(self._warming) < self._plan.warm:
            slot = self._free.pop()
            # Only root may take the low priority away again.
            task = asyncio.create_task(self._prepare(slot, nice=19 if os.geteuid() == 0 else 0))
            self._warming[slot] = task
            task.add_done_callback(partial(self._warmed, slot))

    def _warmed(self, slot: int, task: asyncio.Task[WarmSandbox]) -> None:
        if self._warming.pop(slot, None) is None:
            return  # a job took it while it got warm
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("warming_failed", slot=slot, error=str(error))
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._refill)
            return
        sandbox = task.result()
        self._ready.append(sandbox)
        self._spawn(self._replace_when_dead(sandbox))
        self._spawn(self._announce())

    async def _replace_when_dead(self, sandbox: WarmSandbox) -> None:
        await sandbox.process.wait()
        if sandbox in self._ready:
            self._ready.remove(sandbox)
            log.warning("warm_sandbox_died", slot=sandbox.slot, status=sandbox.process.process.returncode)
            await self._discard(sandbox)

    async def _prepare(self, slot: int, nice: int) -> WarmSandbox:
        try:
            return await start_warm(
                self._launcher,
                self._plan,
                self._folders.name(str(slot)),
                slot=slot,
                nice=nice,
                clock=self._clock,
                started=partial(self._starting.__setitem__, slot),
            )
        except BaseException:
            self._free.add(slot)
            self._spawn(self._announce())
            raise
        finally:
            self._starting.pop(slot, None)

    def _urge(self, slot: int) -> None:
        """Give a sandbox that is still getting warm the usual priority: a job waits for it."""
        if process := self._starting.get(slot):
            process.raise_priority()

    async def _discard(self, sandbox: WarmSandbox) -> None:
        try:
            await sandbox.close()
        finally:
            self._free.add(sandbox.slot)
            self._refill()
            await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
