"""What a run may see, keep and be told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loupe.algorithm.checkpoint import (
    BadCheckpoint,
    load_optimizer_state,
    optimizer_state,
    read_checkpoint,
    write_checkpoint,
)
from loupe.algorithm.context import Context
from loupe.algorithm.dataset import UnusableData
from loupe.algorithm.host import Split
from loupe.algorithm.local import BadFolder, read_folder
from tests.algorithms.conftest import CLASSIFICATION, write_pictures


def test_test_labels_are_withheld_until_they_are_revealed_once(bench, textures) -> None:
    host = bench.host("scratch", textures, target=0.9)
    context = Context(host, CLASSIFICATION)
    assert len(context.data.test) == 12
    assert set(context.data.classes[context.data.test]) == {-1}
    assert context.data.classes[context.data.train].min() == 0
    np.testing.assert_array_equal(host.reveal_test(np.zeros(12, int)), textures.classes)
    with pytest.raises(RuntimeError, match="once"):
        host.reveal_test(np.zeros(12, int))
    with pytest.raises(RuntimeError, match="checkpoint"):
        context.checkpoint({"late": 1})


def test_pictures_are_rows_as_in_the_index_decoded_once(bench, textures) -> None:
    context = Context(bench.host("scratch", textures, target=0.9), CLASSIFICATION)
    pictures = context.data.images(32)
    assert pictures.shape == (60, 32, 32, 3)
    assert not pictures.flags.writeable
    with Image.open(textures.paths[17]) as image:
        np.testing.assert_array_equal(pictures[17], np.asarray(image))
    assert context.data.images(32) is pictures


def test_grey_pictures_come_as_three_equal_channels(bench, tmp_path) -> None:
    root = tmp_path / "grey"
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (root / label).mkdir(parents=True)
        for number in range(5):
            level = 40 if label == "dark" else 200
            pixels = (level + rng.integers(0, 30, (16, 16))).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    pictures = Context(bench.host("scratch", read_folder(root), target=0.9), CLASSIFICATION).data.images(16)
    np.testing.assert_array_equal(pictures[..., 0], pictures[..., 2])


@pytest.mark.parametrize(
    ("counts", "rows", "said"),
    [
        ({"only": 10}, None, "at least two"),
        ({"a": 5, "b": 5}, {"validation": "train"}, "no validation pictures"),
        ({"a": 5, "b": 5}, {"train": "test"}, "no training pictures"),
    ],
)
def test_data_that_nothing_can_be_learned_from_is_refused(bench, tmp_path, counts, rows, said) -> None:
    folder = read_folder(write_pictures(tmp_path / "p", counts))
    for old, new in (rows or {}).items():
        folder.splits[folder.splits == Split[old.upper()]] = Split[new.upper()]
    with pytest.raises(UnusableData, match=said):
        Context(bench.host("scratch", folder, target=0.9), CLASSIFICATION)


def test_training_pictures_of_one_class_only_are_refused(bench, tmp_path) -> None:
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 5, "b": 5}))
    folder.splits[folder.classes == 1] = Split.VALIDATION
    with pytest.raises(UnusableData, match="one class"):
        Context(bench.host("scratch", folder, target=0.9), CLASSIFICATION)


def test_a_folder_of_pictures_is_split_the_same_way_each_time(tmp_path) -> None:
    root = write_pictures(tmp_path / "p", {"größe": 10, "零件": 5, "one": 1})
    first, second = read_folder(root), read_folder(root)
    np.testing.assert_array_equal(first.splits, second.splits)
    assert first.labels == ["größe", "one", "零件"]
    counts = [[int(((first.classes == c) & (first.splits == s)).sum()) for s in (0, 1, 2)] for c in (0, 2)]
    assert counts == [[6, 2, 2], [3, 1, 1]]


def test_splits_csv_is_followed_and_its_faults_named(tmp_path) -> None:
    root = write_pictures(tmp_path / "p", {"a": 3})
    listed = "path,label,split\na/000.png,left side,train\na/001.png,b,val\na/002.png,b,test\n"
    (root / "splits.csv").write_text(listed)
    folder = read_folder(root)
    assert sorted(zip((path.name for path in folder.paths), folder.splits.tolist(), strict=True)) == [
        ("000.png", 0),
        ("001.png", 1),
        ("002.png", 2),
    ]
    assert folder.labels == ["b", "left side"]
    (root / "splits.csv").write_text(listed.replace("val", "vla"))
    with pytest.raises(BadFolder, match="line 3"):
        read_folder(root)
    with pytest.raises(BadFolder, match="no pictures"):
        (tmp_path / "empty").mkdir()
        read_folder(tmp_path / "empty")


def test_a_checkpoint_comes_back_as_it_was(tmp_path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state: dict[str, Any] = {
        "view": base[:, 1],
        "again": base[:, 1],
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "array": np.arange(3),
        "list": [1, 2.5, None, True, "零件", {"deep": torch.tensor(7)}],
    }
    restored = read_checkpoint(write_checkpoint(tmp_path / "c", state))
    assert torch.equal(restored["view"], base[:, 1])
    assert torch.equal(restored["last"], state["last"])
    assert restored["array"].tolist() == [0, 1, 2]
    assert restored["list"][:5] == [1, 2.5, None, True, "零件"]
    assert restored["list"][5]["deep"] == 7
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["state.json", "tensors.safetensors"]


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 2}, b"bytes"])
def test_what_is_neither_tensor_nor_json_is_refused(tmp_path, value) -> None:
    with pytest.raises(BadCheckpoint):
        write_checkpoint(tmp_path / "c", {"value": value})


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    folder = write_checkpoint(tmp_path / "c", {"tensor": torch.ones(100)})
    whole = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").write_bytes(whole[:-50])
    with pytest.raises(BadCheckpoint):
        read_checkpoint(folder)
    (folder / "tensors.safetensors").write_bytes(whole)
    (folder / "state.json").write_text(json.dumps({"format": "other", "state": {}}))
    with pytest.raises(BadCheckpoint, match="format"):
        read_checkpoint(folder)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)])
def test_an_optimizer_goes_on_as_if_it_never_stopped(tmp_path, kind) -> None:
    def build(weight: torch.Tensor):
        layer = torch.nn.Linear(3, 1, bias=False)
        layer.weight.data = weight.clone()
        return layer, kind(layer.parameters(), lr=0.1)

    def step(layer, optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.tensor([[1.0, -2.0, 3.0]])).square().sum().backward()
        optimizer.step()

    layer, optimizer = build(torch.ones(1, 3))
    step(layer, optimizer)
    state = read_checkpoint(write_checkpoint(tmp_path / "c", {"o": optimizer_state(optimizer), "w": layer.weight}))
    resumed, its_optimizer = build(state["w"])
    load_optimizer_state(its_optimizer, state["o"])
    step(layer, optimizer)
    step(resumed, its_optimizer)
    assert torch.equal(layer.weight, resumed.weight)


def test_history_and_elapsed_time_go_on_from_the_checkpoint(bench, textures) -> None:
    first = Context(bench.host("scratch", textures, target=0.9, max_seconds=100.0), CLASSIFICATION)
    first.report("head", validation_accuracy=0.5)
    first._elapsed_before = 60.0
    first.checkpoint({"stage": 1})
    second = Context(bench.host("scratch", textures, target=0.9, max_seconds=100.0), CLASSIFICATION)
    assert second.restore() == {"stage": 1}
    assert [row["validation_accuracy"] for row in second.history] == [0.5]
    assert 60.0 <= second.elapsed < 70.0
    assert not second.out_of_budget()
    assert second.seconds_left() < 40.0


def test_a_job_that_resumes_another_has_a_budget_of_its_own(bench, textures) -> None:
    """The other's seconds are told and not counted, also where its own run is cut and goes on; the history goes on."""
    asked = {"target": 0.9, "max_seconds": 100.0}
    first = Context(bench.host("scratch", textures, **asked), CLASSIFICATION)
    first.report("head", validation_accuracy=0.5)
    first._elapsed_before = 150.0
    first.checkpoint({"stage": 1})
    second = Context(bench.host("scratch", textures, resumes=True, **asked), CLASSIFICATION)
    assert second.restore() == {"stage": 1} and len(second.history) == 1
    assert second.elapsed >= 150.0 and 90.0 < second.seconds_left() <= 100.0
    second._elapsed_before += 60.0
    second.checkpoint({"stage": 2})
    third = Context(bench.host("scratch", textures, **asked), CLASSIFICATION)
    assert third.restore() == {"stage": 2}
    assert third.elapsed >= 210.0 and 30.0 < third.seconds_left() <= 40.0
    third.wind_up()
    third.checkpoint({"stage": 3})
    assert third.restore() == {"stage": 2}
