"""Classifying with a model folder: golden pictures, broken pictures named, folders that are no model told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loupe import errors
from loupe.terminal.classifier import Classifier
from tests.terminal.conftest import picture_bytes


def test_golden_pictures_are_answered(make_model: Callable[..., Path]) -> None:
    Classifier(make_model("good")).check_golden()
    with pytest.raises(errors.GateFailed):
        Classifier(make_model("shifted", golden_shift=0.002)).check_golden()
    with pytest.raises(errors.GateFailed):
        Classifier(make_model("nan", golden_shift=float("nan"))).check_golden()


def test_pictures_are_classified_in_order_and_broken_ones_named(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    paths = []
    for index in range(70):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(picture_bytes(index))
    paths[40].write_bytes(paths[40].read_bytes()[:200])
    paths[41].write_bytes(b"no picture at all")
    paths[42] = tmp_path / "nowhere.png"
    answers = list(Classifier(make_model(), threads=1).classify(paths))
    assert [one.path for one in answers] == paths
    for index, one in enumerate(answers):
        if index in (40, 41, 42):
            assert one.problem and not one.label
        else:
            assert one.label == ("bright 零件" if index % 2 else "dark")
            assert one.confidence == pytest.approx(max(one.probabilities)) and sum(one.probabilities) == pytest.approx(
                1
            )


def test_batches_of_any_size(make_model: Callable[..., Path]) -> None:
    classifier = Classifier(make_model())
    pictures = np.random.default_rng(0).integers(0, 255, (65, 8, 8, 3), dtype=np.uint8)
    whole = classifier.probabilities(pictures)
    assert whole.shape == (65, 2)
    np.testing.assert_allclose(whole[40], classifier.probabilities(pictures[40:41])[0], atol=1e-6)
    assert classifier.probabilities(pictures[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"format": "loupe-model/9"}, errors.InvalidArgument, "another Loupe"),
        ({"labels": "dark"}, errors.DataLoss, "damaged"),
        ({"input": {"height": 0, "width": 8}}, errors.DataLoss, "damaged"),
        ({"input": None}, errors.DataLoss, "damaged"),
    ],
)
def test_a_strange_model_document_is_told(
    make_model: Callable[..., Path], change: dict, kind: type[errors.LoupeError], words: str
) -> None:
    folder = make_model()
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(document | change))
    with pytest.raises(kind, match=words):
        Classifier(folder)


def test_a_folder_without_a_model_and_a_broken_network_are_told(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidArgument, match="a folder with a pulled model"):
        Classifier(tmp_path)
    folder = make_model()
    (folder / "model.onnx").write_bytes(b"\x80\x04 a pickle, say")
    with pytest.raises(errors.DataLoss, match="cannot be loaded"):
        Classifier(folder)
