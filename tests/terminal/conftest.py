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


def detector_graph(size: int) -> Any:
    """Return a graph that finds what is bright in red, green and blue: one box each, as sure as its brightest pixel."""
    from onnx import TensorProto, helper, numpy_helper

    def on(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        on("Greater", "pixels dark", "bright"),
        on("Cast", "bright", "mask", to=TensorProto.INT32),
        on("ReduceMax", "mask two", "rows", keepdims=0),
        on("ReduceMax", "mask one", "columns", keepdims=0),
        *(
            on("ArgMax", side, f"{side}_{end}", axis=1, keepdims=0, select_last_index=end)
            for side in ("rows", "columns")
            for end in (0, 1)
        ),
        on("Add", "rows_1 unit", "bottom"),
        on("Add", "columns_1 unit", "right"),
        *(on("Unsqueeze", f"{edge} two", f"{edge}_edge") for edge in ("columns_0", "rows_0", "right", "bottom")),
        on("Concat", "columns_0_edge rows_0_edge right_edge bottom_edge", "edges", axis=2),
        on("Cast", "edges", "float_edges", to=TensorProto.FLOAT),
        on("Div", "float_edges size", "all_boxes"),
        on("Cast", "pixels", "float_pixels", to=TensorProto.FLOAT),
        on("ReduceMax", "float_pixels both", "peaks", keepdims=0),
        on("Div", "peaks white", "all_scores"),
        on("ReduceMax", "rows one", "there", keepdims=0),
        on("NonZero", "there", "places"),
        on("Transpose", "places", "where"),
        on("GatherND", "all_boxes where", "boxes"),
        on("GatherND", "all_scores where", "scores"),
        on("Gather", "places first", "found_pictures", axis=0),
        on("Gather", "places second", "classes", axis=0),
    ]
    constants: dict[str, Any] = {
        "dark": np.array(120, np.uint8),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "both": np.array([1, 2], np.int64),
        "unit": np.array(1, np.int64),
        "size": np.array(size, np.float32),
        "white": np.array(255, np.float32),
        "first": np.array(0, np.int64),
        "second": np.array(1, np.int64),
    }
    return helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size, size, 3])],
        [
            helper.make_tensor_value_info("found_pictures", TensorProto.INT64, ["found"]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["found", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["found"]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, ["found"]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )


DETECTED = ("scratch", "tiefer Kratzer 零件", "dent")
"""What is red, green and blue."""


@pytest.fixture
def make_detector(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with a detector of 64 by 64 pixels, which finds what is red, green or blue: DETECTED.

    graph: another network. golden: other arrays in place of those that the network answers with. document: what
    model.json says otherwise.
    """

    def make(
        name: str = "detector",
        *,
        graph: Any = None,
        golden: dict[str, np.ndarray] | None = None,
        document: dict[str, Any] | None = None,
    ) -> Path:
        from onnx import helper, save

        place = tmp_path / name
        place.mkdir()
        network = graph or detector_graph(64)
        save(
            helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
            str(place / "model.onnx"),
        )
        pictures = np.full((2, 64, 64, 3), 10, np.uint8)
        pictures[0, 8:24, 16:48, 0], pictures[1, 32:64, 0:16, 1] = 255, 204
        arrays: dict[str, np.ndarray] = {
            "pictures": pictures,
            "found_pictures": np.array([0, 1]),
            "boxes": np.array([[0.25, 0.125, 0.75, 0.375], [0, 0.5, 0.25, 1]], np.float32),
            "scores": np.array([1.0, 0.8], np.float32),
            "classes": np.array([0, 1]),
        }
        np.savez(place / "golden.npz", **arrays | (golden or {}))  # type: ignore[arg-type]  # numpy's stub takes no mapping
        files = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in place.iterdir()}
        said: dict[str, Any] = {
            "format": "loupe-model/1",
            "task": "detection",
            "labels": list(DETECTED),
            "input": {
                "height": 64, "width": 64, "channels": "RGB", "type": "uint8", "fit": "letterbox", "fill": 114,
            },
            "min_confidence": 0.6,
            "files": files,
        }  # fmt: skip
        (place / "model.json").write_text(json.dumps(said | (document or {}), ensure_ascii=False), encoding="utf-8")
        return place

    return make
