"""One run, from its job message to its end: answers it, passes its reports on, ends it when it misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from loupe.algorithm.host import Outcome, Progress
from loupe.errors import AlgorithmFailed, LoupeError, ResourceExhausted, Throttled
from loupe.token_bucket import TokenBucket
from services.trainer.attempts.events import Checkpointed, Happening, Logged, Progressed, RunFailed
from services.trainer.clients.storage import LocalFile
from services.trainer.runs import intake
from services.trainer.runs.console import LineSplitter, LogGate
from services.trainer.runs.host import RunHost
from services.trainer.runs.inference import Answered
from services.trainer.runs.work_folder import BadFile, WorkFolder
from services.trainer.sandbox.channel import ProtocolBroken
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.usage import Usage, measure
from services.trainer.sandbox.warm import WarmSandbox

PROGRESS_PER_SECOND, PROGRESS_BURST = 20, 100
OUTPUT_BYTES, OUTPUT_BYTES_PER_SECOND = 1 << 16, 4 << 20
# How long the watcher waits between two looks: so many times what a look takes, within these bounds.
WATCH_SECONDS, WATCH_SHARE, LONGEST_WATCH_SECONDS = 0.1, 10, 0.5
# Threads of their own: what others copy or remove at length holds no look up.
WATCHERS = ThreadPoolExecutor(4, "watcher")
EXIT_SECONDS = 10
CHECKPOINT_SUFFIXES = (".safetensors", ".json")
CHECKPOINT_FILES = 64


@dataclass(frozen=True)
class Completed:
    """What a run handed over, in the trainer's own copies."""

    outcome: Outcome
    artifacts: tuple[LocalFile, ...]
    report: Mapping[str, Any]


