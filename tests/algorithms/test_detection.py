"""Detection as an algorithm has it: letterboxed pictures with regions, scores while training, a whole package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import batched_nms
from typer.testing import CliRunner

from loupe.algorithm.__main__ import app
from loupe.algorithm.context import Context, run_image
from loupe.algorithm.dataset import UnusableData
from loupe.algorithm.detection import finishing, parity
from loupe.algorithm.detection.export import LEAST_SCORE, FoundBy, append_selection, select
from loupe.algorithm.detection.measures import right_ones, threshold
from loupe.algorithm.host import Outcome, Split
from loupe.algorithm.local import BadFolder, LocalHost, PictureFolder, local_spec
from loupe.algorithm.local_regions import read_coco, write_arrays
from loupe.algorithm.package import ExportMismatch
from loupe.tasks import TASKS
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions
from loupe.tasks.objective import Objective
from tests.algorithms.conftest import Recorder

DETECTION = TASKS["detection"]
SIZE, CELL = 64, 8
COLOURS = {"blue": (20, 20, 220), "red": (220, 20, 20)}


def scene(rng: np.random.Generator, boxes: Sequence[tuple[str, tuple[int, int, int, int]]]) -> np.ndarray:
    """Return a picture of 64 x 32 with boxes of the classes' colours on grey noise."""
    pixels = rng.integers(90, 110, (32, 64, 3), dtype=np.uint8)
    for label, (x0, y0, x1, y1) in boxes:
        pixels[y0:y1, x0:x1] = COLOURS[label]
    return pixels


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    """Make 24 pictures with boxes on a grid of 8 pixels, two without any, and two that nobody looked at."""
    rng = np.random.default_rng(3)
    pictures, boxes, splits = [], [], []
    for number in range(28):
        there: list[tuple[str, tuple[int, int, int, int]]] = []
        for label in COLOURS if number < 24 else ():
            x, y = int(rng.integers(0, 8)) * CELL, int(rng.integers(0, 4)) * CELL
            if all(known[:2] != (x, y) for _, known in there):
                there.append((label, (x, y, x + CELL, y + CELL)))
        pictures.append(scene(rng, there))
        boxes.append(None if number >= 26 else there)
        splits.append(Split(number % 3))
    return write_arrays(tmp_path_factory.mktemp("scenes"), pictures, boxes, splits)


class ByColour(nn.Module):
    """Finds cells of 8 x 8 pixels by their colour: trained by hand."""

    cells: torch.Tensor

    def __init__(self, sharpness: float = 20.0) -> None:
        super().__init__()
        self.tints = nn.Parameter(torch.tensor(list(COLOURS.values())) / 127.5 - 1)
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        steps = torch.arange(0, SIZE, CELL) / SIZE
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        low = torch.stack([columns.flatten(), rows.flatten()], 1)
        self.register_buffer("cells", torch.cat([low, low + CELL / SIZE], 1))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = nn.functional.avg_pool2d(pictures, CELL).flatten(2).transpose(1, 2)
        far = (means[:, :, None] - self.tints).abs().mean(3)
        scores = torch.sigmoid(self.sharpness * (0.2 - far))
        return self.cells.expand(pictures.shape[0], -1, -1), scores


def host_of(
    folder: PictureFolder, tmp_path: Path, metric: str = "map50", target: float = 0.9, **more: Any
) -> LocalHost:
    spec = local_spec(folder, {}, Objective(metric, target), seed=7)
    return LocalHost(folder, spec, work=tmp_path / "run", cache=tmp_path / "cache", **more)


