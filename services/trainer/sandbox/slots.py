"""The trainer's slots, and the warm sandboxes that wait in them, everything costly imported, for one job each."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from loupe.algorithm.pipe import RUNNER
from services.trainer.runs.channel import Channel, ProtocolBroken
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.sandbox import Launch, Sandbox, SandboxedProcess, SandboxFailed

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
OUTPUT_BYTES = 4000


@dataclass(frozen=True)
class SlotPlan:
    """Says how many jobs run at once, and how a sandbox for one is prepared.

    warm: how many sandboxes wait ready, at most. threads: CPU threads of a job. runner, modules: what is imported
    before the job is known. ready_seconds: how long that may take.
    """

    count: int = 1
    warm: int = 1
    threads: int = 1
    gpu: bool = False
    limits: Limits = field(default_factory=Limits)
    runner: str = RUNNER
    modules: Sequence[str] = ()
    ready_seconds: float = 300.0


@dataclass
class Cell:
    """A sandbox that waits for its one job. warm: it waited before the job came."""

    slot: int
    process: SandboxedProcess
    channel: Channel
    warm: bool = False

    async def close(self) -> None:
        """End the sandbox with everything in it."""
        self.channel.close()
        await self.process.kill()


@dataclass(frozen=True)
class SlotCounts:
    """How the slots are used now."""

    total: int
    busy: int
    warm: int


class Slots:
    """Hands out sandboxes. Each serves one job and is thrown away; a new one is warmed in its place."""

    def __init__(
        self,
        sandbox: Sandbox,
        folder: Path,
        plan: SlotPlan,
        clock: Callable[[], float],
    ) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._plan = plan
        self._clock = clock
        self._free = set(range(plan.count))
        self._ready: list[Cell] = []
        self._warming: dict[int, asyncio.Task[Cell]] = {}
        self._starting: dict[int, SandboxedProcess] = {}
        self._busy = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)
        self._closed = False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def start(self) -> None:
        """Begin to warm."""
        self._refill()

    @property
    def counts(self) -> SlotCounts:
        """Says how the slots are used now."""
        return SlotCounts(self._plan.count, self._busy, len(self._ready))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Cell]:
        """Wait for a slot and give its sandbox, warm when there is one. Raises SandboxFailed."""
        cell = await self._take()
        self._busy += 1
        try:
            yield cell
        finally:
            self._busy -= 1
            await asyncio.shield(self._discard(cell))

    async def close(self) -> None:
        """End every sandbox that waits."""
        self._closed = True
        for task in (*self._warming.values(), *self._tasks):
            task.cancel()
        await asyncio.gather(*self._warming.values(), *self._tasks, return_exceptions=True)
        ready, self._ready = self._ready, []
        for cell in ready:
            await cell.close()

    async def _take(self) -> Cell:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._ready or self._warming or self._free)
            while self._ready:
                cell = self._ready.pop()
                if not cell.process.ended:
                    cell.warm = True
                    cell.process.raise_priority()
                    return cell
                await self._discard(cell)
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
            task.add_done_callback(lambda done, slot=slot: self._warmed(slot, done))

    def _warmed(self, slot: int, task: asyncio.Task[Cell]) -> None:
        if self._warming.pop(slot, None) is None:
            return  # a job took it while it got warm
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("warming_failed", slot=slot, error=str(error))
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._refill)
            return
        cell = task.result()
        self._ready.append(cell)
        self._spawn(self._replace_when_dead(cell))
        self._spawn(self._announce())

    async def _replace_when_dead(self, cell: Cell) -> None:
        await cell.process.wait()
        if cell in self._ready:
            self._ready.remove(cell)
            log.warning("warm_sandbox_died", slot=cell.slot, status=cell.process.process.returncode)
            await self._discard(cell)

    async def _prepare(self, slot: int, nice: int) -> Cell:
        try:
            return await self._start(slot, nice)
        except BaseException:
            self._free.add(slot)
            self._spawn(self._announce())
            raise

    async def _start(self, slot: int, nice: int) -> Cell:
        folder = self._folder / f"{slot}-{next(self._names)}"
        data, work = self._sandbox.inside(folder)
        arguments = ["--channel", "{channel}", "--data", data, "--work", work, "--runner", self._plan.runner]
        arguments += ["--warm", ",".join(self._plan.modules)]
        launch = Launch(
            "loupe.algorithm.pipe",
            folder,
            slot,
            self._plan.limits,
            arguments,
            threads=self._plan.threads,
            nice=nice,
            gpu=self._plan.gpu,
        )
        process = await _whole(self._sandbox.start(launch))
        self._starting[slot] = process
        channel: Channel | None = None
        try:
            channel = await Channel.open(process.channel, self._clock)
            async with asyncio.timeout(self._plan.ready_seconds):
                await _until_ready(process, channel)
        except (TimeoutError, ProtocolBroken) as error:
            await _abandon(process, channel)
            raise SandboxFailed(f"a sandbox did not get ready: {error}") from error
        except BaseException:
            await _abandon(process, channel)
            raise
        finally:
            self._starting.pop(slot, None)
        return Cell(slot, process, channel)

    def _urge(self, slot: int) -> None:
        """Give a sandbox that is still getting warm the usual priority: a job waits for it."""
        if process := self._starting.get(slot):
            process.raise_priority()

    async def _discard(self, cell: Cell) -> None:
        try:
            await cell.close()
        finally:
            self._free.add(cell.slot)
            self._refill()
            await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _whole(start: Coroutine[Any, Any, SandboxedProcess]) -> SandboxedProcess:
    """Let a start come to its end before it gives way to a cancellation, and end all that was started."""
    starting = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await _abandon(starting.result(), None)
        raise


async def _until_ready(process: SandboxedProcess, channel: Channel) -> None:
    if await channel.receive() != {"type": "ready"}:
        output = await process.process.stdout.read(OUTPUT_BYTES)
        raise SandboxFailed(f"a sandbox did not get ready: {output.decode(errors='replace').strip()}")


async def _abandon(process: SandboxedProcess, channel: Channel | None) -> None:
    if channel is not None:
        channel.close()
    await process.kill()
