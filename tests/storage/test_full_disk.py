"""Storage on a file system that is really full: the right error, reading goes on, and it recovers, also over a start.

Needs a small tmpfs, which root may mount; skipped where that cannot be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from loupe.errors import ResourceExhausted, UploadIncomplete
from loupe.storage.v1 import algorithm_service_pb2
from services.storage.settings import StorageSettings
from tests.storage.archives import packed
from tests.storage.house import Client, House, insist, open_house
from tests.storage.photographs import jpeg, sha256

PICTURES = [jpeg(seed) for seed in range(8)]
BLOB = os.urandom(300_000)


class Tmpfs:
    """A file system of 8 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not one byte."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink()


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Tmpfs]:
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount program")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Tmpfs(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


async def publish(client: Client, archive: bytes) -> None:
    announced = {"digest": sha256(archive), "size": len(archive)}

    async def messages() -> AsyncIterator[algorithm_service_pb2.PublishAlgorithmVersionRequest]:
        message = algorithm_service_pb2.PublishAlgorithmVersionRequest
        yield message(header=announced)
        yield message(chunk=archive)
        yield message(closing=announced)

    async def once() -> None:
        await client.algorithms.PublishAlgorithmVersion(messages())

    await insist(once)


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        await call
    assert caught.value.limit == "disk"


async def prepare(house: House) -> None:
    """Store something of everything."""
    anna = house.client()
    await anna.upload(PICTURES[:4])
    await anna.upload_blob(BLOB)
    await publish(anna, packed())
    await anna.make_dataset("before")


async def reading_goes_on(house: House) -> None:
    anna = house.client()
    found = await anna.download([sha256(each) for each in PICTURES[:4]])
    assert list(found.values()) == PICTURES[:4]
    assert (await anna.download([sha256(BLOB)]))[sha256(BLOB)] == BLOB
    assert await asyncio.gather(*(anna.missing(["0" * 64]) for _ in range(12))) == [["0" * 64]] * 12
    request = algorithm_service_pb2.DownloadAlgorithmVersionRequest(name="algorithms/mine/versions/1")
    assert b"".join([each.chunk async for each in anna.algorithms.DownloadAlgorithmVersion(request)]) == packed()


async def files_are_refused(house: House) -> None:
    """Packs, the staging of blobs and that of images: each is told, and nothing becomes visible."""
    anna = house.client()
    await refused(anna.upload(PICTURES[4:]))
    await refused(anna.upload_blob(BLOB + b"more"))
    await refused(publish(anna, packed(version="2", code=b"#" * 50_000)))
    assert await anna.missing([sha256(each) for each in PICTURES[4:]]) == [sha256(each) for each in PICTURES[4:]]
    assert await anna.missing([sha256(BLOB + b"more")]) == [sha256(BLOB + b"more")]


async def everything_works(house: House) -> None:
    anna = house.client()
    await anna.make_dataset("after")
    await anna.upload(PICTURES)
    await anna.upload_blob(BLOB + b"more")
    await publish(anna, packed(version="2", code=b"#" * 50_000))
    await reading_goes_on(house)


async def test_files_on_a_full_disk(storage_settings: StorageSettings, tmpfs: Tmpfs, tmp_path: Path) -> None:
    """Packs, blobs and staging are full, the database is elsewhere: rows are still written, files are not."""
    url = f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db"
    update = {"state": tmpfs.folder / "state", "reserve_bytes": 0, "database_url": url}
    async with open_house(storage_settings.model_copy(update=update)) as house:
        await prepare(house)
        tmpfs.fill()
        await files_are_refused(house)
        await reading_goes_on(house)
        await house.client().make_dataset("while-full")
        tmpfs.free()
        await everything_works(house)


async def test_a_blob_that_fills_the_disk_is_gone_on_with(storage_settings: StorageSettings, tmpfs: Tmpfs) -> None:
    """What came before the disk was full is kept, and the upload goes on there when there is room."""
    update = {"state": tmpfs.folder / "state", "reserve_bytes": 0}
    async with open_house(storage_settings.model_copy(update=update)) as house:
        anna = house.client()
        with pytest.raises(UploadIncomplete):
            await anna.upload_blob(BLOB, chunk=100_000, closed=False)
        tmpfs.fill()
        assert await anna.query(sha256(BLOB)) == (len(BLOB), False)
        tmpfs.free()
        await anna.upload_blob(BLOB, offset=len(BLOB))
        assert (await anna.download([sha256(BLOB)]))[sha256(BLOB)] == BLOB


async def test_the_database_on_a_full_disk(storage_settings: StorageSettings, tmpfs: Tmpfs) -> None:
    """The database alone is full: nothing is acknowledged, everything is read."""
    update = {"database_url": f"sqlite+aiosqlite:///{tmpfs.folder}/storage.db"}
    async with open_house(storage_settings.model_copy(update=update)) as house:
        await prepare(house)
        tmpfs.fill()
        anna = house.client()
        for number in range(20):  # a few rows may still fit into pages that are there
            with contextlib.suppress(ResourceExhausted):
                await anna.make_dataset(f"full-{number}")
        await refused(anna.make_dataset("full"))
        await refused(anna.upload(PICTURES[4:]))
        await refused(anna.upload_blob(BLOB + b"more"))
        await reading_goes_on(house)
        tmpfs.free()
        await everything_works(house)


async def test_everything_on_a_full_disk_and_a_start_while_it_is(
    storage_settings: StorageSettings, tmpfs: Tmpfs
) -> None:
    """A storage that is started on a full disk reads, refuses, and recovers without another start."""
    settings = storage_settings.model_copy(update={"state": tmpfs.folder / "state", "reserve_bytes": 0})
    async with open_house(settings) as house:
        await prepare(house)
        tmpfs.fill()
        await files_are_refused(house)
        await reading_goes_on(house)
    tmpfs.fill()
    async with open_house(settings) as house:
        await files_are_refused(house)
        await reading_goes_on(house)
        tmpfs.free()
        await everything_works(house)
