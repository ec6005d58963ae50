"""What is left behind is removed, whatever it is, and the trainer starts all the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.attempts.events import Failed, Finished
from services.trainer.sandbox import leftovers, process
from services.trainer.sandbox.code_folder import make_code_folder
from services.trainer.sandbox.leftovers import FreshFolders, remove
from services.trainer.sandbox.slots import Slots
from services.trainer.sandbox.warm import SlotPlan
from tests.trainer.fakes import LIMITS, eventually, make_rig

pytestmark = pytest.mark.attack

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes these")
DEEP = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(1500):
    os.mkdir("d" * 20)
    os.chdir("d" * 20)
"""


def deep(folder: Path) -> None:
    """Make 1,500 nested folders: deeper than Python's stack, and longer than any path."""
    subprocess.run([sys.executable, "-c", DEEP, str(folder)], check=True)


def unreadable_names(folder: Path) -> None:
    for name in (b"\xff\xfe", b"-rf", b"a\nb", b"\x1b[2J", "零".encode() * 80):
        made = folder / os.fsdecode(name)
        made.mkdir()
        (made / os.fsdecode(b"\xff")).touch()


def closed(folder: Path) -> None:
    (folder / "closed" / "deeper").mkdir(parents=True)
    (folder / "closed").chmod(0)


def immutable(folder: Path) -> None:
    (folder / "file").touch()
    if subprocess.run(["chattr", "+i", str(folder / "file")], check=False, capture_output=True).returncode:
        pytest.skip("this file system knows no immutable files")


def mounted(folder: Path) -> None:
    (folder / "a point").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "x", str(folder / "a point")], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    (folder / "a point" / "x").touch()


def links(folder: Path) -> None:
    (folder / "out").symlink_to("/")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "left"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", "-l", str(folder / "a point")], check=False, capture_output=True)
    subprocess.run(["chattr", "-R", "-i", str(folder)], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.mark.parametrize(
    "make",
    [deep, unreadable_names, closed, links, pytest.param(immutable, marks=ROOT), pytest.param(mounted, marks=ROOT)],
)
def test_whatever_is_there_is_removed(left: Path, make) -> None:
    make(left)
    assert remove(left)
    assert not left.exists() and Path("/etc").exists()


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert remove(tmp_path / "nothing")


async def test_a_trainer_starts_beside_what_cannot_be_removed(plain, tmp_path, monkeypatch) -> None:
    """Its own folders have names that nothing left behind can have."""
    monkeypatch.setattr(leftovers, "_run", lambda program, *arguments: None)
    monkeypatch.setattr(process, "remove", lambda folder: False)
    for _ in range(2):
        slots = Slots(
            plain, tmp_path / "slots", SlotPlan(limits=LIMITS, runner="bare_runner:run_image"), time.monotonic
        )
        slots.start()
        await eventually(lambda slots=slots: slots.counts.warm == 1)
        await slots.close()
    assert len(list((tmp_path / "slots").iterdir())) == 2


async def test_the_next_start_removes_what_is_left_while_the_loop_goes_on(plain, tmp_path, monkeypatch) -> None:
    """A deep tree below the slots neither ends the next start nor holds it up; its removal is on another thread."""
    folder = tmp_path / "slots" / "0-1" / "work"
    folder.mkdir(parents=True)
    deep(folder)
    threads: list[threading.Thread] = []
    original = remove

    def watched(path: Path) -> bool:
        threads.append(threading.current_thread())
        return original(path)

    monkeypatch.setattr(leftovers, "remove", watched)
    slots = Slots(plain, tmp_path / "slots", SlotPlan(warm=0), time.monotonic)
    assert folder.exists()
    slots.start()
    await eventually(lambda: list((tmp_path / "slots").iterdir()) == [])
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
    await slots.close()


async def test_only_what_earlier_runs_left_is_removed(tmp_path) -> None:
    fresh = FreshFolders(tmp_path)
    mine = fresh.name("0")
    mine.mkdir()
    (tmp_path / "0-1").mkdir()
    (tmp_path / "file").touch()
    await fresh.clear()
    assert list(tmp_path.iterdir()) == [mine]
    assert fresh.name("0") != fresh.name("0")


async def test_a_run_that_leaves_a_deep_tree_leaves_nothing(sandbox, tmp_path) -> None:
    """In every folder that it can write to; and the next job of the slot runs."""
    code = """
    import os
    from loupe.algorithm.host import Outcome, Result
    def train(host):
        for place in (host.work, "/tmp/here", "/dev/shm/here"):
            if str(host.work).startswith("/job") or place == host.work:
                os.makedirs(place, exist_ok=True)
                os.chdir(place)
                for _ in range(1200):
                    os.mkdir("d")
                    os.chdir("d")
        os._exit(0)
    """
    limits = type(LIMITS)(memory=1 << 30, processes=64, work=96 << 20, work_files=20_000, file=64 << 20)
    async with make_rig(sandbox, tmp_path, limits=limits) as rig:
        assert isinstance((await rig.run(code))[-1].what, Failed)
        assert list((tmp_path / "slots").iterdir()) == []
        done = """
        from loupe.algorithm.host import Outcome, Result
        def train(host):
            host.finish(Result(Outcome.PLATEAU, {}, {}))
        """
        assert isinstance((await rig.run(done, attempt=2))[-1].what, Finished)


def test_the_code_folder_is_made_anew_over_anything(tmp_path) -> None:
    (tmp_path / "code").mkdir()
    deep(tmp_path / "code")
    assert (make_code_folder(tmp_path / "code") / "decoder.py").exists()
    shutil.rmtree(tmp_path / "code")


async def test_removal_holds_nobody_up(plain, tmp_path, monkeypatch) -> None:
    """While the folder of a run is removed, the loop goes on."""

    def slow(folder: Path) -> bool:
        time.sleep(0.5)
        return remove(folder)

    monkeypatch.setattr(process, "remove", slow)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async with make_rig(plain, tmp_path) as rig:
        sandbox = await rig.slots._take()
        counting = asyncio.create_task(count())
        await sandbox.close()
        counting.cancel()
        rig.slots._free.add(sandbox.slot)
    assert turns > 10