class Run:
    """Looks after one sandbox while its algorithm runs. Whatever comes out of it is checked first."""

    def __init__(
        self,
        sandbox: WarmSandbox,
        *,
        host: RunHost,
        emit: Callable[[Happening], None],
        limits: Limits,
        staging: Path,
        clock: Callable[[], float],
    ) -> None:
        self._sandbox = sandbox
        self._host = host
        self._emit = emit
        self._limits = limits
        self._staging = staging
        self._clock = clock
        self._work = WorkFolder(sandbox.process.descriptors[0], sandbox.process.owner)
        self._logs = LogGate()
        self._bucket = TokenBucket(PROGRESS_PER_SECOND, PROGRESS_BURST)
        self._held_back: Progress | None = None
        self._checkpoints = 0
        self._revealed = False
        self._checked: Mapping[str, Any] | None = None
        self._answered: Answered | None = None

    async def execute(self) -> Completed:
        """Run the job to its end. Raises RunFailed."""
        serve = asyncio.create_task(self._serve())
        watch = asyncio.create_task(self._watch_usage())
        others = [asyncio.create_task(work) for work in (self._pass_output_on(), self._pass_held_back_on())]
        try:
            await self._sandbox.channel.send({"type": "job"})
            done, _ = await asyncio.wait({serve, watch}, return_when=asyncio.FIRST_COMPLETED)
            # A job that was ended for what it used also closes its pipe: the cause goes before the symptom.
            return await (watch if watch in done else serve)
        except (ProtocolBroken, BadFile) as error:
            raise RunFailed(AlgorithmFailed(f"the algorithm broke the rules of its sandbox: {error}")) from error
        except LoupeError as error:
            raise RunFailed(error) from error
        finally:
            for task in (serve, watch, *others):
                task.cancel()
            await asyncio.gather(serve, watch, *others, return_exceptions=True)
            self._flush()

    async def stop(self) -> None:
        """Ask the algorithm to end soon."""
        await self._sandbox.channel.send({"type": "stop"})

    async def _serve(self) -> Completed:
        while (message := await self._sandbox.channel.receive()) is not None:
            match message.get("type"):
                case "report":
                    self._progress(intake.progress(message))
                case "log":
                    self._log(intake.log(message))
                case "failed":
                    raise await self._told(message)
                case "call":
                    if completed := await self._answer(intake.call(message)):
                        return completed
                case other:
                    raise ProtocolBroken(f"a message of the unknown type {intake.escape(str(other)[:80])!r}")
        await self._check_usage()
        raise await self._ended()

    async def _answer(self, call: intake.Call) -> Completed | None:
        value: dict[str, Any] = {}
        completed = None
        answer: dict[str, Any] = {"type": "answer", "id": call.id, "value": value}
        match call.method:
            case "pictures":
                try:
                    value["file"] = await self._host.pictures(*intake.size(call.arguments), intake.fit(call.arguments))
                except Throttled:
                    raise
                except ResourceExhausted as error:
                    answer["error"] = error.message  # the algorithm may go on with what it has
            case "reveal_test":
                if self._revealed:
                    raise ProtocolBroken("the test labels were asked for twice")
                self._revealed = True
                value["file"], self._checked = await self._host.reveal_test(call.arguments, self._take)
            case "answers":
                if self._answered is not None:
                    raise ProtocolBroken("answers were handed over twice")
                self._answered = await self._host.take_answers(call.arguments, self._take)
            case "save_checkpoint":
                await self._checkpoint(call.arguments)
            case "finish":
                completed = await self._collect(await asyncio.to_thread(intake.result, call.arguments))
            case other:
                raise ProtocolBroken(f"the unknown method {intake.escape(other[:80])!r} was called")
        await self._sandbox.channel.send(answer)
        return completed

    async def _take(self, path: PurePosixPath, max_bytes: int) -> Path:
        target = self._staging / "answers"
        file = await asyncio.to_thread(self._work.collect, path, "answers", target, max_bytes)
        return file.path

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
            await self._host.save_checkpoint(files)
        finally:
            for file in files:
                file.path.unlink()
        self._flush()
        self._emit(Checkpointed(sum(file.size for file in files)))

    async def _collect(self, result: intake.ReportedResult) -> Completed:
        if self._answered is not None:  # what was counted here is all there is; the image has no word in it
            return Completed(Outcome.DONE, self._answered.files, self._answered.report)
        if result.outcome is Outcome.DONE:
            raise ProtocolBroken("finish: the run calls itself done and handed over no answers")
        files: list[LocalFile] = []
        for name, path in result.artifacts.items():
            left = self._limits.work - sum(file.size for file in files)
            target = self._staging / "artifacts"
            files.append(await asyncio.to_thread(self._work.collect, path, name, target, left))
        # Under this name stands what was counted here, and nothing that the image says.
        said = {name: value for name, value in result.report.items() if name != "checked"}
        report = said if self._checked is None else {**said, "checked": self._checked}
        return Completed(result.outcome, tuple(files), report)

    async def _told(self, message: Mapping[str, Any]) -> RunFailed:
        """Return why the algorithm failed. Raises RunFailed where it was ended by a limit, and raised because of it."""
        await self._check_usage()
        sentence, trace = intake.failure(message)
        for line in trace:
            self._emit(Logged(line))
        # What raises once raises again: the same data, code and seed.
        return RunFailed(AlgorithmFailed(f"the algorithm raised {sentence}", error=sentence), retryable=False)

    async def _ended(self) -> RunFailed:
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                status = await self._sandbox.process.wait()
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
        """Thin a flood of progress out: the newest of what was held back goes on as soon as it may."""
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
        while data := await self._sandbox.process.output.read(OUTPUT_BYTES):
            self._log(splitter.feed(data))
            # Read no faster than this, and a flood stands in its own pipe.
            await asyncio.sleep(len(data) / OUTPUT_BYTES_PER_SECOND)
        self._log(splitter.feed(b"", end=True))

    async def _watch_usage(self) -> NoReturn:
        """Bound what all processes and files use together; the kernel bounds each of them. Raises RunFailed.

        Between two looks a job can go beyond its memory by what its cores can write meanwhile, and by nothing else:
        about 1 GB a second and core where it was measured, in small pages. A look takes longer where many processes
        share pages; the next one comes after LONGEST_WATCH_SECONDS at the latest. Should the machine itself run out,
        the kernel ends jobs first (`choom`). The size of file systems and of each process is the kernel's, and kept.
        """
        while True:
            began = self._clock()
            await self._check_usage()
            took = self._clock() - began
            await asyncio.sleep(min(max(WATCH_SECONDS, WATCH_SHARE * took), LONGEST_WATCH_SECONDS))

    async def _check_usage(self) -> None:
        """Raise RunFailed when the job is beyond a limit now."""
        limits, cgroup = self._limits, self._sandbox.process.cgroup
        if cgroup is not None and await asyncio.to_thread(cgroup.exceeded):
            raise _exceeded("memory", limits.memory, limits.memory)
        looking = partial(measure, self._sandbox.process, limits.memory)
        usage: Usage = await asyncio.get_running_loop().run_in_executor(WATCHERS, looking)
        if usage.disk > limits.work:
            raise _exceeded("disk", usage.disk, limits.work)
        if usage.files > limits.work_files:
            raise _exceeded("files", usage.files, limits.work_files)
        if usage.memory > limits.memory:
            raise _exceeded("memory", usage.memory, limits.memory)


def _exceeded(limit: str, used: int, allowed: int) -> RunFailed:
    error = ResourceExhausted(
        f"the algorithm used more {limit} than it may: {used}, where {allowed} is the limit", limit=limit, value=allowed
    )
    return RunFailed(error, retryable=False)


def _exit(status: int) -> str:
    # bubblewrap reports a signal as a shell does.
    signal = -status if status < 0 else status - 128 if status > 128 else 0
    return f"killed by signal {signal}" if signal else f"exit status {status}"
