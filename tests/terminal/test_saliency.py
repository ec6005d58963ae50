"""What an answer rests on: the patch that hides it lowers the probability, and it is found where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.terminal.classifier import Classifier
from loupe.terminal.model_folder import BATCH
from loupe.terminal.saliency import MOST_PATCHES, Explanations, explained, saliency


class Spot:
    """A classifier that looks at one pixel alone: the brighter it is, the likelier is "bright"."""

    labels = ("dark", "bright")

    def __init__(self, height: int, width: int, row: int, column: int) -> None:
        self.height, self.width = height, width
        self.where = row, column
        self.asked: list[int] = []

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        self.asked.append(len(pictures))
        bright = pictures[:, self.where[0], self.where[1]].mean(axis=1) / 255
        return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def spot_picture(height: int, width: int, row: int, column: int) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[row, column] = 255
    return pixels


@pytest.mark.parametrize(("row", "column"), [(0, 0), (31, 47), (20, 11)])
def test_the_heat_is_where_the_answer_comes_from_and_nowhere_else(row: int, column: int) -> None:
    classifier = Spot(32, 48, row, column)
    found = saliency(classifier, spot_picture(32, 48, row, column))  # type: ignore[arg-type]
    assert found.heat.shape == (32, 48) and found.greatest == pytest.approx(1.0, abs=0.01)
    assert found.heat[row, column] == found.heat.max() > 0.9
    far = (row + 16) % 32, (column + 24) % 48
    assert found.heat[far] == 0


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (224, 224), (37, 5)])
def test_the_cost_is_bounded_and_asked_in_batches(size: tuple[int, int]) -> None:
    classifier = Spot(*size, 0, 0)
    found = saliency(classifier, spot_picture(*size, 0, 0))  # type: ignore[arg-type]
    assert sum(classifier.asked) <= MOST_PATCHES + 1 and max(classifier.asked) <= BATCH
    assert np.isfinite(found.heat).all()


def test_a_picture_of_one_colour_has_nothing_to_show(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (60, 40), (90, 90, 90)).save(path)
    found = saliency(Spot(8, 8, 4, 4), np.full((8, 8, 3), 90, np.uint8))  # type: ignore[arg-type]
    assert found.greatest == 0
    drawn = np.asarray(explained(path, found))
    assert (drawn == 90).all()


def test_an_explanation_is_upright_in_the_pictures_proportions_and_red_where_it_matters(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (400, 100), (120, 120, 120)).save(path, exif=exif)
    drawn = explained(path, saliency(Spot(8, 8, 0, 7), spot_picture(8, 8, 0, 7)))  # type: ignore[arg-type]
    assert drawn.size == (100, 400)
    pixels = np.asarray(drawn).astype(int)
    assert pixels[2, 97, 0] - pixels[2, 97, 2] > 60
    assert abs(pixels[300, 20, 0] - pixels[300, 20, 2]) <= 2
    big = tmp_path / "big.png"
    Image.new("L", (3000, 30)).save(big)
    assert explained(big, saliency(Spot(8, 8, 0, 0), spot_picture(8, 8, 0, 0))).size == (1024, 10)  # type: ignore[arg-type]


def test_every_picture_gets_a_file_of_its_own(make_model: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / ("x" * 200 + ".png")).write_bytes((folder / "scratch" / "02.png").read_bytes())
    classifier = Classifier(make_model())
    explanations = Explanations(tmp_path / "why")
    paths = [next((tmp_path / place).iterdir()) for place in ("a", "b")]
    written = [explanations.write(classifier, path) for path in (*paths, paths[0])]
    assert written[0] == written[2] != written[1]
    assert sorted(one.name for one in (tmp_path / "why").iterdir()) == sorted(
        one.name for one in written[:2] if one is not None
    )
    assert all(Image.open(one).format == "PNG" for one in written if one is not None)
    assert explanations.write(classifier, tmp_path / "nowhere.png") is None
