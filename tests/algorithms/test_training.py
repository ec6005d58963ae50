"""The built-in images from pictures to a model, on tiny textures: targets, verdicts, cuts and odd data."""

from __future__ import annotations

import doctest
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import loupe.algorithm
from loupe.algorithm import context as context_module
from loupe.algorithm import training
from loupe.algorithm.augmentation import Augmentation, augment
from loupe.algorithm.classification import finishing
from loupe.algorithm.context import run_image
from loupe.algorithm.host import Outcome
from loupe.algorithm.image import load_entry
from loupe.algorithm.local import read_folder
from loupe.algorithm.plan import TrainingPlan, class_weights, learning_rate, steps_per_epoch
from tests.algorithms.conftest import IMAGES, Cut, Recorder, texture, write_pictures

TINY = "test_efficientnet"


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Make a safetensors file for the tiny backbone, as a user would upload one; it has learned textures."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    network = timm.create_model(TINY, num_classes=3).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(3)
    for _ in range(40):
        seen = np.stack([texture(number, rng) for number in range(24)])
        logits = network(torch.from_numpy(seen).permute(0, 3, 1, 2) / 127.5 - 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.arange(24) % 3).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return path


def part_of_finetune(name: str):
    """Return a module of the image, the one that a run will use."""
    package = load_entry(IMAGES / "finetune", "main:train").__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


@pytest.fixture
def no_pauses(monkeypatch) -> None:
    """Report and checkpoint at every chance, as a large data set would."""
    monkeypatch.setattr(context_module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1.0)
    features = part_of_finetune("features")
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(features, "BATCH", 8)


def finetune(weights: Path, **more):
    return {
        "parameters": {"backbone": TINY, "size": 32, "weights": str(weights), **more.pop("parameters", {})},
        "weights": {"weights": weights},
        **more,
    }


@pytest.fixture
def weights_only(monkeypatch) -> None:
    """End runs with the network's weights and no export, which is most of a tiny run's time."""

    def conclude(host, spec, data, *, network, out_of_sample, **rest):
        path = host.work / "model.safetensors"
        sample = {} if out_of_sample is None else {"sample": torch.from_numpy(out_of_sample.probabilities)}
        kept = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in network.state_dict().items()
        }
        save_file({**kept, **sample}, path)
        return {path.name: path}, {"validation": {"accuracy": 1.0}}

    monkeypatch.setattr(finishing, "conclude", conclude)
    features = part_of_finetune("features")
    monkeypatch.setattr(features.FrozenTrunk, "fastest", lambda trunk, size, *rest: trunk.by_torch(size))


