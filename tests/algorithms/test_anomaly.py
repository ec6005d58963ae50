"""The image `anomaly`: it learns from good pictures alone, however few, many or alike they are."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import nn

from loupe.algorithm.anomaly.export import InspectedBy, answers_of_torch, export_inspector, map_side
from loupe.algorithm.anomaly.package import check_parity
from loupe.algorithm.dataset import UnusableData
from loupe.algorithm.export import Preprocessing
from loupe.algorithm.host import Outcome
from loupe.algorithm.image import load_entry
from loupe.algorithm.local import PictureFolder, read_folder
from loupe.algorithm.package import ExportMismatch
from loupe.tasks import TASKS
from loupe.terminal.inspector import Inspector
from tests.algorithms.conftest import IMAGES, Bench

SMALL = {"size": 64, "patches": 100}


def part_of_image(name: str) -> ModuleType:
    """Return a module of the image."""
    package = load_entry(IMAGES / "anomaly", "main:train").__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


def folder_of(root: Path, rows: Sequence[tuple[str, str, np.ndarray]]) -> PictureFolder:
    """Write pictures with their labels and splits; equal ones are files of their own."""
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for number, (label, split, pixels) in enumerate(rows):
            note = PngImagePlugin.PngInfo()
            note.add_text("number", str(number))
            Image.fromarray(pixels).save(root / f"{number}.png", pnginfo=note)
            writer.writerow((f"{number}.png", label, split))
    return read_folder(root)


def test_a_model_of_good_pictures_finds_others(bench: Bench, textures: PictureFolder) -> None:
    """Which of the classes is good is the job's to say; the package answers alike on a terminal, without torch."""
    asked = {**SMALL, "good": "stripes", "false_alarms": 0.25}
    result = bench.run("anomaly", textures, target=0.97, metric="auroc", parameters=asked)
    report = result.report
    assert result.outcome is Outcome.TARGET_REACHED and report["validation_score"] >= 0.97
    assert report["test"]["auroc"] >= 0.97 and report["test"]["good"] == "stripes"
    assert report["test"]["pictures"] - report["test"]["good_pictures"] == 8
    figures = TASKS["anomaly"].figures
    assert figures.model_validate(report["validation"]) and figures.model_validate(report["test"])
    assert report["parity"]["pictures"] == report["splits"]["test"] == 12
    document = json.loads(result.artifacts["model.json"].read_text(encoding="utf-8"))
    told = document["inspection"]
    assert document["task"] == "anomaly" and told["good"] == "stripes" and told["false_alarms"] == 0.25
    assert told["calibration"]["pictures"] == len(told["calibration"]["scores"]) == 4
    assert told["threshold"] == max(told["calibration"]["scores"])
    inspector = Inspector(result.artifacts["model.json"].parent)
    inspector.check_golden()
    assert inspector.threshold.value == report["threshold"]["value"] and inspector.threshold.lacking == 0
    answers = list(inspector.inspect(textures.paths))
    stripes = textures.classes == textures.labels.index("stripes")
    assert np.mean([one.bad for one in np.array(answers, object)[~stripes]]) > 0.9
    assert np.mean([one.bad for one in np.array(answers, object)[stripes]]) < 0.25


def test_three_pictures_of_one_class_that_are_all_the_same_are_enough(bench: Bench, tmp_path: Path) -> None:
    """They are of one pixel. Nothing can be measured, so nothing is reached; another colour is bad all the same."""
    grey = np.full((1, 1, 3), 128, np.uint8)
    (root := tmp_path / "pictures").mkdir()
    folder = folder_of(root, [("ok", split, grey) for split in ("train", "train", "validation")])
    result = bench.run("anomaly", folder, target=0.9, metric="auroc", parameters=SMALL)
    assert result.outcome is Outcome.PLATEAU and result.report["validation"]["auroc"] is None
    assert result.report["test"] is None and result.report["validation"]["false_alarms"] == 0
    assert result.report["threshold"]["lacking"] == 98
    inspector = Inspector(result.artifacts["model.json"].parent)
    inspector.check_golden()
    shown = [root / "0.png", tmp_path / "red.png"]
    Image.fromarray(np.array([[[255, 0, 0]]], np.uint8)).save(shown[1])
    same, other = inspector.inspect(shown)
    assert not same.bad and other.bad
    again = inspector.scores(np.full((7, 64, 64, 3), 128, np.uint8))[0]
    assert (again <= inspector.threshold.value).all(), "in a batch of another size as well"