def found_by_hand(data: Any, network: nn.Module) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what the network finds in the validation pictures, as an algorithm would while it trains."""
    floats = torch.from_numpy(data.letterboxed(SIZE)[data.validation]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        boxes, scores = network(floats)
    kept = []
    for places, sure in zip(boxes, scores, strict=True):
        rows, kinds = torch.nonzero(sure > 0.01, as_tuple=True)
        chosen = batched_nms(places[rows], sure[rows, kinds], kinds, 0.6)
        kept.append((places[rows[chosen]].numpy(), sure[rows[chosen], kinds[chosen]].numpy(), kinds[chosen].numpy()))
    return kept


def test_a_run_sees_letterboxed_pictures_and_the_regions_of_all_but_test_ones(scenes, tmp_path) -> None:
    data = Context(host_of(scenes, tmp_path), DETECTION).data
    assert data.labels == ("blue", "red") and len(data) == 28
    assert len(data.unlabelled) == 2 and set(data.classes) == {-1}
    assert sorted(np.concatenate([data.train, data.validation, data.test, data.unlabelled])) == list(range(28))
    pixels = data.letterboxed(SIZE)
    assert pixels.shape == (28, SIZE, SIZE, 3) and not pixels.flags.writeable
    assert (pixels[:, 32:] == 114).all()
    assert data.images(SIZE).shape == (28, SIZE, SIZE, 3) and not (data.images(SIZE)[:, 32:] == 114).all()
    regions = data.regions
    assert not set(regions.pictures) & set(data.test) and not set(regions.pictures) & set(data.unlabelled)
    assert set(scenes.regions.pictures) & set(data.test)
    assert (np.diff(regions.pictures) >= 0).all() and regions.boxes.dtype == np.float32
    for picture, kind, box in zip(regions.pictures, regions.classes, regions.boxes, strict=True):
        x0, y0, x1, y1 = (box * SIZE).round().astype(int)
        assert (pixels[picture, y0:y1, x0:x1] == COLOURS[data.labels[kind]]).all()


def test_detections_are_scored_on_the_validation_pictures(scenes, tmp_path) -> None:
    context = Context(host_of(scenes, tmp_path, metric="ap50[red]"), DETECTION)
    found = found_by_hand(context.data, ByColour())
    assert context.score(found) == {"map50": 1.0, "map": 1.0, "score": 1.0}
    lost = [(boxes[kinds == 0], scores[kinds == 0], kinds[kinds == 0]) for boxes, scores, kinds in found]
    assert context.score(lost) == {"map50": 0.5, "map": 0.5, "score": 0.0}
    nothing = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * len(context.data.validation)
    assert context.score(nothing)["map50"] == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found[1:], "one entry for each of"),
        (lambda found: [(boxes[:, :3], scores, kinds) for boxes, scores, kinds in found], "would be right"),
        (lambda found: [(boxes * np.nan, scores, kinds) for boxes, scores, kinds in found], "not a finite number"),
        (lambda found: [(boxes, scores, kinds + 2) for boxes, scores, kinds in found], "none of 2"),
    ],
)
def test_detections_that_cannot_be_are_refused(scenes, tmp_path, change, words: str) -> None:
    context = Context(host_of(scenes, tmp_path), DETECTION)
    with pytest.raises(ValueError, match=words):
        context.score(change(found_by_hand(context.data, ByColour())))


def test_rounds_are_told_by_the_tasks_metrics(scenes, tmp_path) -> None:
    recorder = Recorder()
    context = Context(host_of(scenes, tmp_path, show=recorder), DETECTION)
    context.report_round(
        "train", "epoch 1", **context.score(found_by_hand(context.data, ByColour())), epoch=1, loss=0.5
    )
    (told,) = recorder.reports
    assert told.metrics == {"validation_map50": 1.0, "validation_map": 1.0, "validation_score": 1.0, "loss": 0.5}
    assert told.message == "epoch 1: mAP50 100.00%, mAP 100.00%"
    assert [row["validation_map50"] for row in context.history] == [1.0]


def test_finish_hands_over_a_whole_detector(scenes, tmp_path) -> None:
    host = host_of(scenes, tmp_path)
    network = ByColour()
    data = Context(host, DETECTION).data
    context = Context(host, DETECTION)
    context.finish_detector(
        network, size=SIZE, architecture="by colour", outcome=Outcome.TARGET_REACHED, notes={"a": 1}
    )
    result = host.result
    assert result is not None and result.outcome is Outcome.TARGET_REACHED
    assert set(result.artifacts) == {"model.onnx", "model.safetensors", "model.json", "golden.npz"}
    document = json.loads(Path(result.artifacts["model.json"]).read_text(encoding="utf-8"))
    assert (document["format"], document["task"], document["labels"]) == ("loupe-model/1", "detection", ["blue", "red"])
    assert document["input"] == {
        "height": SIZE, "width": SIZE, "channels": "RGB", "type": "uint8", "fit": "letterbox", "fill": 114,
    }  # fmt: skip
    for name, expected in document["files"].items():
        assert hashlib.sha256(result.artifacts[name].read_bytes()).hexdigest() == expected
    assert 0.1 < document["min_confidence"] == result.report["min_confidence"] < 0.95
    at, shown, wrong = document["operating_points"]["rows"][-1]
    assert (shown >= wrong) and at >= 0.01
    report = result.report
    assert report["validation"]["map50"] == report["test"]["map50"] == 1.0
    assert report["splits"] == {"train": 9, "validation": 9, "test": 8, "unlabelled": 2}
    assert report["parity"]["split"] == "test" and report["parity"]["by_chance"] == 0
    assert report["notes"] == {"a": 1} and report["validation_score"] == 1.0
    assert report["test"]["regions"] == sum(scenes.splits[scenes.regions.pictures] == Split.TEST)
    assert all(torch.equal(load_file(result.artifacts["model.safetensors"])[name], value)
               for name, value in network.state_dict().items())  # fmt: skip
    check_by_onnxruntime(result.artifacts, data)


def check_by_onnxruntime(artifacts: Any, data: Any) -> None:
    """Check the model as a terminal opens it, at several batch sizes, and its golden pictures."""
    session = onnxruntime.InferenceSession(str(artifacts["model.onnx"]))
    (door,) = session.get_inputs()
    assert (door.name, door.type, door.shape[1:]) == ("pictures", "tensor(uint8)", [SIZE, SIZE, 3])
    assert [one.name for one in session.get_outputs()] == ["found_pictures", "boxes", "scores", "classes"]
    assert [one.type for one in session.get_outputs()] == [
        "tensor(int64)",
        "tensor(float)",
        "tensor(float)",
        "tensor(int64)",
    ]
    with np.load(artifacts["golden.npz"], allow_pickle=False) as golden:
        pictures, *expected = (golden[name] for name in ("pictures", "found_pictures", "boxes", "scores", "classes"))
    assert pictures.shape == (8, SIZE, SIZE, 3) and set(expected[3]) == {0, 1}
    for mine, theirs in zip(session.run(None, {"pictures": pictures}), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    single = [session.run(None, {"pictures": each[None]}) for each in pictures]
    np.testing.assert_allclose(np.concatenate([each[1] for each in single]), expected[1], atol=1e-6)
    empty = session.run(None, {"pictures": np.full((2, SIZE, SIZE, 3), 114, np.uint8)})
    assert [len(each) for each in empty] == [0, 0, 0, 0]


def rows_of(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes.reshape(len(boxes), -1), scores.reshape(len(scores), -1)], 1).astype(np.float32)


def selection(anchors: int, classes: int) -> FoundBy:
    """Return a model whose pictures are rows of numbers already, but for the selection behind it."""
    width = anchors * (4 + classes)
    node = onnx.helper.make_node("Identity", ["pictures"], ["rows"])
    graph = onnx.helper.make_graph(
        [node],
        "rows",
        [onnx.helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, ["batch", width])],
        [onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["batch", width])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    whole = append_selection(model, anchors, classes)
    onnx.checker.check_model(whole)
    return FoundBy(whole, threads=1)


def test_the_onnx_model_selects_boxes_as_torchvision_does() -> None:
    """Overlapping boxes of two classes in a batch, far more of them than a picture may have."""
    rng = np.random.default_rng(0)
    low = rng.random((3, 400, 2)) * 0.8
    rows = rows_of(np.concatenate([low, low + 0.02 + 0.2 * rng.random((3, 400, 2))], 2), rng.random((3, 400, 2)))
    rows[2, 1600:] = 0.005
    mine, expected = selection(400, 2)(rows), select(rows, 400, 2)
    assert np.bincount(expected.pictures).tolist() == [MAX_DETECTIONS, MAX_DETECTIONS]
    assert parity.compare(expected, mine, 3) == {"boxes": 200, "by_chance": 0}
    np.testing.assert_array_equal(mine.pictures, expected.pictures)
    np.testing.assert_allclose(mine.boxes, expected.boxes)
    assert len(selection(400, 2)(rows[2:])) == 0


def regions(*rows: tuple[int, int, Sequence[float], float]) -> Regions:
    pictures, classes, boxes, scores = zip(*rows, strict=True)
    kinds = (np.int64, np.int64, np.float32, np.float32)
    return Regions(
        *(np.array(each, kind) for each, kind in zip((pictures, classes, boxes, scores), kinds, strict=True))
    )


BOX, MOVED, APART = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.501), (0.6, 0.6, 0.9, 0.9)


@pytest.mark.parametrize(
    ("got", "chance"),
    [
        ([(0, 0, BOX, 0.9), (0, 1, APART, 0.5)], 0),
        ([(0, 0, MOVED, 0.9005), (0, 1, APART, 0.4999)], 0),
        ([(0, 0, BOX, 0.9), (0, 1, APART, 0.5), (0, 0, APART, LEAST_SCORE + 5e-4)], 1),
        ([(0, 0, (0.1, 0.1, 0.49, 0.51), 0.8999), (0, 1, APART, 0.5)], 2),
        ([(0, 0, BOX, 0.9)], None),
        ([(0, 1, BOX, 0.9), (0, 1, APART, 0.5)], None),
        ([(0, 0, (0.1, 0.1, 0.45, 0.45), 0.8), (0, 1, APART, 0.5)], None),
        ([(0, 0, BOX, 0.8), (0, 1, APART, 0.5)], None),
        ([(0, 0, BOX, 0.9), (0, 1, APART, 0.5), (0, 0, APART, 0.3)], None),
    ],
)
def test_boxes_are_compared_one_by_one(got, chance) -> None:
    """What differs by rounding, or is there by chance, is none; a lost, new, moved or less sure box is a mismatch."""
    expected = regions((0, 0, BOX, 0.9), (0, 1, APART, 0.5))
    if chance is not None:
        assert parity.compare(expected, regions(*got), 1) == {"boxes": 2, "by_chance": chance}
    else:
        with pytest.raises(ExportMismatch, match="alone finds"):
            parity.compare(expected, regions(*got), 1)


@pytest.mark.parametrize("wrong", ["numbers", "selection"])
def test_an_onnx_model_that_finds_something_else_fails_the_run(scenes, tmp_path, monkeypatch, wrong: str) -> None:
    host = host_of(scenes, tmp_path)
    original, append = finishing.export_flat, finishing.append_selection
    if wrong == "numbers":
        monkeypatch.setattr(finishing, "export_flat", lambda network, how: original(ByColour(12.0), how))
    else:
        monkeypatch.setattr(finishing, "append_selection", lambda model, *shape: reversed_boxes(append(model, *shape)))
    with pytest.raises(ExportMismatch):
        Context(host, DETECTION).finish_detector(ByColour(), size=SIZE, architecture="x", outcome=Outcome.PLATEAU)
    assert host.result is None


def reversed_boxes(model: Any) -> Any:
    """Let a model give the boxes' corners in another order."""
    last = next(node for node in model.graph.node if "boxes" in node.output)
    last.output[0] = "in_order"
    order = onnx.numpy_helper.from_array(np.array([1, 0, 3, 2]), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["in_order", "order"], ["boxes"], axis=1))
    return model