def same(first, second) -> None:
    """Check that two runs came to the same weights, predictions and history, bit for bit."""
    ours, theirs = (load_file(result.artifacts["model.safetensors"]) for result in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    drop = {"seconds", "pictures_per_second"}
    histories = [
        [{name: value for name, value in row.items() if name not in drop} for row in result.report["history"]]
        for result in (first, second)
    ]
    assert histories[0] == histories[1]
    assert first.outcome == second.outcome
    assert first.report["notes"] == second.report["notes"]


def test_the_example_in_the_sdks_docstring_is_a_whole_image(bench, textures, tmp_path) -> None:
    image = tmp_path / "example"
    image.mkdir()
    examples = doctest.DocTestParser().get_examples(loupe.algorithm.__doc__)
    (image / "main.py").write_text("".join(example.source for example in examples))
    manifest = (IMAGES / "scratch" / "algorithm.toml").read_text().replace('name = "scratch"', 'name = "example"')
    (image / "algorithm.toml").write_text(manifest)
    host = bench.host("scratch", textures, target=0.9, parameters={"epochs": 2})
    run_image(image, host)
    assert set(host.result.artifacts) == {"model.onnx", "model.safetensors", "model.json", "golden.npz"}
    assert len(host.result.report["history"]) == 2


def test_finetune_reaches_the_target_by_the_cheapest_way(bench, textures, weights) -> None:
    recorder = Recorder()
    result = bench.run("finetune", textures, target=0.95, recorder=recorder, **finetune(weights))
    assert result.outcome is Outcome.TARGET_REACHED
    assert result.report["validation"]["accuracy"] >= 0.95
    assert result.report["test"]["accuracy"] >= 0.9
    assert result.report["test"]["pictures"] == 12
    assert [stage["depth"] for stage in result.report["notes"]["rungs"]] == ["head"]
    assert recorder.phases() == ["features", "head", "export", "test"]
    assert recorder.reports[0].step == 1
    assert "uploaded" in result.report["notes"]["weights"]
    assert result.report["splits"] == {"train": 36, "validation": 12, "test": 12}


def test_finetune_climbs_to_a_plateau_and_says_which_classes_are_worst(bench, tmp_path, weights) -> None:
    """Pictures that say nothing about their class: every stage is tried, and the verdict is honest."""
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 20, "b": 20, "c": 20}, scrambled=True))
    recorder = Recorder()
    result = bench.run("finetune", folder, target=1.0, recorder=recorder, **finetune(weights, parameters={"epochs": 2}))
    assert result.outcome is Outcome.PLATEAU
    assert [stage["depth"] for stage in result.report["notes"]["rungs"]] == ["head", "blocks", "full"]
    assert result.report["validation"]["worst_classes"]
    assert np.array(result.report["validation"]["confusion_matrix"]).sum() == 12
    history = [(row["phase"], row["epoch"]) for row in result.report["history"]]
    assert list(dict.fromkeys(history))[:2] == [("head", 1), ("finetune", 1)]
    assert history.count(("finetune", 1)) >= 4, "both stages are told, each by two looks before it may be left"
    best = max(stage["accuracy"] for stage in result.report["notes"]["rungs"])
    assert result.report["validation"]["accuracy"] == pytest.approx(best)
    assert json.loads(json.dumps(result.report, allow_nan=False))


def test_fine_tuning_takes_over_where_the_head_does_not_do(bench, textures, weights, monkeypatch) -> None:
    ladder = part_of_finetune("ladder")
    fitted = ladder.fit_head

    def useless_head(*arguments):
        head = fitted(*arguments)
        nothing = {"weight": torch.zeros_like(head.weight), "bias": torch.zeros_like(head.bias)}
        return replace(head, **nothing, accuracy=0.1, score=0.1)

    monkeypatch.setattr(ladder, "fit_head", useless_head)
    result = bench.run("finetune", textures, target=0.9, **finetune(weights, parameters={"batch_size": 8}))
    assert result.outcome is Outcome.TARGET_REACHED
    last = result.report["notes"]["rungs"][-1]
    assert last["depth"] in ("blocks", "full")
    assert result.report["validation"]["accuracy"] == pytest.approx(last["accuracy"])
    assert result.report["test"]["accuracy"] > 0.8


@pytest.mark.usefixtures("weights_only")
def test_depth_bounds_the_ladder(bench, tmp_path, weights) -> None:
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 15, "b": 15}, scrambled=True))
    result = bench.run("finetune", folder, target=1.0, **finetune(weights, parameters={"depth": "head"}))
    assert [stage["depth"] for stage in result.report["notes"]["rungs"]] == ["head"]


