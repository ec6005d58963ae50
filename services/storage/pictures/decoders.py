"""Processes that decode pictures: what strangers send is decoded nowhere else, and it takes no time from the calls."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from loupe.errors import Unavailable
from loupe.picture import White
from loupe.picture_structure import MAX_PIXELS
from services.storage.pictures import decoder
from services.storage.pictures.inspection import THUMBNAIL_SIZE, Inspected

log = structlog.get_logger(__name__)

QUICK_SECONDS = 1.0
MOST_SECONDS = 30.0
TURN_SECONDS = 0.3
_START_SECONDS = 120.0
# Of a process that gets no CPU nobody can say that the picture is to blame; this ends one that hangs.
_WALL_FACTOR = 60.0
_NICE, _PATIENT_NICE = 10, 15

Encoded = tuple[str, bytes]
"""A picture's digest and file."""


@dataclass
class Turn:
    """What came of a turn: pictures that are neither inspected nor slow were not begun.

    slow: digests of those that take more CPU than there is without patience.
    """

    inspected: list[Inspected] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


class Decoders:
    """A few processes at low priority, and one more for pictures that take long; one that died is replaced.

    quick_seconds: CPU time in which a picture is decoded at once. most_seconds: what a picture may take with patience;
    one that needs more is broken.
    """

    def __init__(
        self, processes: int, *, quick_seconds: float = QUICK_SECONDS, most_seconds: float = MOST_SECONDS
    ) -> None:
        self.processes = processes
        self._quick_seconds = quick_seconds
        self._most_seconds = most_seconds
        self._quick = [self._process(_NICE) for _ in range(processes)]
        self._patient = self._process(_PATIENT_NICE)

    def _process(self, nice: int) -> DecoderProcess:
        return DecoderProcess(nice)

    async def warm(self) -> None:
        """Start a process ahead of the first picture, which need not wait for it then."""
        self._quick[0].start()

    async def inspect(self, pictures: Sequence[Encoded], *, patient: bool = False) -> Turn:
        """Decode pictures, in their order, for one short turn; at least one is decoded or found to be slow.

        A picture on which a decoder dies is broken, and so is one that takes too long with patience. Raises Unavailable
        when decoders die of themselves: that is no picture's fault.
        """
        processes = [self._patient] if patient else self._quick
        shares = [(process, pictures[start :: len(processes)]) for start, process in enumerate(processes)]
        turns = await asyncio.gather(*(self._inspect(*share, patient) for share in shares if share[1]))
        return Turn([each for turn in turns for each in turn.inspected], [each for turn in turns for each in turn.slow])

    async def _inspect(self, process: DecoderProcess, pictures: Sequence[Encoded], patient: bool) -> Turn:
        seconds = self._most_seconds if patient else self._quick_seconds
        process.start()  # here and not in the thread: a process ends with the thread that started it
        inspected, failure = await asyncio.to_thread(process.inspect, pictures, seconds)
        turn = Turn(inspected)
        if failure is None:
            return turn
        if failure.digest is None:
            raise Unavailable("no process that decodes pictures can be started", dependency="decoders")
        if not failure.slow:
            log.warning("a decoder died on a picture", digest=failure.digest)
            turn.inspected.append(Inspected(failure.digest, "decoding it failed badly"))
        elif patient:
            log.warning("a picture took too long to decode", digest=failure.digest, seconds=seconds)
            turn.inspected.append(Inspected(failure.digest, f"decoding it takes more than {seconds:.0f} s of CPU"))
        else:
            turn.slow.append(failure.digest)
        process.start()  # the next turn need not wait for it
        return turn

    async def close(self) -> None:
        """End the processes."""
        for process in (*self._quick, self._patient):
            process.kill()


@dataclass(frozen=True)
class _Failure:
    """Says on which picture a process ended, None before any, and whether that is because it took too long."""

    digest: str | None
    slow: bool = False


