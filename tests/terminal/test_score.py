"""The score of a folder with a folder per class: what is counted, and how sure it is."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path

import pytest

from loupe.terminal.classifier import Prediction
from loupe.terminal.score import Score, truth_of

LABELS = ["ok", "Kratzer grün", "零件"]
ROOT = Path("test")


def scored(answers: list[tuple[str, str]], labels: list[str] = LABELS) -> Score:
    """Score answers: folder and label; "?" is unknown, "!" unreadable."""
    paths = [ROOT / folder / f"{index}.png" for index, (folder, _) in enumerate(answers)]
    truth = truth_of(ROOT, paths, labels)
    assert truth is not None
    score = Score(truth, labels)
    for path, (_, label) in zip(paths, answers, strict=True):
        score.add(Prediction(path, label, unknown=label == "?", problem="cut off" if label == "!" else ""))
    return score


def test_accuracy_balance_and_matrix() -> None:
    answers = [("ok", "ok")] * 8 + [("ok", "零件")] * 2 + [("零件", "零件")] * 1 + [("零件", "ok")] * 3
    score = scored(answers)
    assert (score.right, score.answered, score.accuracy) == (9, 14, 9 / 14)
    assert score.balanced_accuracy == pytest.approx((0.8 + 0.25) / 2)  # the class that does not occur counts nothing
    assert score.matrix == [[8, 0, 2], [0, 0, 0], [3, 0, 1]]
    worst = score.document()["worst_pairs"]
    assert [tuple(one.values())[:3] for one in worst] == [("零件", "ok", 3), ("ok", "零件", 2)]


def test_unknown_and_unreadable_are_told_and_not_in_the_figures() -> None:
    score = scored([("ok", "ok"), ("ok", "?"), ("零件", "?"), ("零件", "!"), ("零件", "零件")])
    document = score.document()
    assert (document["accuracy"], document["answered"], document["pictures"]) == (1.0, 2, 5)
    assert (document["unknown"], document["unknown_per_class"], document["unreadable"]) == (2, [1, 0, 1], 1)


def test_nothing_answered_has_no_figures() -> None:
    score = scored([("ok", "?")])
    assert math.isnan(score.accuracy) and score.document()["accuracy"] is None
    assert score.document()["balanced_accuracy"] is None


def test_names_are_compared_in_one_form_of_unicode() -> None:
    apart = unicodedata.normalize("NFD", "Kratzer grün")
    assert apart != "Kratzer grün"
    assert scored([(apart, "Kratzer grün")]).accuracy == 1.0


def test_folders_that_are_no_class_are_named_and_their_pictures_are_not_counted() -> None:
    paths = [ROOT / "ok" / "1.png", ROOT / "dust" / "2.png", ROOT / "3.png", ROOT / "ok" / "deep" / "4.png"]
    truth = truth_of(ROOT, paths, LABELS)
    assert truth is not None and truth.strange == ["dust"]
    assert [truth.class_of(path) for path in paths] == [0, None, None, 0]
    assert truth_of(ROOT, [ROOT / "dust" / "1.png", ROOT / "2.png"], LABELS) is None
    assert truth_of(ROOT, [ROOT / "1" / "1.png"], [str(index) for index in range(1001)]) is None
