"""What every place for finished files promises, and decoders that die."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import obstore.store
import psutil
import pytest

from loupe.errors import Unavailable
from services.storage.blobs.disk import Disk
from services.storage.blobs.files import Files, LocalFiles, ObjectFiles
from services.storage.pictures.decoders import Decoders
from services.storage.settings import StorageSettings
from tests.storage.house import open_house
from tests.storage.photographs import jpeg, sha256


class FilesContract:
    """FilesContract is run against every adapter of Files."""

    async def test_a_published_file_is_read_in_ranges(self, files: Files, tmp_path: Path) -> None:
        """Ranges come in the order asked for; the source is gone; ranges beyond the end are short."""
        source = tmp_path / "source"
        source.write_bytes(bytes(range(100)))
        await files.publish(source, "packs/p/one")
        assert not source.exists()
        found = await files.read("packs/p/one", [(90, 10), (0, 3), (95, 10), (100, 1), (5, 0)])
        assert found == [bytes(range(90, 100)), bytes(range(3)), bytes(range(95, 100)), b"", b""]

    async def test_what_is_not_there(self, files: Files) -> None:
        """Reading raises FileNotFoundError, deleting does nothing, listing is empty."""
        with pytest.raises(FileNotFoundError):
            await files.read("packs/p/none", [(0, 1)])
        await files.delete("packs/p/none")
        assert not await files.exists("packs/p/none")
        assert await files.keys("packs") == []

    async def test_published_again_and_deleted(self, files: Files, tmp_path: Path) -> None:
        """The newer file stands under the key; deleted, it is gone; keys below a folder are listed, no others."""
        for key, content in (("a/x", b"1"), ("a/x", b"2"), ("a/b/y", b"3"), ("b/z", b"4")):
            source = tmp_path / "source"
            source.write_bytes(content)
            await files.publish(source, key)
        assert await files.read("a/x", [(0, 9)]) == [b"2"]
        assert sorted(await files.keys("a")) == ["a/b/y", "a/x"]
        await files.delete("a/x")
        assert not await files.exists("a/x")
        assert await files.exists("a/b/y")


class TestLocalFiles(FilesContract):
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        return LocalFiles(tmp_path / "files", Disk())


class TestObjectFilesInMemory(FilesContract):
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        return ObjectFiles(obstore.store.MemoryStore())


class TestObjectFilesInAFolder(FilesContract):
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        return ObjectFiles(obstore.store.LocalStore(tmp_path / "objects", mkdir=True))


async def test_storage_works_over_an_object_store(storage_settings: StorageSettings, tmp_path: Path) -> None:
    """With an object store configured, sealed packs and blobs lie there, and everything is read from there."""
    (tmp_path / "objects").mkdir()
    settings = storage_settings.model_copy(update={"objects_url": f"file://{tmp_path}/objects"})
    pictures, blob = [jpeg(seed) for seed in range(120)], os.urandom(2_500_000)
    async with open_house(settings) as house:
        anna = house.client()
        await anna.upload(pictures, batch=20)
        await anna.upload_blob(blob)
        assert (await anna.download([sha256(blob)]))[sha256(blob)] == blob
    objects = {
        path.relative_to(tmp_path / "objects").parts[0] for path in (tmp_path / "objects").rglob("*") if path.is_file()
    }
    assert objects == {"packs", "blobs"}
    async with open_house(settings) as house:
        found = await house.client().download([sha256(each) for each in pictures])
    assert list(found.values()) == pictures


async def test_a_decoder_that_dies_costs_one_picture() -> None:
    """The picture on which a decoder dies is broken; the others are looked at all the same."""
    decoders = Decoders(1)
    try:
        good = [(sha256(jpeg(seed)), jpeg(seed)) for seed in range(2)]
        deadly = ("deadly", _Deadly())
        looked = {each.digest: each for each in await decoders.look([good[0], deadly, good[1]])}  # type: ignore[list-item]
        assert looked["deadly"].problem
        assert [looked[digest].problem for digest, _ in good] == ["", ""]
    finally:
        await decoders.close()


class NoProcesses(Decoders):
    """Decoders whose processes die before they do anything."""

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=os._exit, initargs=(1,))


async def test_decoders_that_cannot_start_are_no_pictures_fault() -> None:
    """No picture is called broken when the processes themselves fail."""
    with pytest.raises(Unavailable):
        await NoProcesses(1).look([(sha256(jpeg(1)), jpeg(1))])


WAITING = """
import asyncio, psutil
from services.storage.pictures.decoders import Decoders
from tests.storage.photographs import jpeg

async def main():
    decoders = Decoders(1)
    await decoders.look([("x", jpeg(1))])
    print(*(each.pid for each in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_decoders_end_with_a_storage_that_is_killed(tmp_path: Path) -> None:
    """No process stays behind after SIGKILL."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    root = Path(__file__).parents[2]
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