class _EndedError(Exception):
    """The process has ended, or hangs."""


class DecoderProcess:
    """One process that decodes, whoever asks; `inspect` blocks: it is for threads, which take turns."""

    def __init__(self, nice: int) -> None:
        self._nice = nice
        self._child: subprocess.Popen[bytes] | None = None
        self._ready: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def command(self) -> list[str]:
        """Return how the process is started."""
        return [sys.executable, "-m", decoder.__name__, str(os.getpid()), str(self._nice)]

    def start(self) -> None:
        """Start the process unless it runs."""
        if self._child is None or self._child.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(self.command(), stdin=pipe, stdout=pipe, bufsize=0, env=environment)
            assert self._child.stdin is not None
            os.set_blocking(self._child.stdin.fileno(), False)

    def kill(self) -> None:
        """End the process; a thread that waits for it returns."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def inspect(self, pictures: Sequence[Encoded], seconds: float) -> tuple[list[Inspected], _Failure | None]:
        """Decode pictures one after the other until the turn is over, and say what stopped it before that."""
        with self._lock:
            child, inspected = self._child, list[Inspected]()
            digest: str | None = None
            try:
                self._await_ready(child)
                end = time.monotonic() + TURN_SECONDS
                for digest, data in pictures:
                    inspected.append(self._exchange(child, digest, data, seconds))
                    if time.monotonic() >= end:
                        break
            except (_EndedError, OSError):
                slow = self._end(child) == -signal.SIGPROF
                return inspected, _Failure(digest, slow)
            return inspected, None

    def _await_ready(self, child: subprocess.Popen[bytes] | None) -> None:
        if self._ready is not child:
            if _read(child, len(decoder.READY), _START_SECONDS) != decoder.READY:
                raise _EndedError
            self._ready = child

    def _exchange(self, child: subprocess.Popen[bytes] | None, digest: str, data: bytes, seconds: float) -> Inspected:
        _write(child, decoder.REQUEST.pack(seconds, len(data)))
        _write(child, data)
        answer = _read(child, decoder.ANSWER.size, seconds * _WALL_FACTOR)
        kind, frames, white, told, width, height, size = decoder.ANSWER.unpack(answer)
        told_whole = size == decoder.HASH_BYTES + THUMBNAIL_SIZE**2 and 0 < width * height <= MAX_PIXELS
        if kind == decoder.WHOLE and told_whole:
            body = _read(child, size, _WALL_FACTOR)
            scaled = White(white, bool(told)) if white else None
            pixels = body[: decoder.HASH_BYTES], body[decoder.HASH_BYTES :]
            return Inspected(digest, "", *pixels, frames, scaled, width, height)
        if kind == decoder.BROKEN and 0 < size <= decoder.MAX_REASON_BYTES:
            return Inspected(digest, _read(child, size, _WALL_FACTOR).decode(errors="replace"))
        raise _EndedError  # it answers out of turn

    def _end(self, child: subprocess.Popen[bytes] | None) -> int:
        if child is None:
            return 1
        try:
            return child.wait(timeout=0.2)  # it ends by itself, and says by what
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
        finally:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _read(child: subprocess.Popen[bytes] | None, size: int, seconds: float) -> bytes:
    assert child is not None
    assert child.stdout is not None
    found = b""
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    while len(found) < size:
        if not poll.poll(seconds * 1e3):
            raise _EndedError
        more = os.read(child.stdout.fileno(), size - len(found))
        if not more:
            raise _EndedError
        found += more
    return found


def _write(child: subprocess.Popen[bytes] | None, data: bytes) -> None:
    assert child is not None
    assert child.stdin is not None
    poll = select.poll()
    poll.register(child.stdin, select.POLLOUT)
    view = memoryview(data)
    while view:
        if not poll.poll(_WALL_FACTOR * 1e3):
            raise _EndedError
        view = view[os.write(child.stdin.fileno(), view) :]
