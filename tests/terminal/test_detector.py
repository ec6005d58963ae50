"""The detector: boxes in pixels of the upright picture, golden pictures, and models that are no good."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe import errors
from loupe.terminal import Classifier, Detector
from loupe.terminal.boxes import MOST_BOXES
from loupe.terminal.detector import Box, Detections
from loupe.terminal.first_use import CHECKED_FILE
from tests.terminal.conftest import DETECTED, detector_graph


def board(path: Path, size: tuple[int, int] = (200, 100), **boxes: tuple[int, int, int, int]) -> Path:
    """Write a dark picture with bright rectangles, and return where. boxes: x0, y0, x1, y1 by red, green, blue."""
    pixels = np.full((size[1], size[0], 3), 10, np.uint8)
    for colour, (x0, y0, x1, y1) in boxes.items():
        pixels[y0:y1, x0:x1, ("red", "green", "blue").index(colour)] = 255
    Image.fromarray(pixels).save(path)
    return path


def near(box: Box, expected: Sequence[float], pixels: float) -> bool:
    return all(abs(one - other) <= pixels for one, other in zip(box, expected, strict=True))


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (64, 64), (40, 30), (1000, 370)])
def test_boxes_are_in_pixels_of_the_picture_whatever_its_shape(
    make_detector: Callable[..., Path], tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    (one,) = Detector(make_detector()).detect([board(tmp_path / "a.png", size, red=box)])
    (found,) = one.found
    assert (one.width, one.height, one.problem, found.label) == (*size, "", "scratch")
    assert found.confidence > 0.9
    grain = 1.5 * max(1, max(size) / 64)
    assert near(found.pixels, box, grain)
    assert near(found.box, [edge / side for edge, side in zip(found.pixels, size * 2, strict=True)], 1e-6)


def test_boxes_are_those_of_the_upright_picture(make_detector: Callable[..., Path], tmp_path: Path) -> None:
    """A camera on its side writes the pixels as they lie and says how to turn them; a JPEG is read smaller."""
    pixels = np.full((600, 1200, 3), 10, np.uint8)
    pixels[0:100, 1000:1200] = (250, 10, 10)  # top right as stored; turned by 90° clockwise: bottom right
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = make_detector()
    for name in ("a.jpg", "a.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        (one,) = Detector(folder).detect([tmp_path / name])
        (found,) = one.found
        assert (one.width, one.height) == (600, 1200)
        assert near(found.pixels, (500, 1000, 600, 1200), 30)


def test_pictures_are_answered_in_order_and_broken_ones_named(
    make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [board(tmp_path / f"{index}.png", red=(0, 0, 50, 50)) for index in range(70)]
    for index in range(0, 70, 3):
        board(paths[index])
    paths[40].write_bytes(paths[40].read_bytes()[:60])
    paths[41] = tmp_path / "nowhere.png"
    answers = list(Detector(make_detector(), threads=1).detect(paths))
    assert [one.path for one in answers] == paths
    for index, one in enumerate(answers):
        assert bool(one.problem) == (index in (40, 41))
        assert len(one.found) == (0 if index % 3 == 0 or one.problem else 1)


def test_what_is_less_sure_is_not_told_and_the_surest_comes_first(
    make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = np.full((64, 64, 3), 10, np.uint8)
    pixels[:20, :20, 0], pixels[:20, 30:40, 1], pixels[40:, 40:, 2] = 130, 180, 240
    Image.fromarray(pixels).save(tmp_path / "a.png")
    folder = make_detector()

    def labels(min_confidence: float | None) -> list[str]:
        (one,) = Detector(folder, min_confidence=min_confidence).detect([tmp_path / "a.png"])
        return [found.label for found in one.found]

    red, green, blue = DETECTED
    assert labels(None) == [blue, green]  # model.json says 0.6
    assert labels(0.0) == [blue, green, red]
    assert labels(0.9) == [blue]
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(errors.InvalidArgument, match="0 to 1"):
            Detector(folder, min_confidence=wrong)


@pytest.mark.parametrize(
    "golden",
    [
        {"boxes": np.array([[0.25, 0.125, 0.75, 0.375], [0, 0.5, 0.25, 0.8]], np.float32)},
        {"scores": np.array([1.0, 0.75], np.float32)},
        {"classes": np.array([0, 2])},
        {"found_pictures": np.array([0, 0])},
        {  # it found less after training
            "found_pictures": np.array([0]),
            "boxes": np.array([[0.25, 0.125, 0.75, 0.375]], np.float32),
            "scores": np.array([1.0], np.float32),
            "classes": np.array([0]),
        },
        {  # it found the same twice
            "found_pictures": np.array([0, 0, 1]),
            "boxes": np.array([[0.25, 0.125, 0.75, 0.375]] * 2 + [[0, 0.5, 0.25, 1]], np.float32),
            "scores": np.array([1.0, 1.0, 0.8], np.float32),
            "classes": np.array([0, 0, 1]),
        },
        {"pictures": np.zeros((0, 64, 64, 3), np.uint8)},
    ],
)
def test_golden_pictures_are_answered_as_after_training(
    make_detector: Callable[..., Path], golden: dict[str, np.ndarray]
) -> None:
    with pytest.raises(errors.GateFailed, match="golden pictures"):
        Detector(make_detector(golden=golden))


def test_small_differences_between_machines_are_borne(make_detector: Callable[..., Path]) -> None:
    Detector(
        make_detector(
            golden={
                "boxes": np.array([[0.251, 0.125, 0.749, 0.376], [0, 0.501, 0.25, 1], [0, 0, 1, 1]], np.float32),
                "scores": np.array([0.999, 0.803, 0.605], np.float32),  # the last is at the edge of being told
                "classes": np.array([0, 1, 2]),
                "found_pictures": np.array([0, 1, 1]),
            }
        )
    )


def test_golden_pictures_are_answered_once_on_each_machine(
    make_detector: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Path] = []
    monkeypatch.setattr(Detector, "check_golden", lambda self: checks.append(self.folder))
    folder = make_detector()
    for _ in range(2):
        Detector(folder)
    assert len(checks) == 1
    monkeypatch.setattr("loupe.terminal.first_use.cpu_name", lambda: "another CPU")
    Detector(folder)
    assert len(checks) == 2
    (folder / CHECKED_FILE).write_text("[" * 100_000)
    Detector(folder)
    assert len(checks) == 3


def test_a_model_of_another_task_says_which_command_answers_with_it(
    make_detector: Callable[..., Path], make_model: Callable[..., Path]
) -> None:
    with pytest.raises(errors.InvalidArgument, match="`loupe classify` answers with this one"):
        Detector(make_model())
    with pytest.raises(errors.InvalidArgument, match="`loupe detect` answers with this one"):
        Classifier(make_detector())
    with pytest.raises(errors.InvalidArgument, match="another Loupe"):
        Detector(make_detector("new", document={"task": "segmentation"}))


LETTERBOX = {"height": 64, "width": 64, "fit": "letterbox", "fill": 114}


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"input": LETTERBOX | {"fit": "crop"}}, errors.InvalidArgument),
        ({"input": LETTERBOX | {"fill": 0}}, errors.InvalidArgument),
        ({"input": LETTERBOX | {"height": 1 << 40}}, errors.DataLoss),
        ({"input": LETTERBOX | {"height": 32}}, errors.DataLoss),
        ({"input": [64, 64]}, errors.DataLoss),
        ({"min_confidence": None}, errors.DataLoss),
        ({"min_confidence": "0.5"}, errors.DataLoss),
        ({"min_confidence": float("nan")}, errors.DataLoss),
        ({"min_confidence": True}, errors.DataLoss),
        ({"labels": ["scratch"]}, errors.DataLoss),
        ({"labels": []}, errors.DataLoss),
        ({"labels": [1, 2, 3]}, errors.DataLoss),
        ({"files": {"model.onnx": "0" * 64}}, errors.DataLoss),
        ({"files": {"golden.npz": "0" * 64}}, errors.DataLoss),
        ({"files": ["model.onnx"]}, errors.DataLoss),
    ],
)
def test_a_strange_model_document_is_told(
    make_detector: Callable[..., Path], document: dict[str, Any], kind: type[errors.LoupeError]
) -> None:
    with pytest.raises(kind):
        Detector(make_detector(document=document))


def test_a_document_without_end_is_told(make_detector: Callable[..., Path]) -> None:
    folder = make_detector()
    (folder / "model.json").write_text("[" * 1_000_000)
    with pytest.raises(errors.DataLoss, match="damaged"):
        Detector(folder)


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        b"",
        packed(pictures=np.zeros((1, 64, 64, 3), np.uint8)),
        packed(pictures=np.array([{"a": 1}], dtype=object)),
        packed(pictures=np.zeros((1, 32, 64, 3), np.uint8), found_pictures=[], boxes=[], scores=[], classes=[]),
        packed(pictures=np.zeros((1, 64, 64, 3), np.uint8), found_pictures=[], boxes=[], scores=[], classes=[]),
        packed(pictures=np.uint8(1), found_pictures=1, boxes=1, scores=1, classes=1),
        packed(pictures=np.zeros((1, 64, 64, 3), np.uint8))[:-40],
        packed(pictures=np.zeros((1 << 20, 1024), np.uint8)),
    ],
    ids=["text", "empty", "lacking", "pickle", "size", "shapes", "scalars", "cut", "bomb"],
)
def test_golden_pictures_that_are_none_are_told(make_detector: Callable[..., Path], data: bytes) -> None:
    folder = make_detector(document={"files": {}})
    (folder / "golden.npz").write_bytes(data)
    with pytest.raises(errors.DataLoss, match=r"golden\.npz"):
        Detector(folder)


def constant_graph(
    pictures: Any = (0,),
    boxes: Any = ((0.1, 0.1, 0.5, 0.5),),
    scores: Any = (0.9,),
    classes: Any = (0,),
    *,
    integer: Any = np.int64,
    real: Any = np.float32,
    leave_out: str = "",
    more_inputs: bool = False,
    shape: Any = ("batch", 64, 64, 3),
    taken: Any = None,
) -> Any:
    """Return a graph that gives the same answers for any picture."""
    from onnx import TensorProto, helper, numpy_helper

    values = {
        "found_pictures": np.asarray(pictures, integer),
        "boxes": np.asarray(boxes, real),
        "scores": np.asarray(scores, real),
        "classes": np.asarray(classes, integer),
    }
    nodes = [helper.make_node("Identity", [f"{name}_constant"], [name]) for name in values if name != leave_out]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in values.items()
        if name != leave_out
    ]
    inputs = [helper.make_tensor_value_info("pixels", taken or TensorProto.UINT8, shape)]
    if more_inputs:
        inputs.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [1]))
    constants = [numpy_helper.from_array(value, f"{name}_constant") for name, value in values.items()]
    return helper.make_graph(nodes, "constant", inputs, outputs, constants)


MANY = MOST_BOXES * 2 + 1


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"boxes": [[np.nan, 0, 1, 1]]}, "no numbers"),
        ({"boxes": [[0, 0, np.inf, 1]]}, "no numbers"),
        ({"scores": [np.nan]}, "no numbers"),
        ({"scores": [1.5]}, "scores of 1.5"),
        ({"scores": [-0.1]}, "scores of -0.1"),
        ({"boxes": [[10, 10, 50, 50]]}, "corners at 10 to 50"),
        ({"boxes": [[0.5, 0.1, 0.1, 0.5]]}, "second corner is before the first"),
        ({"classes": [3]}, "the classes 3 to 3"),
        ({"classes": [-1]}, "the classes -1"),
        ({"pictures": [2]}, "boxes of the pictures 2 to 2"),
        ({"pictures": [-1]}, "boxes of the pictures -1"),
        ({"boxes": [0.1, 0.1, 0.5, 0.5]}, r"boxes \[4\]"),
        ({"scores": [[0.9]]}, r"scores \[1, 1\]"),
        ({"scores": 0.9}, r"scores \[\]"),
        ({"classes": [0, 0]}, r"classes \[2\]"),
        ({"integer": np.float32}, "whole numbers"),
        ({"real": np.int64}, "whole numbers"),
        (
            {
                "pictures": [0] * MANY,
                "boxes": [[0, 0, 1, 1]] * MANY,
                "scores": [0.9] * MANY,
                "classes": [0] * MANY,
            },
            f"{MANY} boxes",
        ),
        ({"leave_out": "classes"}, "expected one input, and the outputs found_pictures, boxes, scores, classes"),
        ({"more_inputs": True}, "expected one input"),
        ({"shape": ("batch", 32, 64, 3)}, "takes pictures as"),
        ({"shape": (1, 64, 64, 3)}, "takes pictures as"),
        ({"shape": ("batch", 64, 64)}, "takes pictures as"),
        ({"taken": 1}, "takes pictures as"),
    ],
)
def test_answers_that_cannot_be_are_told_and_never_shown(
    make_detector: Callable[..., Path], graph: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.DataLoss, match=words):
        Detector(make_detector(graph=constant_graph(**graph)))


def test_answers_for_other_than_golden_pictures_are_looked_at_too(
    make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    """This one speaks of a second picture also where there is none."""
    golden = {
        "found_pictures": np.array([1]),
        "boxes": np.array([[0.1, 0.1, 0.5, 0.5]], np.float32),
        "scores": np.array([0.9], np.float32),
        "classes": np.array([0]),
    }
    detector = Detector(make_detector(graph=constant_graph([1]), golden=golden))
    with pytest.raises(errors.DataLoss, match="boxes of the pictures 1"):
        list(detector.detect([board(tmp_path / "a.png")]))


def test_a_network_that_breaks_off_is_told(
    make_detector: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = detector_graph(64)
    graph.node.pop(-1)
    from onnx import helper

    graph.node.append(helper.make_node("Reshape", ["where", "one"], ["classes"]))  # into one number: it has two or more
    with pytest.raises(errors.DataLoss, match="cannot answer 2 pictures"):
        Detector(make_detector(graph=graph))


def test_boxes_are_cut_at_the_edge_and_what_lies_in_the_grey_is_nothing(
    make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    boxes = [[-0.2, -0.1, 0.5, 0.25], [0.1, 0.6, 0.9, 0.9], [0.5, 0.25, 0.5, 0.3]]
    graph = constant_graph([0] * 3, boxes, [0.9, 0.8, 0.7], [0] * 3)
    golden = {
        "found_pictures": np.array([0] * 3),
        "boxes": np.array(boxes, np.float32),
        "scores": np.array([0.9, 0.8, 0.7], np.float32),
        "classes": np.array([0] * 3),
    }
    (one,) = Detector(make_detector(graph=graph, golden=golden)).detect([board(tmp_path / "a.png", (200, 100))])
    (found,) = one.found
    assert found.box == pytest.approx((0, 0, 0.5, 0.5)) and found.pixels == pytest.approx((0, 0, 100, 50))


def test_a_folder_without_a_model_and_a_broken_network_are_told(
    make_detector: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidArgument, match="a folder with a pulled model"):
        Detector(tmp_path)
    folder = make_detector()
    (folder / "model.onnx").write_bytes(b"\x80\x04 a pickle, say")
    with pytest.raises(errors.DataLoss, match="cannot be loaded"):
        Detector(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(errors.DataLoss, match="cannot be loaded"):
        Detector(folder)


def test_a_changed_network_is_not_answered_with(make_detector: Callable[..., Path]) -> None:
    folder, other = make_detector(), make_detector("other", graph=constant_graph(), document={"files": {}})
    Detector(folder)
    (folder / "model.onnx").write_bytes((other / "model.onnx").read_bytes())
    with pytest.raises(errors.DataLoss, match="sha256"):
        Detector(folder)
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(document | {"files": {}}))
    with pytest.raises(errors.GateFailed):
        Detector(folder)


def test_nothing_is_found_where_nothing_is(make_detector: Callable[..., Path], tmp_path: Path) -> None:
    path = board(tmp_path / "a.png")
    assert list(Detector(make_detector()).detect([path])) == [Detections(path, [], 200, 100)]
    assert list(Detector(make_detector("other")).detect([])) == []