@pytest.mark.usefixtures("no_pauses", "weights_only")
@pytest.mark.parametrize("place", [("features", 0, 3), ("head", 1, 0), ("finetune", 2, 1), ("finetune", 3, 1)])
def test_finetune_cut_off_ends_like_one_that_never_was(bench, tmp_path, weights, place) -> None:
    """Cut in mid-features, right after a stage, and in mid-epoch of fine-tuning."""
    phase, epoch, _ = place
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 16, "b": 16, "c": 16}, scrambled=True))
    asked = finetune(weights, parameters={"epochs": 3, "batch_size": 8}, target=1.0)
    whole = bench.run("finetune", folder, work="whole", **asked)
    recorder = Recorder(cut_after=lambda seen: (seen.phase, seen.epoch, seen.step) == place)
    cut = bench.host("finetune", folder, work="cut", recorder=recorder, **asked)
    with pytest.raises(Cut):
        run_image(IMAGES / "finetune", cut)
    shutil.rmtree(cut.work)
    after = Recorder()
    resumed = bench.run("finetune", folder, work="cut", recorder=after, **asked)
    same(whole, resumed)
    if phase == "features":
        assert next(seen.step for seen in after.reports if seen.phase == "features") == 3
    if phase == "finetune":
        assert "features" not in after.phases()
        assert next(seen.epoch for seen in after.reports if seen.phase == "finetune" and seen.epoch) == epoch


@pytest.mark.usefixtures("no_pauses", "weights_only")
def test_scratch_cut_off_in_mid_epoch_ends_like_one_that_never_was(bench, textures) -> None:
    parameters = {"network": "squeezenet1_1", "size": 32, "epochs": 4, "batch_size": 8}
    asked = {"target": 1.0, "parameters": parameters}
    whole = bench.run("scratch", textures, work="whole", **asked)
    recorder = Recorder(cut_after=lambda seen: (seen.epoch, seen.step) == (3, 2))
    cut = bench.host("scratch", textures, work="cut", recorder=recorder, **asked)
    with pytest.raises(Cut):
        run_image(IMAGES / "scratch", cut)
    after = Recorder()
    resumed = bench.run("scratch", textures, work="cut", recorder=after, **asked)
    assert next(report.epoch for report in after.reports if report.phase == "train") == 3
    same(whole, resumed)


def scratch(weights: Path, *, parameters: dict[str, Any], **more):
    return {"parameters": {"network": "squeezenet1_1", "size": 32, **parameters}, **more}


PHASES = {"finetune": (finetune, "finetune"), "scratch": (scratch, "train")}


@pytest.mark.usefixtures("no_pauses", "weights_only")
@pytest.mark.parametrize("image", PHASES)
def test_a_training_that_the_budget_cut_off_is_resumed_where_it_was(
    bench, tmp_path, weights, monkeypatch, image: str
) -> None:
    """In the very epoch after the last one, and not as if the stage were done; checkpoints were due long ago."""
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 16, "b": 16, "c": 16}, scrambled=True))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 1e9)
    ask, phase = PHASES[image]
    asked = ask(weights, parameters={"epochs": 4, "batch_size": 8}, target=1.0)
    out = False

    def in_epoch_two(seen) -> bool:
        nonlocal out
        out = out or (seen.phase, seen.epoch) == (phase, 2)
        return False

    monkeypatch.setattr(context_module.Context, "seconds_left", lambda context: -1.0 if out else 100.0)
    before = bench.run(image, folder, work="r", max_seconds=9.0, recorder=Recorder(stop_after=in_epoch_two), **asked)
    assert before.outcome is Outcome.BUDGET
    out = False
    after = Recorder()
    resumed = bench.run(image, folder, work="r", max_seconds=9.0, resumes=True, recorder=after, **asked)
    assert resumed.outcome is Outcome.PLATEAU and "features" not in after.phases()
    assert next(seen.epoch for seen in after.reports if seen.phase == phase and seen.epoch) == 3
    epochs = [row["epoch"] for row in resumed.report["history"] if row["phase"] == phase]
    assert list(dict.fromkeys(epochs)) == [1, 2, 3, 4]


