"""Exporting a version: what it writes pushes the same again, stays inside its folder, and replaces nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loupe import errors
from loupe.names import DatasetName, DatasetVersionName
from loupe.storage.v1 import dataset_pb2
from loupe.terminal import export
from loupe.terminal.client import Terminal
from loupe.terminal.picture_source import read_pictures
from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh

SCREWS = DatasetName("line-7", "screws")


def files_below(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and "config" not in one.parts]


async def test_an_export_pushes_the_same_pictures_again(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    latest = DatasetVersionName("line-7", "screws", "latest")
    out = folder.parent / "out"
    async with Terminal.connect(store) as loupe:
        await loupe.datasets.push(SCREWS, folder)
        mesh.item_cuts = 3
        assert (await export.export_version(loupe.datasets, latest, out, lambda progress: None)).pictures == 12
    again = read_pictures(out / "splits.csv")
    pairs = {(hashlib.sha256(one.path.read_bytes()).hexdigest(), one.label) for one in again.pictures}
    assert pairs == {(item.digest, item.label) for item in mesh.datasets[str(SCREWS)][0]}


async def test_an_export_writes_only_inside_its_folder(mesh: FakeMesh, store: ProfileStore, tmp_path: Path) -> None:
    """Names in a data set were typed by somebody else."""
    data = [picture_bytes(index) for index in range(5)]
    names = [
        ("../up", "../../evil.png"),
        ("..", "/etc/passwd"),
        ("a/b", "x/../y.png"),
        ("CON", "same.png"),
        ("con", "SAME.png"),
    ]
    items = []
    for content, (label, filename) in zip(data, names, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        mesh.blobs[digest] = content
        items.append(
            dataset_pb2.DatasetItem(digest=digest, label=label, filename=filename, split=dataset_pb2.SPLIT_TRAIN)
        )
    mesh.datasets[str(SCREWS)] = [items]
    out = tmp_path / "exports" / "out"
    async with Terminal.connect(store) as loupe:
        latest = DatasetVersionName("line-7", "screws", "latest")
        await export.export_version(loupe.datasets, latest, out, lambda progress: None)
    written = files_below(tmp_path)
    assert all(one.is_relative_to(out) for one in written)
    assert len(written) == 6
    assert {one.label for one in read_pictures(out / "splits.csv").pictures} == {label for label, _ in names}


async def test_an_export_into_a_folder_with_other_things_is_refused(store: ProfileStore, folder: Path) -> None:
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.AlreadyExists, match="not empty"):
            latest = DatasetVersionName("line-7", "screws", "latest")
            await export.export_version(loupe.datasets, latest, folder, lambda progress: None)
