"""One run, from its job message to its end: answers it, passes its reports on, ends it when it misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loupe.algorithm.host import Outcome, Progress
from loupe.errors import AlgorithmFailed, DataLoss, LoupeError, ResourceExhausted, Throttled, Unavailable
from services.trainer.attempts.events import Checkpointed, Failed, Happening, Logged, Progressed
from services.trainer.runs import intake
from services.trainer.runs.channel import ProtocolBroken
from services.trainer.runs.console import LineSplitter, LogGate
from services.trainer.runs.rate import TokenBucket
from services.trainer.runs.work_folder import BadFile, CollectedFile, WorkFolder
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.memory import memory_in_use
from services.trainer.sandbox.slots import Cell

PROGRESS_PER_SECOND, PROGRESS_BURST = 20, 100
OUTPUT_BYTES, OUTPUT_BYTES_PER_SECOND = 1 << 16, 4 << 20
WATCH_SECONDS = 0.5
EXIT_SECONDS = 10
CHECKPOINT_SUFFIXES = (".safetensors", ".json")
CHECKPOINT_FILES = 64


class RunFailed(Exception):
    """Ends an attempt without a result."""

    def __init__(self, error: LoupeError, *, retryable: bool | None = None) -> None:
        super().__init__(error.message)
        if retryable is None:
            retryable = isinstance(error, Unavailable | DataLoss | Throttled)
        self.failed = Failed.of(error, retryable=retryable)


@dataclass(frozen=True)
class Completed:
    """What a run handed over, in the trainer's own copies."""

    outcome: Outcome
    artifacts: tuple[CollectedFile, ...]
    report: Mapping[str, Any]


class Desk(Protocol):
    """Grants what a run may ask for. File names are below the run's data folder. All raise LoupeError."""

    async def pictures(self, height: int, width: int) -> str:
        """Put the array of all pictures into the data folder, and return its name."""

    async def reveal_test(self) -> str:
        """Put every label into the data folder, and return the file's name."""

    async def save_checkpoint(self, files: list[CollectedFile]) -> None:
        """Return when the checkpoint is durable."""