@pytest.mark.usefixtures("no_pauses", "weights_only")
@pytest.mark.parametrize(("epochs", "goes_on"), [(2, 3), (4, 1)])
def test_a_stage_that_the_bound_of_epochs_cut_off_is_not_taken_for_done(
    bench, tmp_path, weights, epochs: int, goes_on: int
) -> None:
    """Nor is the one after it, which had no epoch left: a job without that bound does both."""
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 16, "b": 16, "c": 16}, scrambled=True))
    asked = finetune(weights, parameters={"epochs": 4, "batch_size": 8}, target=1.0)
    before = bench.run("finetune", folder, work="r", max_epochs=epochs, **asked)
    assert before.outcome is Outcome.BUDGET
    after = Recorder()
    resumed = bench.run("finetune", folder, work="r", resumes=True, recorder=after, **asked)
    assert resumed.outcome is Outcome.PLATEAU and "features" not in after.phases()
    assert next(seen.epoch for seen in after.reports if seen.phase == "finetune" and seen.epoch) == goes_on
    assert [stage["depth"] for stage in resumed.report["notes"]["rungs"]] == ["head", "blocks", "full"]


@pytest.mark.usefixtures("weights_only")
def test_scratch_learns_and_stops_at_the_target(bench, textures) -> None:
    recorder = Recorder()
    parameters = {"network": "resnet18", "size": 32, "epochs": 20, "batch_size": 12}
    result = bench.run("scratch", textures, target=0.9, recorder=recorder, parameters=parameters)
    assert result.outcome is Outcome.TARGET_REACHED
    assert len(result.report["history"]) == result.report["notes"]["epochs"] < 20
    first = next(report for report in recorder.reports if report.phase == "train")
    assert (first.epoch, first.step, first.total_steps) == (1, 1, 3)
    assert first.metrics["pictures_per_second"] > 0


@pytest.mark.usefixtures("weights_only")
def test_an_epoch_budget_ends_as_budget(bench, tmp_path) -> None:
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 10, "b": 10}, scrambled=True))
    parameters = {"network": "squeezenet1_1", "size": 32}
    result = bench.run("scratch", folder, target=1.0, max_epochs=2, parameters=parameters)
    assert result.outcome is Outcome.BUDGET
    assert len(result.report["history"]) == 2
    assert result.artifacts


@pytest.mark.usefixtures("weights_only")
def test_a_time_budget_ends_with_the_best_so_far(bench, tmp_path, weights) -> None:
    folder = read_folder(write_pictures(tmp_path / "p", {"a": 10, "b": 10}, scrambled=True))
    result = bench.run("finetune", folder, target=1.0, max_seconds=0.01, **finetune(weights))
    assert result.outcome is Outcome.BUDGET
    assert [stage["depth"] for stage in result.report["notes"]["rungs"]] == ["head"]


def test_a_run_that_is_asked_to_stop_ends_without_a_model(bench, textures) -> None:
    recorder = Recorder(stop_after=lambda seen: seen.epoch == 1)
    parameters = {"network": "squeezenet1_1", "size": 32}
    result = bench.run("scratch", textures, target=1.0, recorder=recorder, parameters=parameters)
    assert result.outcome is Outcome.STOPPED
    assert not result.artifacts


def test_two_scripts_very_unbalanced_and_a_class_with_one_picture(bench, tmp_path, weights) -> None:
    """The lone picture falls to training; its class is named in the report with its one picture."""
    root = write_pictures(tmp_path / "p", {"零件 OK": 40, "brüchig": 6, "einzeln": 1})
    folder = read_folder(root)
    result = bench.run("finetune", folder, target=0.85, **finetune(weights))
    assert result.report["labels"] == ["brüchig", "einzeln", "零件 OK"]
    assert result.report["training_pictures"]["einzeln"] <= 1
    assert result.report["validation"]["balanced_accuracy"] > 0.5


