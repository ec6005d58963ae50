"""The inside end of the pipe between a run and its trainer: `PipeHost`, and the program that a sandbox starts.

Messages are JSON objects, each behind its length as four bytes, big end first. The trainer believes nothing that comes
through it; what is checked on this side is checked for a clear error at the right line of the algorithm.

    run -> trainer   ready, report, log, failed, and call (with an id; every call gets one answer)
    trainer -> run   job, answer, stop

What a run may read lies in its data folder: `job.json`, `classes.npy`, `splits.npy`, `digests.npy`, `regions.npy`,
and the folders `algorithm`, `weights` and `checkpoint`. What it writes lies in its work folder.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.host import DatasetIndex, Progress, Result, RunSpec
from loupe.algorithm.region_file import read_regions, write_regions
from loupe.job_kinds import JobKind
from loupe.letterbox import Fit
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective

LENGTH = struct.Struct(">I")
MAX_MESSAGE = 1 << 20
MAX_LOG = 4000
MAX_TRACEBACK = 8000
RUNNER = "loupe.algorithm.context:run_image"


class PipeError(Exception):
    """Says what is wrong with the pipe, or with a message in it."""


class HostGone(PipeError):
    """Says that the trainer closed the pipe; a run cannot go on without it."""


class HostRefused(PipeError):
    """Carries the trainer's answer to a request that it did not grant."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the message behind its length. Raises PipeError for one above MAX_MESSAGE bytes."""
    body = json.dumps(message, default=_jsonable, separators=(",", ":")).encode()
    if len(body) > MAX_MESSAGE:
        raise PipeError(f"a message of {len(body)} bytes; at most {MAX_MESSAGE} bytes go through the pipe")
    return LENGTH.pack(len(body)) + body


