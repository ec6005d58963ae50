"""Decoders that die."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from loupe.errors import Unavailable
from services.storage.pictures.decoders import Decoders
from tests.storage.photographs import jpeg, sha256


async def test_a_decoder_that_dies_costs_one_picture() -> None:
    """The picture on which a decoder dies is broken; the others are decoded all the same."""
    decoders = Decoders(1)
    try:
        good = [(sha256(jpeg(seed)), jpeg(seed)) for seed in range(2)]
        deadly = ("deadly", _Deadly())
        inspected = {each.digest: each for each in await decoders.inspect([good[0], deadly, good[1]])}  # type: ignore[list-item]
        assert inspected["deadly"].problem
        assert [inspected[digest].problem for digest, _ in good] == ["", ""]
    finally:
        await decoders.close()


class NoProcesses(Decoders):
    """Decoders whose processes die before they do anything."""

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=os._exit, initargs=(1,))


async def test_decoders_that_cannot_start_are_no_pictures_fault() -> None:
    """No picture is called broken when the processes themselves fail."""
    with pytest.raises(Unavailable):
        await NoProcesses(1).inspect([(sha256(jpeg(1)), jpeg(1))])


WAITING = """
import asyncio, psutil
from services.storage.pictures.decoders import Decoders
from tests.storage.photographs import jpeg

async def main():
    decoders = Decoders(1)
    await decoders.inspect([("x", jpeg(1))])
    print(*(each.pid for each in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_decoders_end_with_a_storage_that_is_killed(tmp_path: Path) -> None:
    """No process stays behind after SIGKILL."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert children
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert gone


class _Deadly:
    """Unpickling it ends the process."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)
