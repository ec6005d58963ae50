"""Pushing pictures: only what is missing, resumed after every kind of cut, every problem named by its file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from loupe import errors
from loupe.backoff import Backoff
from loupe.names import DatasetName
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_pb2
from loupe.terminal import upload
from loupe.terminal.client import Terminal
from loupe.terminal.hashing import hash_files
from loupe.terminal.picture_source import read_pictures
from loupe.terminal.profile import ProfileStore
from loupe.terminal.progress import PushProgress
from loupe.terminal.upload import ProjectBlobs
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh

SCREWS = DatasetName("line-7", "screws")
BATCHES = 12


@pytest.fixture(autouse=True)
def one_picture_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "BATCH_BYTES", 1)


def digests(folder: Path) -> set[str]:
    return {hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.rglob("*.png")}


async def test_everything_arrives_and_the_second_time_nothing_is_sent(
    mesh: FakeMesh, store: ProfileStore, folder: Path
) -> None:
    shown: list[PushProgress] = []
    async with Terminal.connect(store) as loupe:
        first = await loupe.datasets.push(SCREWS, folder, show=shown.append)
        second = await loupe.datasets.push(SCREWS, folder)
    assert set(mesh.blobs) == digests(folder)
    assert first.version.picture_count == 12
    assert first.uploaded.pictures == 12 and first.uploaded.bytes == sum(map(len, mesh.blobs.values()))
    assert second.uploaded.pictures == 0 and mesh.uploads == 1
    assert {item.label for item in mesh.datasets[str(SCREWS)][0]} == {"scratch", "零件 ok"}
    sent = [one.pictures for one in shown if one.phase == "send"]
    assert sent == sorted(sent) and sent[-1] == 12


@pytest.mark.parametrize("after", range(BATCHES))
async def test_a_cut_at_every_batch_is_resumed_without_sending_twice(
    mesh: FakeMesh, store: ProfileStore, folder: Path, after: int
) -> None:
    mesh.cuts = [after]
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(SCREWS, folder)
    assert set(mesh.blobs) == digests(folder)
    assert len(mesh.received) == 12
    assert report.uploaded.cuts == 1 and report.version.picture_count == 12


async def test_connections_torn_at_any_byte_are_resumed(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy tears the connection again and again; the version is made once, of everything."""
    monkeypatch.setattr(upload, "BATCH_BYTES", 20_000)
    for index in range(40):
        place = tmp_path / "many" / ("a" if index % 2 else "b") / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture_bytes(index, size=60))
    mesh.storage_address = mesh.cutting_proxy([30_000, 3_000, 90_000, 150_001])
    async with Terminal.connect(store, retry_seconds=20) as loupe, asyncio.timeout(40):
        report = await loupe.datasets.push(SCREWS, tmp_path / "many")
    assert set(mesh.blobs) == digests(tmp_path / "many")
    assert report.version.picture_count == 40
    assert report.uploaded.cuts >= 2
    assert len(mesh.datasets[str(SCREWS)]) == 1


