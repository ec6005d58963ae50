"""Large blobs: resumed at any byte, visible only when right, refused to stale attempts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from loupe.errors import (
    BlobMissing,
    DataLoss,
    DigestMismatch,
    InvalidArgument,
    LoupeError,
    NotFound,
    ResourceExhausted,
    SizeMismatch,
    StaleAttempt,
    Unavailable,
    UploadIncomplete,
)
from loupe.storage.v1 import blob_service_pb2, model_service_pb2
from services.storage.files.disk import Disk
from services.storage.settings import StorageSettings
from tests.cutting_proxy import CuttingProxy
from tests.storage.house import LINE, OTHER, Client, House, blob_stream, open_house
from tests.storage.photographs import jpeg, sha256

BLOB = random.Random(1).randbytes(3_300_000)
DIGEST = sha256(BLOB)
JOB = f"{LINE}/jobs/j1"


async def test_a_blob_comes_back_whole_and_from_any_offset(anna: Client) -> None:
    """What was uploaded is complete and read from the start, from the middle of a piece, and from the end."""
    await anna.upload_blob(BLOB)
    assert await anna.query(DIGEST) == (len(BLOB), True)
    assert await anna.missing([DIGEST]) == []
    for offset in (0, 1, 1 << 20, (1 << 20) + 17, len(BLOB) - 1, len(BLOB)):
        assert (await anna.download([DIGEST], offset=offset))[DIGEST] == BLOB[offset:]
    with pytest.raises(InvalidArgument):
        await anna.download([DIGEST], offset=len(BLOB) + 1)
    await anna.upload_blob(b"")
    assert await anna.download([sha256(b"")]) == {sha256(b""): b""}


async def test_an_upload_cut_at_each_chunk_is_resumed_where_it_stopped(anna: Client) -> None:
    """The partial is invisible, and the digest is right in the end."""
    chunk = 400_000
    offset = 0
    while offset < len(BLOB) - chunk:
        with pytest.raises(UploadIncomplete) as caught:
            await anna.stream_blob(partial(cut, offset, chunk))
        offset, complete = await anna.query(DIGEST)
        assert caught.value.metadata["committed"] == str(offset)
        assert not complete
        assert await anna.missing([DIGEST]) == [DIGEST]
        with pytest.raises(BlobMissing):
            await anna.download([DIGEST])
    assert offset == 8 * chunk
    await anna.upload_blob(BLOB, offset=offset)
    assert (await anna.download([DIGEST]))[DIGEST] == BLOB


async def cut(offset: int, chunk: int) -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
    """The header and one chunk."""
    count = 0
    async for message in blob_stream(BLOB, LINE, offset, chunk, closed=False):
        yield message
        count += 1
        if count == 2:
            return


async def test_a_connection_cut_at_each_chunk_boundary_is_gone_on_from(anna: Client, house: House) -> None:
    """After each header, each chunk and before the closing: what came is resumed there, and none of it is visible."""
    ends = [*range(0, len(BLOB), 400_000), len(BLOB)]
    async with house.cuttable() as (terminal, proxy):
        for before, end in zip([0, *ends], ends, strict=False):
            for offset in (before, end):
                with pytest.raises(Unavailable):
                    await terminal.blobs.UploadBlob(until_cut(anna, house, proxy, offset, end))
                assert await anna.query(DIGEST) == (end, False)
                assert await anna.missing([DIGEST]) == [DIGEST]
                with pytest.raises(BlobMissing):
                    await anna.download([DIGEST])
        await terminal.upload_blob(BLOB, offset=len(BLOB))
    assert await anna.missing([DIGEST]) == []
    assert (await anna.download([DIGEST]))[DIGEST] == BLOB


async def until_cut(
    anna: Client, house: House, proxy: CuttingProxy, offset: int, end: int
) -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
    """The header and the bytes up to `end`; when they have come, the connection is cut."""
    asked = house.auth.asked
    header = {"parent": LINE, "digest": DIGEST, "size": len(BLOB), "offset": offset}
    yield blob_service_pb2.UploadBlobRequest(header=header)
    await house.asked(asked)
    if end > offset:
        yield blob_service_pb2.UploadBlobRequest(chunk=BLOB[offset:end])
        await committed(anna, end)
    proxy.cut()
    await asyncio.Event().wait()


async def test_a_connection_torn_at_any_byte_is_gone_on_from(anna: Client, house: House) -> None:
    """Wherever in a message: nothing is visible before the end, nothing that was committed is sent again."""
    budgets = [3_000, 30_000, 90_000, 150_001, 240_000, 333_333, 700_007, 65_536, 1_000_000]
    offset, complete = 0, False
    async with house.cuttable(budgets) as (terminal, proxy), asyncio.timeout(30):
        while not complete:
            assert await anna.missing([DIGEST]) == [DIGEST]
            with contextlib.suppress(Unavailable):
                await terminal.blobs.UploadBlob(blob_stream(BLOB, LINE, offset, 50_000))
            before = offset
            offset, complete = await anna.query(DIGEST)
            assert offset >= before
        assert proxy.spent
    assert (await anna.download([DIGEST]))[DIGEST] == BLOB


async def test_a_partial_upload_survives_a_restart(storage_settings: StorageSettings) -> None:
    """What was committed before a restart is gone on with."""
    async with open_house(storage_settings) as house:
        with pytest.raises(UploadIncomplete):
            await house.client().stream_blob(partial(cut, 0, 1_000_000))
    async with open_house(storage_settings) as house:
        assert await house.client().query(DIGEST) == (1_000_000, False)
        await house.client().upload_blob(BLOB, offset=1_000_000)
        assert (await house.client().download([DIGEST]))[DIGEST] == BLOB


async def stream(data: bytes, header: dict[str, object], closing: dict[str, object]):
    yield blob_service_pb2.UploadBlobRequest(header={"parent": LINE, **header})
    yield blob_service_pb2.UploadBlobRequest(chunk=data)
    yield blob_service_pb2.UploadBlobRequest(closing=closing)


async def test_wrong_digest_or_size_is_refused(anna: Client) -> None:
    """Other bytes, too many, too few, a closing that says something else: refused, and nothing becomes visible."""
    right = {"digest": DIGEST, "size": len(BLOB)}
    other = b"x" + BLOB[1:]
    with pytest.raises(DigestMismatch):
        await anna.stream_blob(partial(stream, other, right, right))
    assert await anna.query(DIGEST) == (0, False)
    with pytest.raises(SizeMismatch):
        await anna.stream_blob(partial(stream, BLOB + b"x", right, right))
    with pytest.raises(SizeMismatch):
        await anna.stream_blob(partial(stream, BLOB[:-1], right, right))
    with pytest.raises(SizeMismatch):
        await anna.stream_blob(partial(stream, BLOB, right, {**right, "size": 1}))
    with pytest.raises(DigestMismatch):
        await anna.stream_blob(partial(stream, BLOB, right, {**right, "digest": "0" * 64}))
    with pytest.raises(InvalidArgument):
        await anna.upload_blob(jpeg(1), offset=-1)
    with pytest.raises(UploadIncomplete, match="offset is 5, but 0 bytes are stored"):
        await anna.upload_blob(jpeg(1), offset=5)
    with pytest.raises(InvalidArgument):
        await anna.stream_blob(partial(stream, BLOB, {"digest": "../../etc/passwd", "size": 3}, right))
    assert await anna.missing([DIGEST]) == [DIGEST]


async def test_a_blob_larger_than_is_taken_is_refused_before_it_is_sent(anna: Client) -> None:
    """The header alone refuses it."""
    huge = {"digest": DIGEST, "size": 1 << 50}
    with pytest.raises(ResourceExhausted):
        await anna.stream_blob(partial(stream, b"", huge, huge))


async def test_a_project_sees_its_own_blobs_only(anna: Client, eve: Client) -> None:
    """The same digest is absent in another project."""
    await anna.upload_blob(BLOB)
    assert await eve.query(DIGEST, OTHER) == (0, False)
    assert await eve.missing([DIGEST], OTHER) == [DIGEST]
    with pytest.raises(NotFound):
        await eve.query(DIGEST, LINE)


async def test_a_flipped_bit_is_noticed_before_its_piece_is_served(anna: Client, house: House) -> None:
    """The pieces before the damage come, the damaged one never does."""
    await anna.upload_blob(BLOB)
    path = house.settings.state / "files" / "blobs" / "line-7" / DIGEST
    data = bytearray(path.read_bytes())
    data[(5 << 20) // 2] ^= 1
    path.write_bytes(data)
    received = b""
    request = blob_service_pb2.DownloadBlobsRequest(parent=LINE, digests=[DIGEST])
    with pytest.raises(DataLoss):
        async for message in anna.blobs.DownloadBlobs(request):
            received += message.pieces[0].data
    assert BLOB.startswith(received)
    path.write_bytes(BLOB[:-1])
    with pytest.raises(DataLoss):
        await anna.download([DIGEST], offset=3 << 20)


async def test_a_stale_attempt_may_not_write(house: House) -> None:
    """Once a newer attempt was begun, the old one's uploads are refused, also one that was under way."""
    scheduler = house.service("scheduler")
    old, new = house.client(f"attempt {JOB} 1"), house.client(f"attempt {JOB} 2")
    await scheduler.models.RaiseFence(model_service_pb2.RaiseFenceRequest(job=JOB, attempt=1))
    raised = asyncio.Event()

    async def slow() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        async for message in blob_stream(BLOB, LINE, closed=False):
            yield message
        await raised.wait()
        yield blob_service_pb2.UploadBlobRequest(closing={"digest": DIGEST, "size": len(BLOB)})

    writing = asyncio.create_task(_await(old.blobs.UploadBlob(slow())))
    await committed(new, len(BLOB))
    answer = await scheduler.models.RaiseFence(model_service_pb2.RaiseFenceRequest(job=JOB, attempt=2))
    assert answer.attempt == 2
    raised.set()
    with pytest.raises(StaleAttempt) as caught:
        await writing
    assert caught.value.metadata == {"job": JOB, "attempt": "1", "current": "2"}
    with pytest.raises(StaleAttempt):
        await old.upload_blob(b"more")
    with pytest.raises(StaleAttempt):
        await old.query(DIGEST)
    assert await new.missing([DIGEST]) == [DIGEST]
    assert not (house.settings.state / "files" / "blobs" / "line-7" / DIGEST).exists()
    await new.upload_blob(BLOB)
    answer = await scheduler.models.RaiseFence(model_service_pb2.RaiseFenceRequest(job=JOB, attempt=1))
    assert answer.attempt == 2