def test_mislabelled_pictures_are_reported(bench, tmp_path, weights) -> None:
    root = write_pictures(tmp_path / "p", {"stripes": 25, "checks": 25, "blobs": 25})
    rng = np.random.default_rng(9)
    for number in range(2):
        Image.fromarray(texture(0, rng)).save(root / "blobs" / f"wrong{number}.png")
    folder = read_folder(root)
    wrong = {each for each, path in zip(folder.digests, folder.paths, strict=True) if path.name.startswith("wrong")}
    tested = {each for each, split in zip(folder.digests, folder.splits, strict=True) if split == 2}
    assert wrong - tested
    result = bench.run("finetune", folder, target=0.8, **finetune(weights))
    doubted = {row["digest"]: row for row in result.report["label_errors"]}
    assert wrong - tested <= set(doubted)
    assert all(doubted[each]["suggested"] == "stripes" for each in wrong - tested)


@pytest.mark.usefixtures("weights_only")
def test_a_random_backbone_is_trained_whole_and_said_to_be_random(bench, textures) -> None:
    parameters = {"backbone": TINY, "size": 32, "epochs": 2, "batch_size": 12}
    result = bench.run("finetune", textures, target=1.0, parameters=parameters)
    assert [stage["depth"] for stage in result.report["notes"]["rungs"]] == ["full"]
    assert result.report["notes"]["weights"] == "random"


@pytest.mark.parametrize("image", ["finetune", "scratch"])
def test_an_unknown_network_is_refused_with_a_hint(bench, textures, image) -> None:
    name = {"finetune": "backbone", "scratch": "network"}[image]
    with pytest.raises(ValueError, match=f"'{name}'.*no.*resnet99"):
        bench.run(image, textures, target=0.9, parameters={name: "resnet99"})


def test_weights_of_another_network_are_refused_by_key_and_shape(bench, textures, tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"stem.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=r"do not fit.*has none of that name"):
        bench.run("finetune", textures, target=0.9, **finetune(path))
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="no safetensors"):
        bench.run("finetune", textures, target=0.9, **finetune(path))


def test_the_default_backbone_brings_its_weights_in_the_right_order(bench) -> None:
    """The file's tensors carry other names; in order they are timm's, or its features would be noise."""
    build = load_entry(IMAGES / "finetune", "backbones:build_backbone")
    backbone = build("tf_efficientnet_lite0", None)
    assert backbone.pretrained
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    states = backbone.trunk.state_dict()
    assert all(value.device.type == "cpu" for value in states.values())
    # Trained batch norms have variances far from the 1 they start with, and none that is negative.
    variances = torch.cat([value for name, value in states.items() if name.endswith("running_var")])
    assert variances.min() >= 0
    assert variances.std() > 0.1


def test_augmentation_keeps_shape_and_is_drawn_from_the_generator() -> None:
    pictures = torch.rand(6, 3, 20, 20)
    first, again, other = (
        augment(pictures.clone(), Augmentation(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == pictures.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    still = Augmentation(flips="none", rotation=0, shift=0, scale=0, brightness=0, contrast=0)
    torch.testing.assert_close(augment(pictures.clone(), still, torch.Generator()), pictures, atol=1e-5, rtol=0)
    mirrored = augment(pictures.clone(), Augmentation("horizontal", 0, 0, 0, 0, 0), torch.Generator().manual_seed(0))
    for old, new in zip(pictures, mirrored, strict=True):
        assert torch.allclose(new, old, atol=1e-5) or torch.allclose(new, old.flip(2), atol=1e-5)


def test_schedule_weights_and_steps_are_as_promised() -> None:
    plan = TrainingPlan(size=8, epochs=10, learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(plan, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.005)
    assert [steps_per_epoch(count, 8) for count in (1, 8, 9, 10, 16, 17)] == [1, 1, 1, 2, 2, 2]
    counts = np.array([90, 10, 0])
    assert torch.equal(class_weights(counts, 0.0), torch.ones(3))
    full = class_weights(counts, 1.0)
    assert float(full[0] * 90) == pytest.approx(float(full[1] * 10))
    assert float((full[:2] * torch.tensor([90.0, 10.0])).sum()) == pytest.approx(100.0)
