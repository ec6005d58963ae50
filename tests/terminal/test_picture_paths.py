"""Which pictures are meant: files, folders, patterns, lists, and what arrives in a folder when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loupe import errors
from loupe.terminal.picture_paths import FolderWatch, expand, listed
from tests.terminal.conftest import picture_bytes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b/2.PNG", "b/deep/3.jpg", "a/1.tiff", "a/notes.txt", ".hidden/4.png", "a/.5.png", "x[1].png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    return root


def names(found: Sequence[Path], root: Path) -> list[str]:
    return [one.relative_to(root).as_posix() for one in found]


def test_a_folder_is_all_pictures_below_it_without_what_is_hidden(tree: Path) -> None:
    assert names(expand([tree]).pictures, tree) == ["a/1.tiff", "b/2.PNG", "b/deep/3.jpg", "x[1].png"]


def test_a_file_is_taken_whatever_it_is_called_and_if_it_does_not_exist(tree: Path) -> None:
    found = expand([tree / "a/notes.txt", tree / "nowhere.png", tree / "x[1].png"])
    assert names(found.pictures, tree) == ["a/notes.txt", "nowhere.png", "x[1].png"] and not found.empty


def test_a_pattern_is_what_fits_it_folders_too(tree: Path) -> None:
    assert names(expand([tree / "**/*.jpg"]).pictures, tree) == ["b/deep/3.jpg"]
    assert names(expand([tree / "[ab]"]).pictures, tree) == ["a/1.tiff", "b/2.PNG", "b/deep/3.jpg"]


def test_what_means_no_picture_is_said(tree: Path) -> None:
    found = expand([tree / "empty", tree / "*.webp", tree / "b/2.PNG"])
    assert names(found.pictures, tree) == ["b/2.PNG"]
    assert found.empty == [
        f"the folder {tree / 'empty'} has no pictures",
        f"the pattern {tree / '*.webp'} fits no pictures",
    ]


async def batches(source: Any) -> list[list[bytes]]:
    return [[os.fsencode(path) for path in batch] async for batch in listed(source)]


async def test_a_list_has_a_path_a_line_or_paths_that_end_with_nul() -> None:
    assert await batches(io.BytesIO(b"a.png\r\n\nb \xff.png\nlast.png")) == [[b"a.png", b"b \xff.png", b"last.png"]]
    assert await batches(io.BytesIO(b"one\nname.png\0two.png\0")) == [[b"one\nname.png", b"two.png"]]
    assert await batches(io.BytesIO(b"")) == []
    many = b"".join(b"%d.png\n" % index for index in range(100))
    assert [len(batch) for batch in await batches(io.BytesIO(many))] == [32, 32, 32, 4]


async def test_a_list_is_taken_as_it_comes() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        paths = listed(source)
        os.write(writer, b"first.png\nsec")
        assert await asyncio.wait_for(anext(paths), 5) == [Path("first.png")]
        os.write(writer, b"ond.png\n")
        assert await asyncio.wait_for(anext(paths), 5) == [Path("second.png")]
        os.close(writer)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(paths), 5)


class Clock:
    """A clock that only sleeping moves; what is to happen during a sleep is put into `script`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.script: list[Any] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.script:
            self.script.pop(0)()
        await asyncio.sleep(0)


async def arrivals(folder: Path, clock: Clock, seconds: float) -> list[tuple[float, str]]:
    """Watch a folder until the clock says so, and return what came when."""
    watch = FolderWatch(folder, clock=clock, sleep=clock.sleep)
    found: list[tuple[float, str]] = []

    async def follow() -> None:
        async for batch in watch.arrivals():
            found.extend((clock.now, path.relative_to(folder).as_posix()) for path in batch)

    task = asyncio.create_task(follow())
    while clock.now < seconds and not task.done():
        await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return found


async def test_what_was_there_is_not_new_and_what_comes_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(picture_bytes(0))
    clock = Clock()
    clock.script = [lambda: (tmp_path / "new.png").write_bytes(picture_bytes(1))]
    ((at, name),) = await arrivals(tmp_path, clock, 30)
    assert name == "new.png" and 0.5 <= at <= 1.5


async def test_a_picture_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    data, target, clock = picture_bytes(1, size=64), tmp_path / "slow.png", Clock()
    third = len(data) // 3
    pause = [lambda: None] * 8  # two seconds in which nothing is written: longer than a file must be quiet
    clock.script = [
        lambda: target.write_bytes(data[:third]), *pause,
        lambda: target.write_bytes(data[: 2 * third]), *pause,
        lambda: target.write_bytes(data),
    ]  # fmt: skip
    ((at, name),) = await arrivals(tmp_path, clock, 30)
    assert name == "slow.png" and 4.5 < at < 6


async def test_one_that_stays_broken_is_given_up_and_told(tmp_path: Path) -> None:
    clock = Clock()
    clock.script = [lambda: (tmp_path / "cut.png").write_bytes(picture_bytes(1)[:100])]
    ((at, name),) = await arrivals(tmp_path, clock, 60)
    assert name == "cut.png" and 10 <= at <= 12


async def test_a_picture_that_is_written_over_comes_again_and_one_that_is_taken_away_does_not(tmp_path: Path) -> None:
    clock, same = Clock(), tmp_path / "camera.png"
    same.write_bytes(picture_bytes(0))

    def replace() -> None:
        (tmp_path / ".camera.tmp").write_bytes(picture_bytes(1))
        (tmp_path / ".camera.tmp").replace(same)
        (tmp_path / "gone.png").write_bytes(picture_bytes(2))

    clock.script = [replace, (tmp_path / "gone.png").unlink]
    assert [name for _, name in await arrivals(tmp_path, clock, 20)] == ["camera.png"]


async def test_new_folders_are_watched_and_a_folder_that_goes_is_told(tmp_path: Path) -> None:
    folder, clock = tmp_path / "in", Clock()
    folder.mkdir()

    def deeper() -> None:
        (folder / "shift-2").mkdir()
        (folder / "shift-2" / "1.png").write_bytes(picture_bytes(1))

    clock.script = [deeper]
    assert [name for _, name in await arrivals(folder, clock, 10)] == ["shift-2/1.png"]
    clock.script = [lambda: folder.rename(tmp_path / "elsewhere")]
    with pytest.raises(errors.InvalidArgument, match="is gone"):
        await arrivals(folder, clock, clock.now + 10)
    with pytest.raises(errors.InvalidArgument, match="a folder that exists"):
        FolderWatch(tmp_path / "nowhere")


async def test_a_real_writer_in_another_thread_is_never_read_half(tmp_path: Path) -> None:
    datas = [picture_bytes(index, size=48) for index in range(6)]

    def write() -> None:
        for index, data in enumerate(datas):
            with (tmp_path / f"{index}.png").open("wb") as file:
                for start in range(0, len(data), 2000):
                    file.write(data[start : start + 2000])
                    file.flush()
                    threading.Event().wait(0.02)

    watch, found = FolderWatch(tmp_path, settled_seconds=0.2), dict[str, bytes]()
    writer = threading.Thread(target=write)
    writer.start()
    async with asyncio.timeout(20):
        async for batch in watch.arrivals():
            for path in batch:
                assert path.name not in found
                found[path.name] = path.read_bytes()
            if len(found) == len(datas):
                break
    writer.join()
    assert [found[f"{index}.png"] for index in range(6)] == datas
