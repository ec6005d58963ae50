"""What every place for finished files promises."""

from __future__ import annotations

import os
from pathlib import Path

import obstore.store
import pytest

from services.storage.files.disk import Disk
from services.storage.files.files import Files, LocalFiles, ObjectFiles
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