async def committed(client: Client, size: int) -> None:
    """Waits until so much of the blob is durable."""
    async with asyncio.timeout(20):
        while (await client.query(DIGEST))[0] < size:
            await asyncio.sleep(0.01)


async def _await(call: object) -> object:
    return await call  # type: ignore[misc]


async def test_a_newer_upload_of_the_same_blob_takes_over(anna: Client) -> None:
    """A terminal that comes back before its old stream was noticed to be dead is not hindered by it."""
    goes_on = asyncio.Event()

    async def old() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        async for message in cut(0, 1_000_000):
            yield message
        await goes_on.wait()
        yield blob_service_pb2.UploadBlobRequest(chunk=bytes(1_000_000))
        yield blob_service_pb2.UploadBlobRequest(chunk=bytes(1_000_000))

    async def new() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        messages = [message async for message in blob_stream(BLOB, LINE, 1_000_000, 1_000_000)]
        for message in messages[:-1]:
            yield message
        await committed(anna, len(BLOB))
        goes_on.set()
        with contextlib.suppress(LoupeError):
            await writing
        yield messages[-1]

    writing = asyncio.create_task(_await(anna.blobs.UploadBlob(old())))
    await committed(anna, 1_000_000)
    await anna.blobs.UploadBlob(new())
    with pytest.raises(UploadIncomplete):
        await writing
    assert (await anna.download([DIGEST]))[DIGEST] == BLOB


