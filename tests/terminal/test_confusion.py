"""The confusion matrix for 2 to 100 classes: nothing is left out, no number is broken, hostile labels are harmless."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.terminal import confusion
from loupe.terminal.confusion import Confusion, ConfusionView, confusion_of, matrix_csv, render, worst_pairs
from loupe.terminal.screen import Screen
from loupe.terminal.tables import width_of


def made(classes: int, count: int = 175) -> tuple[list[list[int]], list[str]]:
    """A matrix with a mistake per class, each of another size."""
    matrix = [[0] * classes for _ in range(classes)]
    for index in range(classes):
        matrix[index][index] = count
        matrix[index][(index + 1) % classes] = index + 1
    return matrix, [f"class number {index + 1} 零件" for index in range(classes)]


def shown(renderable: object, width: int = 80) -> list[str]:
    screen = Screen(width=width, file=io.StringIO(), color_system=None)
    screen.print(renderable)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("classes", [2, 5, 16, 17, 18, 40, 100])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_whole_matrix_has_every_cell_at_every_width(classes: int, width: int) -> None:
    matrix, labels = made(classes)
    lines = shown(ConfusionView(Confusion(labels, matrix), whole=True), width)
    assert max(map(width_of, lines)) <= width
    rows: dict[int, list[int]] = {}
    for line in lines[next(i for i, line in enumerate(lines) if "the true class (rows)" in line) :]:
        if found := re.match(r"(\d+) .*件 ", line):
            cells = line[found.end() :].split()
            rows.setdefault(int(found[1]), []).extend(0 if cell == "·" else int(cell) for cell in cells)
    assert [rows[index + 1] for index in range(classes)] == matrix


def test_17_classes_of_three_digits_fit_80_columns_in_one_piece() -> None:
    matrix, labels = made(17)
    lines = shown(ConfusionView(Confusion(labels, matrix)))
    assert any(line.split()[-1:] == ["17"] and line.split()[0] == "1" for line in lines), lines
    assert all(width_of(line) <= 80 for line in lines)


def test_worst_pairs_come_first_and_a_wide_matrix_says_how_to_see_it() -> None:
    matrix, labels = made(40)
    text = "\n".join(shown(ConfusionView(Confusion(labels, matrix))))
    words = " ".join(text.split())
    first = next(line for line in text.splitlines() if line.startswith(" class number"))
    assert first.split()[-3:] == ["40", "215", "19%"]
    assert "--matrix" in words and "--csv FILE" in words and "--png FILE" in words
    assert "the first 10 of 40 pairs" in words


def test_no_mistakes_are_said_in_words() -> None:
    assert "none of 10 test pictures is confused" in "\n".join(shown(render([[5, 0], [0, 5]], ["a", "b"])))


def test_csv_reads_back_and_is_no_formula() -> None:
    matrix, labels = made(17)
    header, *rows = list(csv.reader(io.StringIO(matrix_csv(matrix, [*labels[:-1], "=1+1"]))))
    assert header[1:-1] == labels[:-1] and header[-1] == "'=1+1"
    assert [[int(cell) for cell in row[1:]] for row in rows] == matrix


@pytest.mark.parametrize("classes", [2, 17, 100])
def test_the_picture_has_room_for_every_number(classes: int, tmp_path: Path) -> None:
    matrix, labels = made(classes, count=12345)
    confusion.write_png(matrix, labels, tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    assert classes * 26 < width < 8000 and classes * 26 < height < 8000
    green = (pixels[..., 1] > pixels[..., 0] + 30) & (pixels[..., 1] > pixels[..., 2] + 30)
    # The diagonal's cells are green with white numbers in them.
    columns = np.flatnonzero(green.any(axis=0))
    assert len(columns) > 0.7 * classes * 26


def test_labels_of_others_are_escaped_everywhere(tmp_path: Path) -> None:
    hostile = ["ok\x1b[2J", "\u202eb\x9b5m" + "x" * 5000]
    text = "\n".join(shown(ConfusionView(Confusion(hostile, [[1, 2], [3, 4]]), whole=True))) + matrix_csv(
        [[1, 2], [3, 4]], hostile
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert len(text) < 5000
    confusion.write_png([[1, 2], [3, 4]], hostile, tmp_path / "m.png")


@pytest.mark.parametrize(
    "figures",
    [
        None,
        [],
        {"confusion_matrix": None},
        {"confusion_matrix": [[1, 2]]},
        {"confusion_matrix": [[1, 2], [3]]},
        {"confusion_matrix": [[1, 2], [3, "4"]]},
        {"confusion_matrix": [[1, 2], [3, -4]]},
        {"confusion_matrix": [[1, 2], [3, 1e300]]},
        {"confusion_matrix": [[1, 2], [3, 10**400]]},
        {"confusion_matrix": {"a": 1}},
    ],
)
def test_a_report_without_a_true_matrix_has_none(figures: object) -> None:
    assert confusion_of({"labels": ["a", "b"], "test": figures}) is None


def test_pairs_are_sorted_by_pictures_then_share() -> None:
    pairs = worst_pairs([[8, 2, 0], [0, 5, 0], [1, 2, 1]], ["ok", "dent", "scratch"])
    assert [tuple(pair) for pair in pairs] == [
        ("scratch", "dent", 2, 4),
        ("ok", "dent", 2, 10),
        ("scratch", "ok", 1, 4),
    ]
