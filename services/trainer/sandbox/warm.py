"""A sandbox with everything costly imported, which waits for its one job: what it is, and how it gets ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe.algorithm.pipe import RUNNER
from services.trainer.sandbox.channel import Channel, ProtocolBroken
from services.trainer.sandbox.launch import Launch
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxedProcess, SandboxFailed
from services.trainer.sandbox.sandbox import Sandbox

OUTPUT_BYTES = 4000


@dataclass(frozen=True)
class SlotPlan:
    """How many jobs run at once, and how a sandbox for one is prepared.

    warm: how many sandboxes wait ready, at most. threads: CPU threads of a job. runner, modules: what is imported
    before the job is known. ready_seconds: how long that may take. idle_modules: what is imported behind that as long
    as no job comes.
    """

    count: int = 1
    warm: int = 1
    threads: int = 1
    gpu: bool = False
    limits: Limits = field(default_factory=Limits)
    runner: str = RUNNER
    modules: Sequence[str] = ()
    ready_seconds: float = 300.0
    idle_modules: Sequence[str] = ()


@dataclass
class WarmSandbox:
    """A sandbox that waits for its one job. warm: it waited before the job came."""

    slot: int
    process: SandboxedProcess
    channel: Channel
    warm: bool = False

    async def close(self) -> None:
        """End the sandbox with everything in it."""
        self.channel.close()
        await self.process.kill()


async def start_warm(
    sandbox: Sandbox,
    plan: SlotPlan,
    folder: Path,
    *,
    slot: int,
    nice: int,
    clock: Callable[[], float],
    started: Callable[[SandboxedProcess], None],
) -> WarmSandbox:
    """Start a sandbox in `folder` and return it when everything is imported. Raises SandboxFailed.

    started: told of the process, which is not ready yet.
    """
    data, work = sandbox.inside(folder)
    arguments = ["--channel", "{channel}", "--data", data, "--work", work, "--runner", plan.runner]
    arguments += ["--warm", ",".join(plan.modules), "--idle", ",".join(plan.idle_modules)]
    launch = Launch(
        "loupe.algorithm.pipe",
        folder,
        slot,
        plan.limits,
        arguments,
        threads=plan.threads,
        nice=nice,
        gpu=plan.gpu,
    )
    process = await _complete(sandbox.start(launch))
    started(process)
    channel: Channel | None = None
    try:
        channel = await Channel.open(process.channel, clock)
        async with asyncio.timeout(plan.ready_seconds):
            await _until_ready(process, channel)
        await asyncio.to_thread(process.open_folders)
    except (TimeoutError, ProtocolBroken) as error:
        await _abandon(process, channel)
        raise SandboxFailed(f"a sandbox did not get ready: {error}") from error
    except BaseException:
        await _abandon(process, channel)
        raise
    return WarmSandbox(slot, process, channel)


async def _complete(start: Coroutine[Any, Any, SandboxedProcess]) -> SandboxedProcess:
    """Let a start come to its end even when cancelled meanwhile, and end what it started then."""
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
        output = await process.output.read(OUTPUT_BYTES)
        raise SandboxFailed(f"a sandbox did not get ready: {output.decode(errors='replace').strip()}")


async def _abandon(process: SandboxedProcess, channel: Channel | None) -> None:
    if channel is not None:
        channel.close()
    await process.kill()