def _jsonable(value: Any) -> Any:
    """Turn numpy and torch numbers and arrays, paths and mappings into what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


class PipeHost:
    """A `Host` whose every answer comes from the trainer at the other end of a socket.

    Its methods may be called from any thread of the run; one call is under way at a time. Each raises HostGone when
    the trainer closes the pipe, and HostRefused where it does not grant what is asked.
    data, work: the run's folders as the run sees them. finished: whether a result was handed over.
    """

    def __init__(self, pipe: socket.socket, data: Path, work: Path) -> None:
        self._pipe = pipe
        self._data = data
        self._work = work
        self._lock = threading.RLock()
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._calls = 0
        self._stop = False
        self.finished = False

    @property
    def work(self) -> Path:
        return self._work

    def spec(self) -> RunSpec:
        job = json.loads((self._data / "job.json").read_text(encoding="utf-8"))
        dataset = DatasetIndex(
            name=job["dataset"],
            labels=job["labels"],
            classes=np.load(self._data / "classes.npy", allow_pickle=False),
            splits=np.load(self._data / "splits.npy", allow_pickle=False),
            digests=[row.tobytes().hex() for row in np.load(self._data / "digests.npy", allow_pickle=False)],
            regions=read_regions(self._data / "regions.npy"),
        )
        return RunSpec(
            parameters=job["parameters"],
            objective=Objective(**job["objective"]),
            dataset=dataset,
            seed=job["seed"],
            threads=job["threads"],
            device=job["device"],
            max_seconds=job["max_seconds"],
            max_epochs=job["max_epochs"],
            weights={name: self._data / file for name, file in job["weights"].items()},
            resumes=job["resumes"],
            kind=JobKind(job["kind"]),
            task=job["task"],
        )

    def pictures(self, height: int, width: int, fit: Fit = "stretch") -> Path:
        return self._data / str(self._call("pictures", height=int(height), width=int(width), fit=fit)["file"])

    def reveal_test(self, answers: np.ndarray) -> np.ndarray:
        packed = base64.b64encode(answers.astype("<u2").tobytes()).decode()
        file = self._call("reveal_test", answers=packed)["file"]
        classes: np.ndarray = np.load(self._data / file, allow_pickle=False)
        return classes

    def reveal_test_regions(self, found: Regions) -> Regions:
        path = self._work / "test_detections.npy"
        write_regions(path, found)
        file = self._call("reveal_test", file=self._inside(path))["file"]
        return read_regions(self._data / file)

    def hand_over_answers(self, found: Regions) -> None:
        path = self._work / "answers.npy"
        write_regions(path, found)
        self._call("answers", file=self._inside(path))

    def report(self, progress: Progress) -> None:
        self._send(
            {
                "type": "report",
                "phase": progress.phase,
                "epoch": int(progress.epoch),
                "step": int(progress.step),
                "total_steps": int(progress.total_steps),
                "metrics": {name: float(value) for name, value in progress.metrics.items()},
                "message": progress.message,
            }
        )

    def log(self, text: str) -> None:
        self._send({"type": "log", "text": str(text)[:MAX_LOG]})

    def save_checkpoint(self, folder: Path) -> None:
        self._call("save_checkpoint", folder=self._inside(folder))

    def restore_checkpoint(self) -> Path | None:
        folder = self._data / "checkpoint"
        return folder if folder.is_dir() else None

    def stop_requested(self) -> bool:
        if self._lock.acquire(blocking=False):
            try:
                while not self._stop and self.hears():
                    self._expect_stop(self._receive())
            finally:
                self._lock.release()
        return self._stop

    def finish(self, result: Result) -> None:
        artifacts = {name: self._inside(path) for name, path in result.artifacts.items()}
        self._call("finish", outcome=str(result.outcome), artifacts=artifacts, report=dict(result.report))
        self.finished = True

    def ready(self) -> None:
        """Tell the trainer that everything costly is imported."""
        self._send({"type": "ready"})

    def wait_for_job(self) -> None:
        """Return when the job lies in the data folder. Raises HostGone when the trainer gives this sandbox up."""
        message = self._receive()
        if message.get("type") != "job":
            raise PipeError(f"a {message.get('type')} message where the job was due")

    def hears(self) -> bool:
        """Say whether the trainer has sent something that is not read yet, or closed the pipe."""
        return bool(self._poll.poll(0))

    def failed(self, error: BaseException) -> None:
        """Tell the trainer what the algorithm raised, cut to MAX_LOG and MAX_TRACEBACK characters."""
        self._send(
            {
                "type": "failed",
                "error": type(error).__name__,
                "text": str(error)[:MAX_LOG],
                "traceback": "".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
            }
        )

    def _inside(self, path: Path) -> str:
        absolute = Path(os.path.normpath(self._work / path))
        if not absolute.is_relative_to(self._work):
            raise ValueError(f"{path} is outside the run's work folder {self._work}")
        return absolute.relative_to(self._work).as_posix()

    def _send(self, message: Mapping[str, Any]) -> None:
        data = encode(message)
        with self._lock:
            try:
                self._pipe.sendall(data)
            except OSError as error:
                raise HostGone("the trainer closed the pipe") from error

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            self._calls += 1
            self._send({"type": "call", "id": self._calls, "method": method, "arguments": arguments})
            while True:
                message = self._receive()
                if message.get("type") == "answer" and message.get("id") == self._calls:
                    break
                self._expect_stop(message)
        if "error" in message:
            raise HostRefused(f"{method}: {message['error']}")
        value: dict[str, Any] = message["value"]
        return value

    def _expect_stop(self, message: Mapping[str, Any]) -> None:
        if message.get("type") != "stop":
            raise PipeError(f"an unexpected {message.get('type')} message")
        self._stop = True

    def _receive(self) -> dict[str, Any]:
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        message: dict[str, Any] = json.loads(self._exactly(length))
        return message

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self._pipe.recv(count - len(data))
            except OSError as error:
                raise HostGone("the trainer closed the pipe") from error
            if not chunk:
                raise HostGone("the trainer closed the pipe")
            data += chunk
        return bytes(data)


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def run(host: PipeHost, runner: Callable[[Path, PipeHost], None], image: Path) -> int:
    """Run an unpacked algorithm image and tell the trainer when it fails; return the process's exit status.

    0: a result was handed over. 1: the algorithm failed. 3: the trainer is gone.
    """
    try:
        runner(image, host)
        if not host.finished:
            host.failed(RuntimeError("the algorithm ended without handing over a result (Context.finish)"))
            return 1
    except HostGone:
        return 3
    except BaseException as error:
        host.failed(error)
        return 1
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep what is made within a block from being looked through for garbage, then and ever after.

    Imports make hundreds of thousands of objects that all stay; looking through them takes a fifth of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_while_idle(host: PipeHost, modules: Iterable[str]) -> None:
    """Import one module after the other until there is word from the trainer: the job need not wait for the rest."""
    for name in filter(None, modules):
        if host.hears():
            return
        importlib.import_module(name)


def main(arguments: list[str]) -> int:
    """Get warm, wait for its one job, run it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="loupe.algorithm.pipe")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the trainer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runner", default=RUNNER, help="module:function(image folder, host) that runs the job")
    parser.add_argument("--warm", default="", help="more modules to import before the job, separated by commas")
    parser.add_argument("--idle", default="", help="modules to import as long as no job comes, separated by commas")
    options = parser.parse_args(arguments)
    die_with_parent()
    pipe = socket.socket(fileno=options.channel)
    pipe.set_inheritable(False)
    host = PipeHost(pipe, options.data, options.work)
    module, _, function = options.runner.partition(":")
    with _uncollected():
        runner = getattr(importlib.import_module(module), function)
        for other in filter(None, options.warm.split(",")):
            importlib.import_module(other)
    try:
        host.ready()
        with _uncollected():
            _import_while_idle(host, options.idle.split(","))
        host.wait_for_job()
    except HostGone:
        return 0
    return run(host, runner, options.data / "algorithm")
