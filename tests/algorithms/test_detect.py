"""The image `detect`: a detector that finds what it was shown, exports to ONNX, and goes on where it was cut."""

from __future__ import annotations

import copy
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map
from torchvision.ops import box_iou

from loupe.algorithm import Outcome
from loupe.algorithm.image import load_entry
from loupe.tasks.objective import Objective
from tests.algorithms.conftest import IMAGES, Cut
from tests.algorithms.other_device import OtherDevice

SIZE = 64
VARIANTS = ["light", "strong"]
Regions = list[tuple[int, int, tuple[float, float, float, float]]]
train: Callable[[Any], None] = load_entry(IMAGES / "detect", "main:train")


def part_of_detect(name: str) -> ModuleType:
    """Return a module of the image."""
    return sys.modules[f"{train.__module__.rpartition('.')[0]}.{name}"]


class Squares:
    """Grey pictures of noise, each with a bright or a dark square, in two thirds; data as an algorithm sees it.

    regions: (picture, class, box) instead of the squares. classes: of them.
    """

    def __init__(self, pictures: int = 24, classes: int = 2, regions: Regions | None = None) -> None:
        rng = np.random.default_rng(0)
        self.labels = ("bright", "dark")[:classes]
        self.pixels = rng.normal(114, 8, (pictures, SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
        self.train, self.validation, self.test = (np.arange(pictures)[start::3] for start in range(3))
        self.unlabelled = np.zeros(0, np.int64)
        found: Regions = []
        for picture in range(pictures):
            kind, side = int(rng.integers(classes)), int(rng.integers(16, 32))
            left, top = rng.integers(0, SIZE - side, 2)
            self.pixels[picture, top : top + side, left : left + side] = (230, 20)[kind]
            box = (left / SIZE, top / SIZE, (left + side) / SIZE, (top + side) / SIZE)
            found.append((picture, kind, box))
        known = [each for each in (found if regions is None else regions) if each[0] not in self.test]
        self.regions = SimpleNamespace(
            pictures=np.array([each[0] for each in known], np.int64),
            classes=np.array([each[1] for each in known], np.int64),
            boxes=np.array([each[2] for each in known], np.float32).reshape(-1, 4),
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def letterboxed(self, size: int) -> np.ndarray:
        """Return uint8 [N, size, size, 3]."""
        assert size % SIZE == 0
        times = size // SIZE
        return self.pixels.repeat(times, axis=1).repeat(times, axis=2)


@dataclass
class FakeContext:
    """What an algorithm gets from Loupe, as far as `detect` asks for it."""

    resumes = False

    data: Squares
    parameters: Mapping[str, Any]
    seconds: float = float("inf")
    max_epochs: int | None = None
    objective: Objective = field(default_factory=lambda: Objective("map50", 1.01))
    seed: int = 3
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cut_after: int | None = None
    kept: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        torch.set_num_threads(self.threads)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def seconds_left(self) -> float:
        return self.seconds - self.elapsed

    def report_due(self) -> bool:
        return False

    def stop_if_asked(self) -> None:
        pass

    def report(self, phase: str, *, message: str = "", epoch: int = 0, **figures: float) -> None:
        if "validation_map50" in figures:
            self.epochs.append({"phase": phase, "message": message, "epoch": epoch, **figures})

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(tree_map(lambda each: each.cpu() if isinstance(each, torch.Tensor) else each, dict(state)), buffer)
        buffer.seek(0)
        self.kept = torch.load(buffer)
        if self.epochs[-1]["epoch"] == self.cut_after:
            raise Cut

    def restore(self) -> dict[str, Any] | None:
        return self.kept

    def reaches_target(self, score: float) -> bool:
        return self.objective.reached_by(score)

    def score(self, detections: Sequence[Any]) -> dict[str, float]:
        """Return the mean over the true boxes of the largest overlap with a box of their class among the first ten."""
        regions, best = self.data.regions, []
        for picture, (boxes, scores, classes) in zip(self.data.validation, detections, strict=True):
            assert len(boxes) == len(scores) == len(classes) <= 100
            for row in np.flatnonzero(regions.pictures == picture):
                same = boxes[classes == regions.classes[row]][:10]
                overlaps = box_iou(torch.from_numpy(regions.boxes[row : row + 1]), torch.from_numpy(same))
                best.append(float(overlaps.max()) if len(same) else 0.0)
        found = float(np.mean(best))
        return {"map50": found, "map": found, "score": found}

    def finish_detector(self, network: nn.Module, **named: Any) -> None:
        self.finished = {"network": network, **named}


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an epoch be two steps, and every one leave a checkpoint."""
    monkeypatch.setattr(part_of_detect("training"), "SHORTEST_EPOCH", 2)
    monkeypatch.setattr(part_of_detect("training"), "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(part_of_detect("training"), "CHECKPOINT_SHARE", 1.0)


def settings(**changed: Any) -> dict[str, Any]:
    """Return the parameters of a short run."""
    short = {"network": "auto", "size": SIZE, "epochs": 2, "batch_size": 8, "learning_rate": 0.002}
    return {**short, "flips": "both", "zoom": 1.2, **changed}


def test_it_finds_what_it_was_shown() -> None:
    context = FakeContext(Squares(), settings(epochs=14), objective=Objective("map50", 0.75))
    train(context)
    assert context.finished["outcome"] is Outcome.TARGET_REACHED
    assert context.epochs[0]["message"].startswith("epoch 1: mAP50 ")
    assert set(context.epochs[0]) > {"loss", "pictures_per_second", "validation_map50", "validation_map"}
    # The network that is handed over answers as the one that was measured.
    data, detections = context.data, part_of_detect("detections")
    found = detections.detect(context.finished["network"], data.letterboxed(SIZE), data.validation, torch.device("cpu"))
    assert context.score(found)["score"] == pytest.approx(context.epochs[-1]["validation_map50"], abs=0.02)


@pytest.mark.usefixtures("short_epochs")
def test_the_same_seed_gives_the_same_detector_also_after_a_cut() -> None:
    whole, cut = (FakeContext(Squares(), settings(), cut_after=after) for after in (None, 1))
    train(whole)
    with pytest.raises(Cut):
        train(cut)
    resumed = FakeContext(Squares(), settings(), kept=cut.kept)
    train(resumed)
    assert [each["epoch"] for each in resumed.epochs] == [2]
    ours, theirs = (run.finished["network"].state_dict() for run in (whole, resumed))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_exports_to_onnx_for_any_number_of_pictures(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = part_of_detect("variants").VARIANTS[variant].build(SIZE, 3).eval()
    plain, written = part_of_detect("network").ready_to_export(trained), tmp_path / "detector.onnx"
    names = ["pictures", "boxes", "scores"]
    with torch.no_grad():
        torch.onnx.export(
            plain,
            (torch.zeros(2, 3, SIZE, SIZE),),
            written,
            dynamo=False,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=17,
        )
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        pictures = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            boxes, scores = trained(pictures)
        assert boxes.shape == (count, 84, 4) and scores.shape == (count, 84, 3)
        assert float(boxes.min()) >= 0 and float(boxes.max()) <= 1
        for expected, got in zip((boxes, scores), session.run(None, {"pictures": pictures.numpy()}), strict=True):
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trunk_answers_like_the_network_that_it_is_made_of(variant: str) -> None:
    """Its batch norms keep their statistics; in the light one they are folded, and the first blocks go in chunks."""
    import timm

    trunk, backbone = part_of_detect("trunk"), part_of_detect("variants").VARIANTS[variant].backbone
    made = part_of_detect("variants").VARIANTS[variant].trunk(backbone)
    whole = timm.create_model(backbone.name, features_only=True, out_indices=(2, 3, 4)).eval()
    given = torch.load(trunk._weights(backbone.package), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), given.values(), strict=False)))
    pictures = torch.randn(9, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(made.train()(pictures), whole(pictures), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_follow_their_pictures(seed: int) -> None:
    augment = part_of_detect("augment")
    pictures = torch.full((8, 3, 100, 100), 0.2)
    pictures[:, :, 20:40, 30:80] = 0.9
    truth = [(torch.tensor([[0.3, 0.2, 0.8, 0.4]]), torch.tensor([1]))] * 8
    how = augment.Changes(zoom=1.5, brightness=0.0, contrast=0.0)
    changed, moved = augment.change(pictures, truth, how, torch.Generator().manual_seed(seed))
    for picture, (boxes, classes) in zip(changed, moved, strict=True):
        rows, columns = (picture[0] > 0.6).nonzero(as_tuple=True)
        if len(boxes):
            assert classes.tolist() == [1]
            seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 100
            torch.testing.assert_close(boxes[0], seen, atol=0.015, rtol=0)


def test_a_box_that_is_all_but_cut_off_is_left_out() -> None:
    augment = part_of_detect("augment")
    moves = augment._Moves(torch.ones(1, 2), torch.tensor([2.0]), torch.tensor([[-1.0, 0.0]]))
    boxes = torch.tensor([[0.1, 0.1, 0.55, 0.3], [0.1, 0.1, 0.9, 0.3]])
    cut, classes = augment._moved(boxes, torch.tensor([0, 1]), moves, 0)
    assert classes.tolist() == [1]
    torch.testing.assert_close(cut, torch.tensor([[0.0, 0.2, 0.8, 0.6]]))


def test_every_box_has_points_that_learn_it() -> None:
    """Also one of a tenth of a pixel, one as wide as the picture, and each of a thousand."""
    targets = part_of_detect("targets")
    points = part_of_detect("points").points_of(256)
    predicted = torch.cat([points.centres - points.strides[:, None], points.centres + points.strides[:, None]], dim=1)
    scores = torch.full((len(predicted), 2), 0.01)

    def assign(boxes: torch.Tensor) -> Any:
        return targets.assign(scores, predicted, points, boxes, torch.arange(len(boxes)) % 2)

    few = torch.tensor([[100.0, 100.0, 100.1, 100.1], [0.0, 0.0, 256.0, 256.0]])
    assigned = assign(few)
    assert {tuple(box) for box in assigned.boxes.tolist()} == {tuple(box) for box in few.tolist()}
    assert assigned.scores.shape == scores.shape and bool(((assigned.scores >= 0) & (assigned.scores <= 1)).all())
    corners = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 200
    many = assign(torch.cat([corners, corners + 20], dim=1))
    assert bool(torch.isfinite(many.weights).all()) and len(many.learning) > 200
    none = assign(torch.zeros(0, 4))
    assert float(none.scores.sum()) == 0 and none.boxes.shape == (0, 4)


THREE: Regions = [(0, 0, (0.1, 0.1, 0.9, 0.9)), (1, 0, (0.2, 0.2, 0.21, 0.21))]
CROWD: Regions = [(0, 0, (at / 2000, at / 2000, at / 2000 + 0.1, at / 2000 + 0.1)) for at in range(1000)]


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize(
    "data",
    [
        Squares(pictures=3, classes=1, regions=THREE),
        Squares(pictures=12, classes=1, regions=THREE),
        Squares(pictures=3, classes=1, regions=CROWD + THREE),
        Squares(pictures=3, classes=1, regions=[(0, 0, (0.0, 0.0, 1.0, 1.0)), (1, 0, (0.0, 0.0, 1.0, 1.0))]),
    ],
    ids=["three pictures", "background", "a thousand boxes", "picture-wide"],
)
def test_it_bears_unusual_data(data: Squares) -> None:
    context = FakeContext(data, settings(epochs=1))
    train(context)
    assert context.finished["outcome"] is Outcome.PLATEAU
    assert all(bool(torch.isfinite(value).all()) for value in context.finished["network"].state_dict().values())


@pytest.mark.usefixtures("short_epochs")
def test_a_budget_ends_training_with_the_best_so_far() -> None:
    context = FakeContext(Squares(), settings(epochs=1000), seconds=6)
    train(context)
    assert context.finished["outcome"] is Outcome.BUDGET
    assert context.elapsed < 12


def test_the_size_follows_the_smallest_boxes_and_the_budget() -> None:
    variants = part_of_detect("variants")

    def choose_size(context: FakeContext, variant: Any = variants.LIGHT) -> int:
        size: int = part_of_detect("sizes").choose_size(context, variant)
        return size

    small: Regions = [(0, 0, (0.1, 0.1, 0.14, 0.14)), (1, 0, (0.5, 0.5, 0.54, 0.54))]
    few, many = Squares(pictures=3, regions=small), Squares(pictures=300, regions=small)
    assert choose_size(FakeContext(Squares(), settings(size=0))) == 160
    assert choose_size(FakeContext(few, settings(size=0))) == 512
    assert choose_size(FakeContext(many, settings(size=0), seconds=30)) < 512
    assert choose_size(FakeContext(few, settings(size=200))) == 224
    gpu = torch.device("cuda")
    assert choose_size(FakeContext(Squares(), settings(size=0), device=gpu), variants.STRONG) == 320
    assert choose_size(FakeContext(many, settings(size=0), device=gpu, seconds=600), variants.STRONG) == 512
    assert 320 <= choose_size(FakeContext(many, settings(size=0), device=gpu, seconds=30), variants.STRONG) < 512


def test_a_gpu_gets_the_strong_network_unless_another_is_asked_for() -> None:
    variants = part_of_detect("variants")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for asked, device, chosen in [
        ("auto", cpu, variants.LIGHT),
        ("auto", gpu, variants.STRONG),
        ("light", gpu, variants.LIGHT),
        ("strong", cpu, variants.STRONG),
    ]:
        assert variants.choose_variant(asked, device) is chosen


@pytest.mark.attack  # by time: what it is made for has no place on a CPU
@pytest.mark.usefixtures("short_epochs")
def test_the_strong_network_learns() -> None:
    context = FakeContext(Squares(), settings(network="strong", epochs=5, batch_size=4, learning_rate=0.0))
    train(context)
    assert context.epochs[-1]["loss"] < 0.8 * context.epochs[0]["loss"]
    assert context.finished["architecture"].startswith("tf_efficientnet_lite2")
    assert context.finished["notes"]["network"] == "strong"


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> type[OtherDevice]:
    """Let the image compute in float32 on a device that refuses tensors of another one, as GPUs do."""
    trunk, optimizer = part_of_detect("trunk"), sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(trunk, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    detect = part_of_detect("detections").detect.__wrapped__
    monkeypatch.setattr(part_of_detect("training"), "detect", torch.no_grad()(detect))
    # Networks are put together on the device "meta", which has no values, and so is the other one.
    made = {each: trunk.pretrained(each) for each in (trunk.LITE0, trunk.LITE2)}
    monkeypatch.setattr(trunk, "pretrained", lambda backbone: copy.deepcopy(made[backbone]))
    # Modules put other values into the parameters that they have, which a tensor's class hears nothing of.
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    return OtherDevice


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize("variant", ["light", pytest.param("strong", marks=pytest.mark.attack)])
def test_everything_is_on_the_device_that_the_run_computes_on(variant: str, other_device: type[OtherDevice]) -> None:
    """A device that refuses to mix gives the same network as the CPU, also after a cut."""
    asked, device = settings(network=variant, batch_size=4), other_device.DEVICE
    here, cut = FakeContext(Squares(), asked), FakeContext(Squares(), asked, device=device, cut_after=1)
    train(here)
    with other_device():
        with pytest.raises(Cut):
            train(cut)
        there = FakeContext(Squares(), asked, device=device, kept=cut.kept)
        train(there)
    assert there.epochs[-1]["loss"] == pytest.approx(here.epochs[-1]["loss"], rel=1e-3)
    ours, theirs = (run.finished["network"].state_dict() for run in (here, there))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value)
