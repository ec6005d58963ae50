"""Pulling a model: resumed, checked, and installed only when it answers its golden pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from loupe import errors
from loupe.storage.v1 import model_pb2
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from loupe.terminal.progress import PullProgress
from tests.terminal.fake_mesh import FakeMesh

NAME = "projects/line-7/models/screws/versions/1"


def publish(mesh: FakeMesh, folder: Path, *, released: bool = True) -> None:
    mesh.model_files = {one.name: one.read_bytes() for one in folder.iterdir()}
    files = [
        model_pb2.ModelFile(filename=name, size=len(data), digest=hashlib.sha256(data).hexdigest())
        for name, data in sorted(mesh.model_files.items())
    ]
    metrics = model_pb2.ModelMetrics(validation_accuracy=0.91, target_accuracy=0.97)
    mesh.model = model_pb2.ModelVersion(
        name=NAME, uid="0123456789abcdef", released=released, files=files, metrics=metrics
    )


async def test_a_model_is_pulled_through_cuts_and_stands_whole(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    mesh.download_cuts = 4
    shown: list[PullProgress] = []
    async with Terminal.connect(store) as loupe:
        pulled = await loupe.models.pull(NAME, tmp_path / "to" / "1", show=shown.append)
        again = await loupe.models.pull(NAME, tmp_path / "to" / "1")
    assert pulled.fresh and not again.fresh
    assert {one.name: one.read_bytes() for one in pulled.folder.iterdir()} == mesh.model_files
    assert shown[-1].bytes == shown[-1].total_bytes == sum(map(len, mesh.model_files.values()))
    resumed = [offset for _, offset in mesh.download_offsets if offset]
    assert len(resumed) == 4
    assert sorted(one.name for one in (tmp_path / "to").iterdir()) == [".1.lock", "1"]


async def test_a_pull_goes_on_where_an_earlier_process_stopped(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    partial = tmp_path / "to" / ".1.0123456789ab.part"
    partial.mkdir(parents=True)
    (partial / "model.onnx").write_bytes(mesh.model_files["model.onnx"][:300])
    async with Terminal.connect(store) as loupe:
        await loupe.models.pull(NAME, tmp_path / "to" / "1")
    assert ("model.onnx", 300) in mesh.download_offsets


async def test_a_bad_leftover_is_fetched_anew(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    partial = tmp_path / "to" / ".1.0123456789ab.part"
    partial.mkdir(parents=True)
    (partial / "model.onnx").write_bytes(b"x" * 300)
    async with Terminal.connect(store) as loupe:
        pulled = await loupe.models.pull(NAME, tmp_path / "to" / "1")
    assert (pulled.folder / "model.onnx").read_bytes() == mesh.model_files["model.onnx"]


async def test_altered_bytes_are_refused_and_nothing_is_installed(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    data = bytearray(mesh.model_files["model.onnx"])
    data[100] ^= 1
    mesh.model_files["model.onnx"] = bytes(data)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.DataLoss, match=r"model\.onnx .* another sha256"):
            await loupe.models.pull(NAME, tmp_path / "to" / "1")
    assert not (tmp_path / "to" / "1").exists()


async def test_a_model_that_answers_otherwise_is_refused_and_removed(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model(golden_shift=0.002))
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.GateFailed, match="answers its golden pictures differently"):
            await loupe.models.pull(NAME, tmp_path / "to" / "1")
    assert [one.name for one in (tmp_path / "to").iterdir()] == [".1.lock"]


async def test_a_model_below_its_target_needs_a_word(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model(), released=False)
    latest = NAME.replace("/1", "/latest")
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.GateFailed, match=r"91\.00 % of validation pictures, 97\.00 %"):
            await loupe.models.pull(NAME, tmp_path / "to")
        with pytest.raises(errors.NotFound, match="the only version is not released: `screws/versions/1`"):
            await loupe.models.pull(latest, tmp_path / "to")
        pulled = await loupe.models.pull(latest, tmp_path / "to", allow_below_target=True)
    assert pulled.version.name == NAME


@pytest.mark.parametrize("name", ["../evil", "/etc/x", "a/b", ".hidden", ""])
async def test_file_names_that_lead_elsewhere_are_refused(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    publish(mesh, make_model())
    mesh.model.files.add(filename=name, size=1, digest="0" * 64)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.DataLoss, match="plain file name"):
            await loupe.models.pull(NAME, tmp_path / "to" / "1")


async def test_a_folder_with_other_things_is_not_replaced(
    mesh: FakeMesh, store: ProfileStore, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "thesis.txt").write_text("mine")
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.AlreadyExists, match="not a Loupe model"):
            await loupe.models.pull(NAME, tmp_path / "to")
    assert (tmp_path / "to" / "thesis.txt").read_text() == "mine"
