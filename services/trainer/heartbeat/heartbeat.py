"""The trainer's report on itself, made anew every second."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable

import psutil
import structlog

from loupe.load import GpuLoad, RunningAttempt, TrainerLoad
from loupe.names import TrainerName
from services.trainer.attempts.spec import AttemptKey
from services.trainer.sandbox.slots import SlotCounts

log = structlog.get_logger(__name__)

SMOOTHING = 0.3
GPU_SECONDS = 1.0
GPU_TIMEOUT = 5.0
QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")


class Heartbeat:
    """Makes load reports.

    counts: how the slots are used. running: the live attempts. milliseconds: time of day since 1970.
    """

    def __init__(
        self,
        name: TrainerName,
        incarnation: str,
        *,
        sandboxed: bool,
        counts: Callable[[], SlotCounts],
        running: Callable[[], Iterable[AttemptKey]],
        milliseconds: Callable[[], int],
    ) -> None:
        self._name = name
        self._incarnation = incarnation
        self._sandboxed = sandboxed
        self._counts = counts
        self._running = running
        self._milliseconds = milliseconds
        self._beat = 0
        self._gpus: tuple[GpuLoad, ...] = ()
        self._cpu_use = 0.0
        psutil.cpu_times_percent()  # the first call has nothing to compare with

    def report(self) -> TrainerLoad:
        """Return how things stand now; every report counts as a beat."""
        self._beat += 1
        counts = self._counts()
        memory = psutil.virtual_memory()
        return TrainerLoad(
            name=str(self._name),
            incarnation=self._incarnation,
            beat=self._beat,
            at_ms=self._milliseconds(),
            cpu_use=self._smoothed_cpu_use(),
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            slots=counts.total,
            busy_slots=min(counts.busy, counts.total),
            warm_slots=min(counts.warm, counts.total),
            sandboxed=self._sandboxed,
            gpus=self._gpus,
            attempts=tuple(RunningAttempt(key.job, key.attempt) for key in self._running()),
        )

    def _smoothed_cpu_use(self) -> float:
        """Return the use over a few beats: neither a burst of a second keeps a job away nor a lull lets one in."""
        self._cpu_use += SMOOTHING * (_cpu_use() - self._cpu_use)
        return round(self._cpu_use, 4)

    async def watch_gpus(self) -> None:
        """Keep the figures of the GPUs current, for ever; without an NVIDIA driver there are none."""
        while True:
            try:
                if tool := shutil.which("nvidia-smi"):
                    self._gpus = parse_gpus(await _query(tool))
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("gpu_not_read", error=str(error))
            await asyncio.sleep(GPU_SECONDS)


def parse_gpus(text: str) -> tuple[GpuLoad, ...]:
    """Read nvidia-smi's lines "utilisation %, used MiB, total MiB". Raises ValueError."""
    gpus = []
    for line in text.strip().splitlines():
        use, used, total = (int(part) for part in line.split(","))
        gpus.append(GpuLoad(min(use, 100) / 100, min(used, total) << 20, total << 20))
    return tuple(gpus)


def _cpu_use() -> float:
    """Return the share of the processors in use, without what runs at low priority: that makes room for others."""
    times = psutil.cpu_times_percent()
    free = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "nice", 0.0)
    return min(1.0, max(0.0, round(1 - free / 100, 4)))


async def _query(tool: str) -> str:
    process = await asyncio.create_subprocess_exec(
        tool, *QUERY, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(GPU_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise ValueError(f"nvidia-smi ended with {process.returncode}")
    return output.decode()