class OfTwo(ByColour):
    """Answers for two pictures, whatever is asked: len() is no part of a trace."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, scores = super().forward(pictures)
        return self.cells.repeat(len(pictures), 1, 1), scores


def test_a_network_that_can_be_exported_for_one_number_of_pictures_only_fails_the_run(scenes, tmp_path) -> None:
    with pytest.raises(ExportMismatch, match="one number of pictures"):
        Context(host_of(scenes, tmp_path), DETECTION).finish_detector(
            OfTwo(), size=SIZE, architecture="x", outcome=Outcome.PLATEAU
        )


class Nowhere(ByColour):
    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, scores = super().forward(pictures)
        return boxes + torch.where(scores[..., :1] > 0.5, torch.nan, 0.0), scores


def test_boxes_that_are_no_numbers_fail_the_run(scenes, tmp_path) -> None:
    with pytest.raises(ExportMismatch, match="nan"):
        Context(host_of(scenes, tmp_path), DETECTION).finish_detector(
            Nowhere(), size=SIZE, architecture="x", outcome=Outcome.PLATEAU
        )


class Answers(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, pictures: torch.Tensor) -> Any:
        return self.answer(len(pictures))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n: torch.zeros(n, 5, 4), "answers with Tensor"),
        (lambda n: (torch.zeros(n, 5, 4), torch.zeros(n, 5, 3)), r"scores \[N, A, 2\] would be right"),
        (lambda n: (torch.zeros(n, 5), torch.zeros(n, 5, 2)), r"boxes \[N, A, 4\]"),
        (lambda n: (torch.zeros(n, 5, 4), torch.full((n, 5, 2), -3.0)), "a sigmoid or softmax"),
    ],
)
def test_a_network_that_is_no_detector_is_named(scenes, tmp_path, answer, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Context(host_of(scenes, tmp_path), DETECTION).finish_detector(
            Answers(answer), size=SIZE, architecture="x", outcome=Outcome.PLATEAU
        )


def test_a_classifiers_end_is_not_for_a_detectors_pictures(scenes, tmp_path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE * 3, 2))
    with pytest.raises(ValueError, match="images of classification"):
        Context(host_of(scenes, tmp_path), DETECTION).finish(
            network, size=SIZE, architecture="x", outcome=Outcome.PLATEAU
        )


def test_each_annotated_box_is_found_once_by_the_surest() -> None:
    truth = regions((0, 0, BOX, 0), (0, 0, APART, 0), (1, 1, BOX, 0))
    found = regions((0, 0, BOX, 0.6), (0, 0, MOVED, 0.7), (0, 1, APART, 0.9), (1, 1, (0.1, 0.1, 0.3, 0.31), 0.8))
    assert right_ones(truth, found).tolist() == [False, True, False, False]


def test_the_threshold_has_the_greatest_mean_f1_and_lies_between_two_boxes() -> None:
    truth = regions((0, 0, BOX, 0), (1, 0, BOX, 0), (0, 1, APART, 0), (1, 1, APART, 0))
    found = regions(
        (0, 0, BOX, 0.9), (0, 1, APART, 0.8), (0, 0, APART, 0.75), (1, 1, APART, 0.7), (1, 0, BOX, 0.6),
        (1, 1, BOX, 0.2), (0, 1, BOX, 0.1),
    )  # fmt: skip
    right = right_ones(truth, found)
    assert right.tolist() == [True, True, False, True, True, False, False]
    assert threshold(truth, found, right, 3) == pytest.approx(0.4)
    assert threshold(truth, found, np.zeros(7, bool), 3) == 0.5


@pytest.mark.parametrize("bare", [Split.TRAIN, Split.VALIDATION])
def test_pictures_without_boxes_to_learn_from_are_refused(scenes, tmp_path, bare: Split) -> None:
    kept = scenes.regions.where(scenes.splits[scenes.regions.pictures] != bare)
    folder = PictureFolder(
        scenes.root, scenes.labels, scenes.paths, scenes.digests, scenes.classes, scenes.splits, kept
    )
    with pytest.raises(UnusableData, match=r"no boxes in its (training|validation) pictures"):
        Context(host_of(folder, tmp_path), DETECTION)


COCO = {
    "categories": [{"id": 7, "name": "dent"}, {"id": 9, "name": "crack"}],
    "images": [
        {"id": 1, "file_name": "train/a.png"},
        {"id": 2, "file_name": "val/b.png"},
        {"id": 3, "file_name": "test/c.png"},
    ],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 10]},
        {"image_id": 3, "category_id": 9, "bbox": [0, 0, 40, 20]},
    ],
}  # fmt: skip


def coco_folder(root: Path, document: Any = COCO) -> Path:
    for number, name in enumerate(("train/a.png", "val/b.png", "test/c.png", "others/d.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (number, 0, 0)).save(root / name)
    (root / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def test_a_coco_file_is_read_with_what_it_does_not_name(tmp_path) -> None:
    folder = read_coco(coco_folder(tmp_path))
    by_name = {path.name: row for row, path in enumerate(folder.paths)}
    assert [folder.splits[by_name[f"{name}.png"]] for name in "abcd"] == [0, 1, 2, Split.UNLABELLED]
    assert folder.labels == ["crack", "dent"]
    there = {
        int(picture): box.tolist() for picture, box in zip(folder.regions.pictures, folder.regions.boxes, strict=True)
    }
    assert there == {by_name["a.png"]: [0.25, 0.125, 0.75, 0.375], by_name["c.png"]: [0.0, 0.0, 1.0, 0.5]}
    assert len(folder.index().regions) == 1


@pytest.mark.parametrize("bbox", [[10, 5, 20], [10, 5, -20, 10], [10, 5, 200, 10], "box"])
def test_a_coco_file_with_an_impossible_box_is_refused(tmp_path, bbox: object) -> None:
    document = {**COCO, "annotations": [{"image_id": 1, "category_id": 7, "bbox": bbox}]}
    with pytest.raises(BadFolder):
        read_coco(coco_folder(tmp_path, document))


def test_the_command_line_trains_on_a_coco_file(scenes, tmp_path) -> None:
    """The split is drawn from the pictures' digests, and the last lines have the figures of both splits."""
    image, root = written_image(tmp_path / "image"), tmp_path / "pictures"
    root.mkdir()
    for path in scenes.paths:
        (root / path.name).write_bytes(path.read_bytes())
    regions = zip(scenes.regions.pictures.tolist(), scenes.regions.classes.tolist(), scenes.regions.boxes, strict=True)
    corners = [(row, kind, (box * SIZE).round().astype(int).tolist()) for row, kind, box in regions]
    document = {
        "categories": [{"id": number, "name": label} for number, label in enumerate(scenes.labels)],
        "images": [{"id": row, "file_name": path.name} for row, path in enumerate(scenes.paths)],
        "annotations": [
            {"image_id": row, "category_id": kind, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for row, kind, (x0, y0, x1, y1) in corners
        ],
    }
    (root / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    words = ["run", str(image), "--data", str(root), "--target", "map50=0.9", "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert "validation: mAP50 100.00%, mAP 100.00%" in ended.output and "test: mAP50 100.00%" in ended.output
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["splits"]["unlabelled"] == 0
    assert (tmp_path / "out" / "model.onnx").is_file()


IMAGE = """
import numpy as np
from loupe.algorithm import Context, Outcome

def train(context: Context) -> None:
    from tests.algorithms.test_detection import ByColour, found_by_hand
    score = context.score(found_by_hand(context.data, ByColour()))
    context.report_round("train", "epoch 1", epoch=1, **score)
    outcome = Outcome.TARGET_REACHED if context.reaches_target(score["score"]) else Outcome.PLATEAU
    context.finish_detector(ByColour(), size=64, architecture="by colour", outcome=outcome)
"""
MANIFEST = """
name = "colour"
version = "1"
task = "detection"
entry = "main:train"
licence = "MIT"
summary = "For tests."
"""


def written_image(folder: Path) -> Path:
    """Write an image of detection that trains nothing."""
    folder.mkdir()
    (folder / "algorithm.toml").write_text(MANIFEST)
    (folder / "main.py").write_text(IMAGE)
    return folder


def test_an_image_of_the_task_runs_from_its_manifest(scenes, tmp_path) -> None:
    host = host_of(scenes, tmp_path, metric="map", target=0.9)
    run_image(written_image(tmp_path / "image"), host)
    assert host.result.outcome is Outcome.TARGET_REACHED
    assert host.result.report["objective"]["metric"] == "map"
    with pytest.raises(RuntimeError, match="once"):
        host.reveal_test_regions(scenes.regions)
