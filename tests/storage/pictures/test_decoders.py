"""Decoders that die, and pictures that take too long."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from loupe.errors import Unavailable
from services.storage.pictures import decoders
from services.storage.pictures.decoders import DecoderProcess, Decoders
from tests.storage.photographs import jpeg, sha256

ROOT = Path(__file__).parents[3]
GOOD = [(sha256(jpeg(seed)), jpeg(seed)) for seed in range(2)]

ACTING = """
import os, sys, time
from services.storage.pictures import decoder, inspection

inspect = inspection.inspect

def act(digest, data):
    if data == b"die":
        os._exit(1)
    while b"never ends" in data[:200]:
        pass
    if data == b"slow":
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass
        return inspection.Inspected(digest, "slow, but sure")
    return inspect(digest, data)

inspection.inspect = act
decoder.main(int(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
"""


class ActingProcess(DecoderProcess):
    """A decoder that dies, or takes its time, over certain files."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", ACTING, *super().command()[-2:]]


class ActingDecoders(Decoders):
    """Decoders with little patience."""

    def __init__(self) -> None:
        super().__init__(1, quick_seconds=0.3, most_seconds=1.5)

    def _process(self, nice: int) -> DecoderProcess:
        return ActingProcess(nice)


@pytest.fixture
async def acting() -> AsyncIterator[ActingDecoders]:
    decoders = ActingDecoders()
    yield decoders
    await decoders.close()


async def test_a_decoder_that_dies_costs_one_picture(acting: ActingDecoders) -> None:
    """The picture on which a decoder dies is broken; the others are decoded, before and after."""
    turn = await acting.inspect([GOOD[0], ("deadly", b"die"), GOOD[1]])
    assert [(each.digest, each.problem) for each in turn.inspected] == [
        (GOOD[0][0], ""),
        ("deadly", "decoding it failed badly"),
    ]
    (left,) = (await acting.inspect([GOOD[1]])).inspected
    assert (left.digest, left.problem) == (GOOD[1][0], "")


async def test_a_picture_that_takes_long_is_left_to_who_has_patience(acting: ActingDecoders) -> None:
    """Without patience it is called slow; with it, it is decoded."""
    turn = await acting.inspect([GOOD[0], ("slow", b"slow")])
    assert [each.digest for each in turn.inspected] == [GOOD[0][0]]
    assert turn.slow == ["slow"]
    (told,) = (await acting.inspect([("slow", b"slow")], patient=True)).inspected
    assert told.problem == "slow, but sure"


async def test_a_picture_that_takes_too_long_is_broken(acting: ActingDecoders) -> None:
    """Its decoder is ended by its CPU time, also in a loop that nothing interrupts; the next one goes on."""
    await acting.inspect([GOOD[0]], patient=True)
    started = time.monotonic()
    (told,) = (await acting.inspect([("bomb", b"never ends")], patient=True)).inspected
    assert told.problem == "decoding it takes more than 2 s of CPU"
    assert time.monotonic() - started < 30
    assert (await acting.inspect([GOOD[0]], patient=True)).inspected[0].problem == ""


async def test_a_turn_is_short(acting: ActingDecoders) -> None:
    """What is not decoded after a moment is left for the next turn."""
    turn = await acting.inspect([("a", b"slow"), ("b", b"slow")], patient=True)
    assert [each.digest for each in turn.inspected] == ["a"]
    assert not turn.slow


class NoProcess(DecoderProcess):
    """A decoder that dies before it does anything."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit(1)"]


class NoProcesses(Decoders):
    """Decoders whose processes cannot start."""

    def _process(self, nice: int) -> DecoderProcess:
        return NoProcess(nice)


class DeafProcess(DecoderProcess):
    """A decoder that was taken over: it reads nothing."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import time; print(end=chr(1), flush=True); time.sleep(600)"]


class DeafDecoders(Decoders):
    """Decoders that take nothing."""

    def _process(self, nice: int) -> DecoderProcess:
        return DeafProcess(nice)


async def test_a_decoder_that_reads_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and the picture that it did not take is broken."""
    monkeypatch.setattr(decoders, "_WALL_FACTOR", 0.5)
    deaf = DeafDecoders(1)
    try:
        async with asyncio.timeout(60):
            (told,) = (await deaf.inspect([("x", b"x" * (1 << 20))])).inspected
        assert told.problem == "decoding it failed badly"
    finally:
        await deaf.close()


async def test_decoders_that_cannot_start_are_no_pictures_fault() -> None:
    """No picture is called broken when the processes themselves fail."""
    with pytest.raises(Unavailable):
        await NoProcesses(1).inspect([GOOD[0]])


async def test_a_decoder_that_was_killed_between_turns_is_replaced() -> None:
    """The picture after it is not blamed."""
    decoders = Decoders(1)
    try:
        await decoders.inspect([GOOD[0]])
        for child in psutil.Process().children():
            if "services.storage.pictures.decoder" in child.cmdline() and child.cmdline()[-2] == str(os.getpid()):
                last = child
        last.send_signal(signal.SIGKILL)
        last.wait()
        assert (await decoders.inspect([GOOD[1]])).inspected[0].problem == ""
    finally:
        await decoders.close()


WAITING = """
import asyncio, psutil
from services.storage.pictures.decoders import Decoders
from tests.storage.photographs import jpeg

async def main():
    decoders = Decoders(1)
    await decoders.inspect([("x", jpeg(1))])
    await decoders.inspect([("x", jpeg(1))], patient=True)
    print(*(each.pid for each in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_decoders_end_with_a_storage_that_is_killed(tmp_path: Path) -> None:
    """No process stays behind after SIGKILL."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert len(children) == 2
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert gone