async def test_equal_uploads_at_once_cut_each_other_and_nothing_worse(house: House) -> None:
    """Whoever is cut asks where to go on, and everybody ends with the whole blob."""
    clients = [house.client(f"attempt {LINE}/jobs/equal-{number} 1") for number in range(4)]

    async def upload(client: Client, data: bytes) -> None:
        async with asyncio.timeout(30):
            while True:
                offset, complete = await client.query(sha256(data))
                if complete:
                    return
                with contextlib.suppress(UploadIncomplete):
                    await client.stream_blob(partial(blob_stream, data, LINE, offset, 100_000))
                    return

    for number in range(20):
        data = random.Random(number).randbytes(450_000)
        await asyncio.gather(*(upload(client, data) for client in clients))
        assert (await clients[0].download([sha256(data)]))[sha256(data)] == data


async def test_an_attempt_works_in_its_own_project_only(house: House) -> None:
    """An attempt's token opens nothing elsewhere."""
    attempt = house.client(f"attempt {JOB} 1")
    with pytest.raises(NotFound):
        await attempt.upload_blob(BLOB, OTHER)


class FullDisk(Disk):
    """A disk that is full once it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def write(self, descriptor: int, data: bytes, position: int) -> None:
        """write puts half of the data there, then finds no room."""
        if self.full:
            super().write(descriptor, data[: len(data) // 2], position)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data, position)


async def test_a_full_disk_refuses_writing_and_goes_on_reading(storage_settings: StorageSettings) -> None:
    """Uploads are ResourceExhausted, nothing is half-done, reading goes on, and all is well with room again."""
    disk = FullDisk()
    pictures = [jpeg(seed) for seed in range(6)]
    async with open_house(storage_settings, disk) as house:
        anna = house.client()
        await anna.upload(pictures[:3])
        disk.full = True
        (pack,) = (storage_settings.state / "open").iterdir()
        length = pack.stat().st_size
        with pytest.raises(ResourceExhausted):
            await anna.upload(pictures)
        with pytest.raises(ResourceExhausted):
            await anna.upload_blob(BLOB)
        assert pack.stat().st_size == length
        assert len(await anna.download([sha256(each) for each in pictures[:3]])) == 3
        disk.full = False
        await anna.upload(pictures)
        await anna.upload_blob(BLOB)
        assert len(await anna.download([sha256(each) for each in pictures])) == 6


def test_space_is_left_for_the_database(tmp_path: Path) -> None:
    """What would eat into the reserve is refused before it is written."""
    with pytest.raises(ResourceExhausted):
        Disk(reserve=1 << 60).require_space(tmp_path, 1)


async def test_finished_files_without_a_row_go_at_the_next_start(storage_settings: StorageSettings) -> None:
    """A crash between rename and commit leaves a file that nobody knows; it is removed."""
    folder = storage_settings.state / "files" / "blobs" / "line-7"
    async with open_house(storage_settings) as house:
        await house.client().upload_blob(BLOB)
    (folder / ("a" * 64)).write_bytes(b"orphan")
    async with open_house(storage_settings):
        assert [path.name for path in folder.iterdir()] == [DIGEST]
