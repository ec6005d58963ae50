"""Fixtures of the terminal's tests: a fake mesh, a profile, a tiny model, a folder of pictures."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image
from typer.testing import CliRunner

from loupe.storage.v1 import model_pb2
from loupe.terminal.cli import app
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh, write_profile


@pytest.fixture
def mesh() -> Iterator[FakeMesh]:
    with FakeMesh().serve() as running:
        yield running


@pytest.fixture
def store(mesh: FakeMesh, tmp_path: Path):
    return write_profile(mesh, tmp_path / "config" / "profile.json")


def picture_bytes(seed: int, size: int = 12, form: str = "PNG") -> bytes:
    """Make a small noise picture; its brightness is told by seed % 2."""
    noise = np.random.default_rng(seed).integers(0, 100, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise + np.uint8(150 * (seed % 2))).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes with six pictures each, one of them deeper down, named in two scripts."""
    root = tmp_path / "pictures"
    for index in range(12):
        place = root / ("零件 ok" if index % 2 else "scratch") / ("deep/er" if index == 0 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:02}.png").write_bytes(picture_bytes(index))
    return root


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model folder whose answer is the brightness: dark, bright.

    int8: with a second file, which computes the same; its golden answers are off by int8_shift.
    """

    def make(name: str = "model", golden_shift: float = 0.0, *, int8: bool = False, int8_shift: float = 0.0) -> Path:
        from onnx import TensorProto, helper, numpy_helper, save

        nodes = [
            helper.make_node("Cast", ["pictures"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["mean", "middle"], ["centred"]),
            helper.make_node("Mul", ["centred", "slope"], ["column"]),
            helper.make_node("MatMul", ["column", "signs"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        constants: dict[str, Any] = {
            "axes": np.array([1, 2], np.int64),
            "middle": np.array(120.0, np.float32),
            "slope": np.array(0.02, np.float32),
            "signs": np.array([[-1.0, 1.0]] * 3, np.float32) / 3,
        }
        graph = helper.make_graph(
            nodes,
            "brightness",
            [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["batch", 8, 8, 3])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        place = tmp_path / name
        place.mkdir()
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        save(model, str(place / "model.onnx"))
        pictures = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 90, 160, 240)])
        logits = (pictures.mean(axis=(1, 2)) - 120.0) * 0.02 @ constants["signs"]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = exponents / exponents.sum(axis=1, keepdims=True) + golden_shift
        np.savez(place / "golden.npz", pictures=pictures, probabilities=expected.astype(np.float32))
        document: dict[str, Any] = {
            "format": "loupe-model/1",
            "labels": ["dark", "bright 零件"],
            "input": {"height": 8, "width": 8, "channels": "RGB", "type": "uint8"},
        }
        if int8:
            shutil.copy(place / "model.onnx", place / "model.int8.onnx")
            golden = (expected - golden_shift + int8_shift).tolist()
            document["int8"] = {"file": "model.int8.onnx", "golden_probabilities": golden}
        document["files"] = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in place.iterdir()}
        (place / "model.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        return place

    return make


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pulled models stand in this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "loupe" / "models"


@pytest.fixture
def command_line(mesh: FakeMesh, store: ProfileStore, data_folder: Path) -> Callable[..., Any]:
    """Runs the command line, logged in at the fake mesh."""
    environment = {"LOUPE_PROFILE": str(store.path), "COLUMNS": "200"}

    def run(*words: object, input: bytes | None = None, **env: str) -> Any:
        return CliRunner().invoke(app, list(map(str, words)), input=input, env=environment | env)

    return run


@pytest.fixture
def add_version(mesh: FakeMesh, make_model: Callable[..., Path]) -> Callable[..., model_pb2.ModelVersion]:
    """Puts a version into the library of the fake mesh: its model's folder is made anew unless it is given."""

    def add(
        number: int,
        *,
        model: str = "screws",
        project: str = "line-7",
        released: bool = True,
        folder: Path | None = None,
        **metrics: Any,
    ) -> model_pb2.ModelVersion:
        folder = folder or make_model(f"made-{project}-{model}-{number}")
        files = {one.name: one.read_bytes() for one in folder.iterdir()}
        figures = {"validation_accuracy": 0.99, "target_accuracy": 0.97} | metrics
        version = model_pb2.ModelVersion(
            name=f"projects/{project}/models/{model}/versions/{number}",
            uid=f"{project}-{model}-{number}",
            released=released,
            labels=["dark", "bright 零件"],
            metrics=model_pb2.ModelMetrics(**figures),
            create_time=Timestamp(seconds=1_760_000_000 + number),
            files=[
                model_pb2.ModelFile(filename=name, size=len(data), digest=hashlib.sha256(data).hexdigest())
                for name, data in sorted(files.items())
            ],
        )
        mesh.library[version.name] = (version, files)
        return version

    return add


@pytest.fixture(autouse=True)
def own_digests(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's memory of digests is not the one of whoever runs the tests."""
    file = tmp_path_factory.mktemp("digests") / "digests.db"
    monkeypatch.setattr("loupe.terminal.digests.default_file", lambda: file)
