"""What streams hold in memory is bounded, whoever opens how many; and no stream waits for ever for another."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from loupe.errors import LoupeError, ResourceExhausted, Unavailable
from loupe.limits import MAX_MESSAGE_BYTES
from loupe.storage.v1 import blob_service_pb2
from services.storage.settings import StorageSettings
from tests.storage.apart import storage_apart
from tests.storage.house import LINE, OTHER, Client, House, open_channel, open_house, picture_stream
from tests.storage.photographs import encode, jpeg, photograph, sha256

JUNK = b"\0" * (39 << 20)


async def flood(
    settings: StorageSettings, streams: int, call: Callable[[Client], Coroutine[object, object, None]]
) -> None:
    """Make a call over so many connections at once; how it ends does not matter."""

    async def one() -> None:
        async with open_channel(settings, "anna") as channel:
            with contextlib.suppress(LoupeError):
                await call(Client(channel))

    await asyncio.gather(*(one() for _ in range(streams)))


@pytest.mark.attack
async def test_uploads_are_read_only_when_there_is_room(storage_settings: StorageSettings) -> None:
    """Eight streams of messages of 39 MiB: half of `upload_bytes`, and a few copies of one message."""

    async def upload(client: Client) -> None:
        async def messages() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
            yield blob_service_pb2.UploadPicturesRequest(header={"parent": LINE})
            for _ in range(2):
                picture = {"digest": sha256(JUNK), "data": JUNK}
                yield blob_service_pb2.UploadPicturesRequest(batch={"pictures": [picture]})

        async for _ in client.blobs.UploadPictures(messages()):
            pass

    settings = storage_settings.model_copy(update={"upload_bytes": 4 * MAX_MESSAGE_BYTES})
    async with storage_apart(settings) as (anna, memory):
        await anna.make_project(LINE)
        before = memory.now()
        memory.forget_peak()
        await flood(settings, 8, upload)
        assert memory.peak() - before < settings.upload_bytes // 2 + 16 * MAX_MESSAGE_BYTES


@pytest.mark.attack
async def test_the_first_message_of_a_call_is_read_only_when_there_is_room(storage_settings: StorageSettings) -> None:
    """Before anything is known of a call but who makes it: long headers, and long requests of calls of one message."""

    async def header(client: Client) -> None:
        async def messages() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
            picture = {"digest": sha256(JUNK), "data": JUNK}
            yield blob_service_pb2.UploadPicturesRequest(batch={"pictures": [picture]})

        async for _ in client.blobs.UploadPictures(messages()):
            pass

    async def request(client: Client) -> None:
        await client.blobs.FindMissingBlobs(blob_service_pb2.FindMissingBlobsRequest(digests=["x" * len(JUNK)]))

    async with storage_apart(storage_settings) as (anna, memory):
        await anna.make_project(LINE)
        for call in (header, request):
            before = memory.now()
            memory.forget_peak()
            await flood(storage_settings, 8, call)
            assert memory.peak() - before < 11 * MAX_MESSAGE_BYTES


async def test_a_header_is_short(anna: Client) -> None:
    """It is kept for as long as the stream goes on."""

    async def messages() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(header={"parent": LINE + "x" * 100_000})

    with pytest.raises(ResourceExhausted):
        await anna.stream(messages)


@pytest.fixture
async def narrow(storage_settings: StorageSettings) -> AsyncIterator[House]:
    """A storage in whose memory there is room for two messages of uploads, one of each project."""
    update = {"upload_bytes": 2 * MAX_MESSAGE_BYTES, "download_bytes": 8 << 20, "stalled_seconds": 1.0}
    async with open_house(storage_settings.model_copy(update=update)) as house:
        yield house


async def test_many_uploads_share_little_memory(narrow: House) -> None:
    """With room for one message each, streams of two projects take turns, and all come to their end."""
    async with asyncio.timeout(60):
        for account, project in (("anna", LINE), ("eve", OTHER)):
            clients = [narrow.client(account) for _ in range(6)]
            sets = [[jpeg(100 * number + seed) for seed in range(12)] for number in range(6)]
            uploads = (client.upload(each, project, 3) for client, each in zip(clients, sets, strict=True))
            answers = await asyncio.gather(*uploads)
            assert [each[-1].stored_count for each in answers] == [12] * 6


async def test_a_stalled_upload_holds_up_nobody(narrow: House) -> None:
    """It is cut when somebody else needs its room, and what it had sent is there."""
    anna, other = narrow.client("anna"), narrow.client("anna")
    pictures = [jpeg(seed) for seed in range(6)]
    silent = asyncio.Event()

    async def stalling() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        async for message in picture_stream(pictures[:3], closed=False):
            yield message
        silent.set()
        await asyncio.Event().wait()

    async def stall() -> None:
        async for _ in anna.blobs.UploadPictures(stalling()):
            pass

    stalled = asyncio.create_task(stall())
    await silent.wait()
    async with asyncio.timeout(20):
        await other.upload(pictures[3:])
        with pytest.raises(Unavailable):
            await stalled
    assert await other.missing([sha256(each) for each in pictures]) == []


async def test_one_projects_stalled_uploads_do_not_touch_another(narrow: House) -> None:
    """Another project has its own share at once."""
    silent = asyncio.Event()

    async def stalling() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(header={"parent": LINE})
        silent.set()
        await asyncio.Event().wait()

    async def stall() -> None:
        async for _ in narrow.client("anna").blobs.UploadPictures(stalling()):
            pass

    stalled = [asyncio.create_task(stall()) for _ in range(3)]
    await silent.wait()
    async with asyncio.timeout(0.9):  # less than it takes to call a stream stalled
        await narrow.client("eve").upload([jpeg(1)], OTHER)
    for each in stalled:
        each.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)


async def test_many_downloads_share_little_memory(narrow: House) -> None:
    """More readers than there is room for, of pictures larger than their share, all get everything."""
    pictures = [encode(photograph(seed, 1_300), "BMP") for seed in range(3)] + [jpeg(seed) for seed in range(3)]
    await narrow.client().upload(pictures, batch=1)
    digests = [sha256(each) for each in pictures]
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(narrow.client().download(digests) for _ in range(8)))
    assert all(list(each.values()) == pictures for each in found)


async def test_a_reader_that_takes_nothing_holds_up_nobody(narrow: House) -> None:
    """It is cut when somebody else needs its room, and told that it may go on where it stopped."""
    blob = random.Random(1).randbytes(40 << 20)
    await narrow.client().upload_blob(blob, chunk=4 << 20)
    request = blob_service_pb2.DownloadBlobsRequest(parent=LINE, digests=[sha256(blob)])
    stalled = [aiter(narrow.client().blobs.DownloadBlobs(request)) for _ in range(3)]
    async with asyncio.timeout(40):
        for each in stalled:
            await anext(each)  # and nothing more
        assert (await narrow.client().download([sha256(blob)]))[sha256(blob)] == blob
        for each in stalled:
            with pytest.raises(Unavailable):
                async for _ in each:
                    pass
