"""The trainer's way to storage: what is cut goes on, what is away is waited for, and nothing false is believed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest

from loupe.algorithm.host import Split
from loupe.errors import DataLoss, LoupeError, StaleAttempt, Unavailable, UploadIncomplete
from loupe.rpc.channel import internal_channel
from loupe.storage.v1 import dataset_pb2, dataset_service_pb2, model_service_pb2
from services.trainer.clients.storage import LocalFile
from services.trainer.clients.storage_grpc import GrpcStorage, read_items
from tests.trainer.fakes import JOB
from tests.trainer.storage_door import DATASET, TOKEN, Storage, attempt_spec


@pytest.fixture
async def channel(service_settings, storage: Storage) -> AsyncIterator[grpc.aio.Channel]:
    """The trainer's way to storage."""
    channel = internal_channel(service_settings("trainer-north-a"), storage.address, service="storage")
    yield channel
    await channel.close()


@pytest.fixture
def client(channel, storage: Storage, tmp_path):
    async def get() -> grpc.aio.Channel:
        return channel

    attempt_spec(storage, tmp_path)
    return GrpcStorage(get, timeout=1.0).of(JOB, 1, lambda: TOKEN)


LABELS = [dataset_pb2.LabelCount(label=label) for label in ("dent", "part")]
BOX = dataset_pb2.Annotation(label="dent", box=dataset_pb2.Box(x_min=0.25, y_min=0.5, x_max=0.5, y_max=1.0))
POLYGON = dataset_pb2.Annotation(
    label="dent", polygon=dataset_pb2.Polygon(coordinates=[0.5, 0.0, 1.0, 0.25, 0.75, 0.75])
)


def items(*rows: dict) -> tuple[dataset_pb2.DatasetVersion, AsyncIterator]:
    """Return a version and the stream of its items."""
    version = dataset_pb2.DatasetVersion(name=DATASET, labels=LABELS, picture_count=len(rows))

    async def stream() -> AsyncIterator[dataset_service_pb2.ReadDatasetItemsResponse]:
        for number, row in enumerate(rows):
            item = dataset_pb2.DatasetItem(digest=f"{number:064}", **row)
            yield dataset_service_pb2.ReadDatasetItemsResponse(items=[item])

    return version, stream()


async def test_items_are_read_with_classes_annotations_and_sizes() -> None:
    """Unlabelled pictures are in no split; a polygon counts as the box around it; "nothing there" is looked at."""
    data = await read_items(
        *items(
            {"label": "part", "split": 1, "width": 40, "height": 20},
            {"split": 2, "annotations": [BOX, POLYGON], "width": 40, "height": 20},
            {"split": 3, "nothing_there": True},
            {},
            {"label": "part", "split": 1, "annotations": [BOX]},
        )
    )
    assert list(data.labels) == ["dent", "part"]
    assert data.classes.tolist() == [1, -1, -1, -1, 1]
    assert data.splits.tolist() == [Split.TRAIN, Split.VALIDATION, Split.TEST, Split.UNLABELLED, Split.TRAIN]
    assert data.looked_at.tolist() == [False, True, True, False, True]
    assert data.sizes.tolist() == [[40, 20], [40, 20], [0, 0], [0, 0], [0, 0]]
    assert (data.regions.pictures.tolist(), data.regions.classes.tolist()) == ([1, 1, 4], [0, 0, 0])
    assert data.regions.boxes.tolist() == [[0.25, 0.5, 0.5, 1.0], [0.5, 0.0, 1.0, 0.75], [0.25, 0.5, 0.5, 1.0]]


@pytest.mark.parametrize(
    "row",
    [
        {"label": "hole", "split": 1},
        {"label": "part"},
        {"nothing_there": True},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="hole", box=BOX.box)]},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="dent")]},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="dent", box=dataset_pb2.Box(x_max=2, y_max=1))]},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="dent", polygon=dataset_pb2.Polygon())]},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="dent", polygon={"coordinates": [0.5]})]},
        {"split": 1, "annotations": [dataset_pb2.Annotation(label="dent", box={"x_max": float("nan"), "y_max": 1})]},
    ],
)
async def test_an_item_that_cannot_be_of_its_version_is_refused(row: dict) -> None:
    with pytest.raises(DataLoss, match="does not belong to it"):
        await read_items(*items(row))


def collected(folder, name: str, data: bytes) -> LocalFile:
    path = folder / name
    path.write_bytes(data)
    return LocalFile(name, path, hashlib.sha256(data).hexdigest(), len(data))


async def test_storage_is_asked_again_while_it_is_away(client, storage: Storage) -> None:
    """A restart of storage is no failure of a job; but it is not waited for without end."""
    storage.away = 3
    assert len((await client.dataset(DATASET)).digests) == 6
    storage.away = 10_000
    with pytest.raises(Unavailable):
        await client.dataset(DATASET)


async def test_a_download_that_was_cut_goes_on(client, storage: Storage) -> None:
    """After a cut, only the rest is asked for, and nothing comes twice."""
    digests = list(storage.memory.datasets[DATASET].digests)
    storage.cut_after = 3
    got = [item async for item in client.fetch(digests)]
    assert got == [(digest, storage.memory.pictures[digest]) for digest in digests]
    assert storage.downloaded == digests


@pytest.mark.parametrize(
    "cut", [Unavailable("cut", dependency="storage"), UploadIncomplete("another job sends the same", committed=0)]
)
async def test_an_upload_that_was_cut_goes_on_at_its_offset(
    client, storage: Storage, tmp_path, cut: LoupeError
) -> None:
    data = bytes(range(256)) * 12_000
    storage.cut_after, storage.cut = 1 << 20, cut
    file = collected(tmp_path, "model.onnx", data)
    (stored,) = await client.save_artifacts([file])
    assert storage.uploads == {file.digest: data}
    assert (stored.filename, stored.digest, stored.size) == ("model.onnx", file.digest, len(data))
    assert await client.save_artifacts([file]) == (stored,)


async def test_a_checkpoint_goes_there_and_back(client, storage: Storage, tmp_path) -> None:
    """Its files come back under their names; a stale attempt is refused by storage."""
    assert not await client.load_checkpoint(tmp_path / "none")
    await client.save_checkpoint([collected(tmp_path, "state.json", b"{}"), collected(tmp_path, "x.safetensors", b"t")])
    assert await client.load_checkpoint(tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        "state.json": b"{}",
        "x.safetensors": b"t",
    }
    storage.memory.fences[JOB] = 2
    with pytest.raises(StaleAttempt):
        await client.save_checkpoint([])


async def test_a_checkpoint_with_a_path_for_a_name_is_refused(client, storage: Storage, tmp_path) -> None:
    storage.memory.checkpoints[JOB] = model_service_pb2.Checkpoint(
        job=JOB, attempt=1, files=[{"filename": "../evil", "digest": "a" * 64}]
    )
    with pytest.raises(DataLoss, match="evil"):
        await client.load_checkpoint(tmp_path / "back")