async def test_storage_that_stays_away_is_told(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    mesh.cuts = [0] * 1000
    hashed = await hash_files([one.path for one in read_pictures(folder).pictures], lambda progress: None)
    async with Terminal.connect(store) as loupe:
        door = ProjectBlobs(loupe.datasets._blobs, "projects/line-7")
        with pytest.raises(errors.Unavailable, match=r"storage (goes down|cannot be reached)"):
            await upload.upload_pictures(door, "projects/line-7", hashed, lambda progress: None, Backoff(1.0))
    assert not mesh.blobs


async def test_refused_pictures_are_named_with_what_would_be_right(
    mesh: FakeMesh, store: ProfileStore, folder: Path
) -> None:
    (folder / "scratch" / "bad.png").write_bytes(b"BAD picture")
    (folder / "scratch" / "copy of bad.png").write_bytes(b"BAD picture")
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(SCREWS, folder)
        assert report.version.picture_count == 12
        with pytest.raises(errors.BadDataset, match=r"scratch/bad.png: the bytes are not a picture.*; send a PNG"):
            await loupe.datasets.push(SCREWS, folder, strict=True)
    (problem,) = report.problems
    assert (problem.filename, problem.kind) == ("scratch/bad.png", "not_a_picture")
    assert problem.remedy.startswith("send a PNG")
    assert len(mesh.datasets[str(SCREWS)]) == 1


async def test_a_file_above_the_limit_is_refused_without_sending_it(
    mesh: FakeMesh, store: ProfileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 5_000)
    (folder / "scratch" / "huge.png").write_bytes(picture_bytes(99, size=100))
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(SCREWS, folder)
    assert [(one.filename, one.kind) for one in report.problems] == [("scratch/huge.png", "too_large")]
    assert report.version.picture_count == 12 and len(mesh.blobs) == 12


async def test_equal_files_are_reported_and_join_once(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    (folder / "scratch" / "twin.png").write_bytes((folder / "scratch" / "02.png").read_bytes())
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(SCREWS, folder)
    assert [(one.filename, one.reason) for one in report.duplicates] == [
        ("scratch/twin.png", "the same file as scratch/02.png")
    ]
    assert report.version.picture_count == 12


async def test_a_denied_push_leaves_nothing_behind(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    mesh.denied = errors.PermissionDenied("not allowed", action="datasets.write", threshold=20)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.PermissionDenied) as caught:
            await loupe.datasets.push(SCREWS, folder)
    assert caught.value.metadata["threshold"] == "20"
    assert not mesh.blobs and not mesh.datasets


@pytest.mark.parametrize("spoil", ["broken", "conflict", "no validation"])
async def test_a_push_that_cannot_be_trained_on_makes_no_data_set(
    mesh: FakeMesh, store: ProfileStore, tmp_path: Path, spoil: str
) -> None:
    """The contract has no call to delete a data set, so one that would stay empty must not be made."""
    root = tmp_path / "own"
    names = ("train/a", "train/b") if spoil == "no validation" else ("a", "b")
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        data = picture_bytes(0 if spoil == "conflict" else index)
        (root / name / "1.png").write_bytes(data[:-40] if spoil == "broken" else data)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.BadDataset, match=r"(no class is left|no picture is for validation)"):
            await loupe.datasets.push(SCREWS, root)
    assert not mesh.datasets


async def test_files_that_cannot_be_read_are_left_out_like_broken_ones(
    mesh: FakeMesh, store: ProfileStore, folder: Path
) -> None:
    (folder / "scratch" / "dead.bmp").symlink_to("/proc/self/mem")
    (folder / "scratch" / "gone.png").write_bytes(picture_bytes(50))
    source = read_pictures(folder)
    (folder / "scratch" / "gone.png").unlink()
    async with Terminal.connect(store) as loupe:
        report = await loupe.datasets.push(SCREWS, source)
    assert [(one.filename, one.kind) for one in report.problems] == [
        ("scratch/dead.bmp", "unreadable"),
        ("scratch/gone.png", "unreadable"),
    ]
    assert report.left_out == 2 and report.version.picture_count == 12


async def test_a_file_that_vanishes_while_sending_is_told(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    def vanish(progress: PushProgress) -> None:
        if progress.phase == "hash" and progress.pictures == progress.total_pictures:
            (folder / "scratch" / "02.png").unlink(missing_ok=True)

    async with Terminal.connect(store) as loupe, asyncio.timeout(10):
        with pytest.raises(errors.InvalidArgument, match=r"02\.png.*a file that can be read"):
            await loupe.datasets.push(SCREWS, folder, show=vanish)
    assert not mesh.datasets


async def test_the_users_own_split_and_fractions_together_are_refused(store: ProfileStore, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            place = tmp_path / "own" / split / label / "1.png"
            place.parent.mkdir(parents=True)
            place.write_bytes(picture_bytes(len(str(place))))
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.BadDataset, match="itself"):
            await loupe.datasets.push(SCREWS, tmp_path / "own", split=dataset_pb2.SplitPolicy(seed=1))


async def test_a_token_that_expires_in_mid_stream_repeats_nothing(
    mesh: FakeMesh, store: ProfileStore, folder: Path
) -> None:
    async with Terminal.connect(store) as loupe:
        pushed = await loupe.datasets.push(SCREWS, folder)
        mesh.item_cuts, mesh.item_error = 2, errors.Unauthenticated("expired", problem="expired")
        read = [item.digest async for item in loupe.datasets.items(pushed.version.name)]
    assert read == [item.digest for item in mesh.datasets[str(SCREWS)][0]]
    assert mesh.refreshes == 2


async def test_a_stream_that_ends_without_its_last_answer_is_an_error(folder: Path) -> None:
    """gRPC can end a broken stream as if it were whole; only the closing answer counts."""

    class Door:
        streams = 0

        async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
            return digests

        async def upload(self, requests: object) -> AsyncGenerator[blobs.UploadPicturesResponse]:
            Door.streams += 1
            yield blobs.UploadPicturesResponse(stored_count=1)

    hashed = await hash_files([one.path for one in read_pictures(folder).pictures], lambda progress: None)
    with pytest.raises(errors.UploadIncomplete):
        await upload.upload_pictures(Door(), "projects/line-7", hashed, lambda progress: None, Backoff(0.3))
    assert Door.streams > 1