class Run:
    """Looks after one sandbox while its algorithm runs. Whatever comes out of it is checked first."""

    def __init__(
        self,
        cell: Cell,
        *,
        desk: Desk,
        emit: Callable[[Happening], None],
        limits: Limits,
        staging: Path,
        clock: Callable[[], float],
    ) -> None:
        self._cell = cell
        self._desk = desk
        self._emit = emit
        self._limits = limits
        self._staging = staging
        self._clock = clock
        self._work = WorkFolder(cell.process.work, cell.process.owner)
        self._logs = LogGate()
        self._bucket = TokenBucket(PROGRESS_PER_SECOND, PROGRESS_BURST)
        self._held_back: Progress | None = None
        self._checkpoints = 0
        self._revealed = False

    async def execute(self) -> Completed:
        """Run the job to its end. Raises RunFailed."""
        serve = asyncio.create_task(self._serve())
        others = [
            asyncio.create_task(work)
            for work in (self._pass_output_on(), self._watch_usage(), self._pass_held_back_on())
        ]
        try:
            await self._cell.channel.send({"type": "job"})
            watch = others[1]
            done, _ = await asyncio.wait({serve, watch}, return_when=asyncio.FIRST_COMPLETED)
            # A job that was ended for what it used also closes its pipe: the cause goes before the symptom.
            return await (watch if watch in done else serve)
        except (ProtocolBroken, BadFile) as error:
            raise RunFailed(AlgorithmFailed(f"the algorithm broke the rules of its sandbox: {error}")) from error
        except LoupeError as error:
            raise RunFailed(error) from error
        finally:
            for task in (serve, *others):
                task.cancel()
            await asyncio.gather(serve, *others, return_exceptions=True)
            self._flush()

    async def stop(self) -> None:
        """Ask the algorithm to end soon."""
        await self._cell.channel.send({"type": "stop"})

    async def _serve(self) -> Completed:
        while (message := await self._cell.channel.receive()) is not None:
            match message.get("type"):
                case "report":
                    self._progress(intake.progress(message))
                case "log":
                    self._log(intake.log(message))
                case "failed":
                    raise self._raised(message)
                case "call":
                    if completed := await self._answer(intake.call(message)):
                        return completed
                case other:
                    raise ProtocolBroken(f"a message of the unknown type {intake.escape(str(other)[:80])!r}")
        raise await self._ended()

    async def _answer(self, call: intake.Call) -> Completed | None:
        value: dict[str, Any] = {}
        completed = None
        match call.method:
            case "pictures":
                value["file"] = await self._desk.pictures(*intake.size(call.arguments))
            case "reveal_test":
                if self._revealed:
                    raise ProtocolBroken("the test labels were asked for twice")
                self._revealed = True
                value["file"] = await self._desk.reveal_test()
            case "save_checkpoint":
                await self._checkpoint(call.arguments)
            case "finish":
                completed = await self._collect(intake.claim(call.arguments))
            case other:
                raise ProtocolBroken(f"the unknown method {intake.escape(other[:80])!r} was called")
        await self._cell.channel.send({"type": "answer", "id": call.id, "value": value})
        return completed

    async def _checkpoint(self, arguments: Mapping[str, Any]) -> None:
        if self._revealed:
            raise ProtocolBroken("a checkpoint after the test labels were seen; training is over then")
        self._checkpoints += 1
        files = await asyncio.to_thread(
            self._work.collect_folder,
            intake.relative(arguments.get("folder")),
            self._staging / f"checkpoint-{self._checkpoints}",
            CHECKPOINT_SUFFIXES,
            CHECKPOINT_FILES,
            self._limits.file,
        )
        try:
            await self._desk.save_checkpoint(files)
        finally:
            for file in files:
                file.path.unlink()
        self._flush()
        self._emit(Checkpointed(sum(file.size for file in files)))

    async def _collect(self, claim: intake.Claim) -> Completed:
        files: list[CollectedFile] = []
        for name, path in claim.artifacts.items():
            left = self._limits.work - sum(file.size for file in files)
            target = self._staging / "artifacts"
            files.append(await asyncio.to_thread(self._work.collect, path, name, target, left))
        return Completed(claim.outcome, tuple(files), claim.report)

    def _raised(self, message: Mapping[str, Any]) -> RunFailed:
        sentence, trace = intake.failure(message)
        for line in trace:
            self._emit(Logged(line))
        # What raises once raises again: the same data, code and seed.
        return RunFailed(AlgorithmFailed(f"the algorithm raised {sentence}", error=sentence), retryable=False)

    async def _ended(self) -> RunFailed:
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                status = await self._cell.process.wait()
        except TimeoutError:
            return RunFailed(AlgorithmFailed("the algorithm closed its pipe and went on"), retryable=False)
        return RunFailed(
            AlgorithmFailed(f"the algorithm's process died without a result ({_exit(status)})", error=_exit(status)),
            retryable=True,
        )

    def _progress(self, progress: Progress) -> None:
        if self._bucket.take(self._clock()):
            self._held_back = None
            self._emit(Progressed(progress))
        else:
            self._held_back = progress

    async def _pass_held_back_on(self) -> None:
        """A flood of progress is thinned out; the newest of what was held back goes on as soon as it may."""
        while True:
            await asyncio.sleep(1 / PROGRESS_PER_SECOND)
            if self._held_back is not None:
                self._progress(self._held_back)

    def _flush(self) -> None:
        if self._held_back is not None:
            self._emit(Progressed(self._held_back))
            self._held_back = None
        for line in self._logs.rest():
            self._emit(Logged(line))

    def _log(self, lines: list[str]) -> None:
        for line in self._logs.admit(lines, self._clock()):
            self._emit(Logged(line))

    async def _pass_output_on(self) -> None:
        splitter = LineSplitter()
        while data := await self._cell.process.process.stdout.read(OUTPUT_BYTES):
            self._log(splitter.feed(data))
            # Read no faster than this, and a flood stands in its own pipe.
            await asyncio.sleep(len(data) / OUTPUT_BYTES_PER_SECOND)
        self._log(splitter.feed(b"", end=True))

    async def _watch_usage(self) -> Completed:
        """The kernel bounds each process and each file; what all of them use together is watched here."""
        while True:
            memory = await asyncio.to_thread(memory_in_use, self._cell.process.tree, self._limits.memory)
            if memory > self._limits.memory:
                raise _exceeded("memory", memory, self._limits.memory)
            size, count = await asyncio.to_thread(self._work.usage, self._limits.work_files)
            if size > self._limits.work:
                raise _exceeded("disk", size, self._limits.work)
            if count > self._limits.work_files:
                raise _exceeded("files", count, self._limits.work_files)
            await asyncio.sleep(WATCH_SECONDS)


def _exceeded(limit: str, used: int, allowed: int) -> RunFailed:
    error = ResourceExhausted(
        f"the algorithm used more {limit} than it may: {used}, where {allowed} is the limit", limit=limit, value=allowed
    )
    return RunFailed(error, retryable=False)


def _exit(status: int) -> str:
    # bubblewrap reports a signal as a shell does.
    signal = -status if status < 0 else status - 128 if status > 128 else 0
    return f"killed by signal {signal}" if signal else f"exit status {status}"