@pytest.mark.parametrize(
    ("good", "splits", "said"),
    [
        ("fine", ("train", "validation"), "there is no class 'fine'; name the class of the good parts: crack, good"),
        ("", ("validation", "validation"), "no training pictures of 'good'"),
        ("", ("train", "train"), "no validation pictures of 'good'"),
    ],
)
def test_what_good_pictures_lack_is_told(
    bench: Bench, tmp_path: Path, good: str, splits: tuple[str, str], said: str
) -> None:
    rng = np.random.default_rng(0)
    (root := tmp_path / "pictures").mkdir()
    rows = [("good", split, rng.integers(0, 256, (8, 8, 3), np.uint8)) for split in splits]
    rows += [("crack", split, rng.integers(0, 256, (8, 8, 3), np.uint8)) for split in ("train", "validation")]
    with pytest.raises(UnusableData, match=said):
        bench.run("anomaly", folder_of(root, rows), target=0.9, metric="auroc", parameters={**SMALL, "good": good})


def test_a_coreset_covers_what_is_rare() -> None:
    """Of many patches of one kind and one of another, both kinds are kept; the same seed keeps the same ones."""
    coreset = part_of_image("coreset")
    patches = torch.randn(5000, 80, generator=torch.Generator().manual_seed(0)) * 0.01
    patches[1234] = 5.0
    chosen = coreset.greedy_coreset(patches, 20, torch.Generator().manual_seed(1))
    assert len(chosen) == len(set(chosen.tolist())) == 20 and 1234 in chosen
    assert torch.equal(chosen, coreset.greedy_coreset(patches, 20, torch.Generator().manual_seed(1)))


def test_a_coreset_of_few_or_equal_patches_is_no_larger_than_they_are() -> None:
    coreset, generator = part_of_image("coreset"), torch.Generator().manual_seed(0)
    assert coreset.greedy_coreset(torch.randn(5, 80), 20, generator).tolist() == [0, 1, 2, 3, 4]
    assert len(coreset.greedy_coreset(torch.ones(5000, 80), 20, generator)) == 1


def test_the_time_of_a_choice_is_bounded() -> None:
    """A thousand pictures have as many candidates as ten thousand."""
    coreset = part_of_image("coreset")
    chosen = coreset.greedy_coreset(torch.rand(300_000, 4), 5, torch.Generator().manual_seed(0))
    drawn = torch.randperm(300_000, generator=torch.Generator().manual_seed(0))[: coreset.CANDIDATES]
    assert len(chosen) == 5 and torch.isin(chosen, drawn).all()


def test_a_heat_map_is_a_mean_of_what_is_around() -> None:
    weights = part_of_image("memory").finer(8)
    assert weights.shape == (32, 8) and torch.allclose(weights.sum(dim=1), torch.ones(32))
    heat = torch.zeros(8, 8)
    heat[2, 5] = 1.0
    fine = weights @ heat @ weights.T
    row, column = divmod(int(fine.argmax()), 32)
    assert row // 4 == 2 and column // 4 == 5


