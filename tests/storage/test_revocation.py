"""A right that goes while a stream is under way: nothing of the stream is committed after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest

from loupe.errors import NotFound, PermissionDenied, Unavailable
from loupe.names import SYSTEM
from loupe.storage.v1 import algorithm_service_pb2, blob_service_pb2, dataset_pb2, dataset_service_pb2
from services.storage.blobs.store import BlobTable
from services.storage.pictures.store import PictureTable
from tests.storage.archives import packed
from tests.storage.house import LINE, Client, House, blob_stream, picture_stream, version_stream
from tests.storage.photographs import jpeg, sha256

SPLITS = (dataset_pb2.SPLIT_TRAIN, dataset_pb2.SPLIT_VALIDATION)

M = TypeVar("M")
BLOB = b"x" * 300_000


def revoke(house: House, project: str = "line-7") -> None:
    """Take anna out of the project, or out of the mesh's staff, and let the service know."""
    del house.auth.levels["anna", project]
    changed, house.auth._changed = house.auth._changed, asyncio.Event()
    changed.set()


async def until_revoked(
    messages: AsyncIterator[M], count: int, house: House, revoked: Callable[[], None]
) -> AsyncIterator[M]:
    """The messages; after so many of them have come, the right goes, and the rest follow at once."""
    asked = house.auth.asked
    sent = 0
    async for message in messages:
        yield message
        sent += 1
        if sent == count:
            await house.asked(asked)
            revoked()


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_a_blob_is_not_committed_after_the_right_is_gone(house: House, anna: Client, count: int) -> None:
    """After its header, in its middle, before its closing."""
    messages = blob_stream(BLOB, LINE, chunk=100_000)
    with pytest.raises(NotFound):
        await anna.blobs.UploadBlob(until_revoked(messages, count, house, lambda: revoke(house)))
    async with house.storage.database.read() as session:
        assert not await BlobTable(session).known("line-7", [sha256(BLOB)])


@pytest.mark.parametrize("count", [1, 2])
async def test_no_version_is_made_after_the_right_is_gone(house: House, anna: Client, count: int) -> None:
    """After its header, and before its closing."""
    pictures = [jpeg(seed) for seed in range(20)]
    await anna.upload(pictures)
    dataset = await anna.make_dataset("late")
    items = [
        dataset_pb2.DatasetItem(
            digest=sha256(each), label="ab"[number % 2], split=("SPLIT_TRAIN", "SPLIT_VALIDATION")[number // 2 % 2]
        )
        for number, each in enumerate(pictures)
    ]
    messages = version_stream(dataset, items)
    with pytest.raises(NotFound):
        await anna.datasets.CreateDatasetVersion(until_revoked(messages, count, house, lambda: revoke(house)))
    house.auth.levels["anna", "line-7"] = 40
    request = dataset_service_pb2.ListDatasetVersionsRequest(parent=dataset)
    assert not (await anna.datasets.ListDatasetVersions(request)).dataset_versions


async def test_no_picture_is_stored_after_the_right_is_gone(house: House, anna: Client) -> None:
    """What was answered before stays; what comes after it does not."""
    pictures = [jpeg(seed) for seed in range(4)]
    answered = asyncio.Event()

    async def messages() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        sent = 0
        async for message in picture_stream(pictures, LINE, 2):
            yield message
            sent += 1
            if sent == 2:
                await answered.wait()
                revoke(house)

    # gRPC can lose the refusal of a call that is still sending, and says that the stream was cut.
    with pytest.raises((NotFound, Unavailable)):
        async for _ in anna.blobs.UploadPictures(messages()):
            answered.set()
    async with house.storage.database.read() as session:
        known = await PictureTable(session).known("line-7", [sha256(each) for each in pictures])
    assert known == {sha256(each) for each in pictures[:2]}


@pytest.mark.parametrize("count", [1, 2])
async def test_no_image_joins_the_library_after_the_right_is_gone(house: House, anna: Client, count: int) -> None:
    """The library is guarded by a right of the whole mesh, which goes the same way."""
    archive = packed()
    announced = {"digest": sha256(archive), "size": len(archive)}

    async def messages() -> AsyncIterator[algorithm_service_pb2.PublishAlgorithmVersionRequest]:
        message = algorithm_service_pb2.PublishAlgorithmVersionRequest
        yield message(header=announced)
        yield message(chunk=archive)
        yield message(closing=announced)

    with pytest.raises(PermissionDenied):
        await anna.algorithms.PublishAlgorithmVersion(
            until_revoked(messages(), count, house, lambda: revoke(house, SYSTEM))
        )
    request = algorithm_service_pb2.ListAlgorithmVersionsRequest()
    assert not (await house.client("eve").algorithms.ListAlgorithmVersions(request)).algorithm_versions