@pytest.mark.parametrize("size", [33, 100])
def test_pictures_of_any_side_are_compared(size: int) -> None:
    """Also where the blocks' grids do not fit into each other; a seed gives the same memory."""
    trunk = part_of_image("trunk").pretrained("tf_efficientnet_lite0")
    memory = part_of_image("memory")
    pictures = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        around, wholes = trunk(pictures)
    grid = around.shape[-1]
    patches = around.flatten(2).transpose(1, 2)
    kept = [memory.remember(patches, wholes, trunk.depths, 10, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(kept[0].patches, kept[1].patches) and len(kept[0].patches) == min(10, 4 * grid**2)
    with torch.inference_mode():
        answer = memory.Inspector(trunk, kept[0], grid)(pictures)
    assert answer.shape == (4, 1 + (4 * grid) ** 2) and answer.isfinite().all()


def test_a_small_flaw_is_seen_where_it_is(bench: Bench, tmp_path: Path) -> None:
    """A dark spot of a few pixels on a part that else is as the others are."""
    rng = np.random.default_rng(0)
    (root := tmp_path / "pictures").mkdir()

    def part(flawed: bool) -> np.ndarray:
        rows, columns = np.mgrid[:128, :128] - 64 + rng.integers(-2, 3)
        grey = np.where(np.hypot(rows, columns) < 48, 150.0, 60.0) + rng.normal(0, 3, (128, 128))
        if flawed:
            grey[40:46, 80:86] -= 70
        return grey.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)

    counts = {"train": (20, 0), "validation": (10, 10), "test": (10, 10)}
    rows = [("good", split, part(False)) for split, (count, _) in counts.items() for _ in range(count)]
    rows += [("spot", split, part(True)) for split, (_, count) in counts.items() for _ in range(count)]
    folder = folder_of(root, rows)
    result = bench.run("anomaly", folder, target=0.9, metric="auroc", parameters={"false_alarms": 0.1})
    assert result.report["test"]["auroc"] == 1.0
    inspector = Inspector(result.artifacts["model.json"].parent)
    pictures = np.stack([part(True) for _ in range(4)])
    scores, maps = inspector.scores(pictures)
    assert (scores > inspector.threshold.value).all()
    for heat in maps:
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        assert abs(row / heat.shape[0] - 43 / 128) < 0.15 and abs(column / heat.shape[1] - 83 / 128) < 0.15


class Brightness(nn.Module):
    """Scores the mean of a picture, and as the map those of its quarters; or a third thing."""

    def __init__(self, more: int = 0) -> None:
        super().__init__()
        self.pool, self.more = nn.AvgPool2d(4), more

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        quarters = self.pool(pictures).mean(dim=1).flatten(1)
        return torch.cat([pictures.mean(dim=(1, 2, 3))[:, None], quarters, quarters[:, : self.more]], dim=1)


def test_an_export_has_scores_and_maps_of_any_batch() -> None:
    network, preprocessing = Brightness(), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)
    run = InspectedBy(export_inspector(network, preprocessing, map_side(network, preprocessing)), threads=1)
    pictures = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    expected = answers_of_torch(network, preprocessing, pictures, torch.device("cpu"))
    for count in (1, 5, 70):
        scores, maps = run(pictures[:count])
        np.testing.assert_allclose(scores, expected[0][:count], atol=1e-5)
        np.testing.assert_allclose(maps, expected[1][:count], atol=1e-5)
    with pytest.raises(ValueError, match="a score and a square heat map"):
        map_side(Brightness(more=2), preprocessing)


def test_a_model_that_answers_otherwise_is_refused() -> None:
    scores, maps = np.array([1.0, 2.0]), np.zeros((2, 2, 2))
    assert check_parity((scores, maps), (scores + 0.01, maps))["max_difference"] == pytest.approx(0.01)
    with pytest.raises(ExportMismatch, match="scores"):
        check_parity((scores, maps), (scores + 0.1, maps))
    with pytest.raises(ExportMismatch, match="heat maps"):
        check_parity((scores, maps), (scores, np.full((2, 2, 2), np.nan)))


def test_what_is_rounding_is_no_anomaly() -> None:
    """The distance of a patch to itself is 0, whatever it was computed from."""
    memory = part_of_image("memory")
    patches = torch.randn(50, 4, 80, generator=torch.Generator().manual_seed(0)) * 100
    bank = patches.flatten(0, 1)
    assert (memory._nearest(patches, bank.T, (bank**2).sum(dim=1)) == 0).all()
