"""What keeps fine-tuning from making a model worse: several levels of features, tried changes, and leaving in time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from loupe.algorithm.context import run_image
from loupe.algorithm.host import Outcome
from loupe.algorithm.image import load_entry
from loupe.algorithm.plan import TrainingPlan, make_optimizer
from tests.algorithms.conftest import IMAGES, Recorder

SIDE = 16


def part_of_finetune(name: str) -> ModuleType:
    """Return a module of the image."""
    package = load_entry(IMAGES / "finetune", "main:train").__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


def test_uploaded_weights_are_the_ones_that_training_begins_with(tmp_path: Path) -> None:
    """A safetensors file as a job gets it; one of another network, or of another format, is refused in words."""
    backbones = part_of_finetune("backbones")
    file = tmp_path / "weights.safetensors"
    given = {
        name: torch.full_like(value, 0.25) for name, value in timm.create_model("test_resnet").state_dict().items()
    }
    save_file(given, file)
    made = backbones.build_backbone("test_resnet", file)
    assert made.pretrained and made.weights == "uploaded file weights.safetensors"
    (first, *_) = made.trunk.state_dict().values()
    assert torch.equal(first, torch.full_like(first, 0.25))
    with pytest.raises(backbones.BadBackbone, match="the weights do not fit test_efficientnet"):
        backbones.build_backbone("test_efficientnet", file)
    file.write_bytes(b"no tensors")
    with pytest.raises(backbones.BadBackbone, match="no safetensors file"):
        backbones.build_backbone("test_resnet", file)


def test_the_file_of_a_model_that_finetune_made_fits_again(tmp_path: Path) -> None:
    """Its trunk stands behind the names of what is around it, and the file has a head; the order in it is any."""
    backbones = part_of_finetune("backbones")
    torch.manual_seed(0)
    trunk = timm.create_model("test_resnet", num_classes=0).eval()
    trained = backbones.HeadedNetwork(backbones.MultiLevel(trunk), torch.nn.Linear(8, 2))
    save_file(
        {name: value.contiguous() for name, value in trained.state_dict().items()}, tmp_path / "model.safetensors"
    )
    made = backbones.build_backbone("test_resnet", tmp_path / "model.safetensors")
    for name, value in trunk.state_dict().items():
        assert torch.equal(made.trunk.trunk.state_dict()[name], value), name


def test_features_of_several_levels_see_what_the_last_average_does_not() -> None:
    """A bright spot of one pixel moves the maxima of earlier blocks more than the average over the last map."""
    backbones = part_of_finetune("backbones")
    torch.manual_seed(0)
    trunk = timm.create_model("test_efficientnet", num_classes=0).eval()
    plain = backbones.Backbone("tiny", backbones.MultiLevel(trunk), (0.5,) * 3, (0.5,) * 3, True, "random")
    several = backbones.with_levels(plain)
    pictures = torch.zeros(2, 3, 64, 64)
    pictures[1, :, 30, 30] = 4.0
    with torch.inference_mode():
        alone, together = trunk(pictures), several.trunk.eval()(pictures)
    width = alone.shape[1]
    assert together.shape[1] > width
    assert torch.equal(together[:, :width], alone), "the last level is the one that it was"
    moved = (together[1] - together[0]).abs()
    assert moved[width:].max() > 2 * moved[:width].max()


def test_a_network_whose_blocks_answer_no_maps_stays_as_it_is() -> None:
    backbones = part_of_finetune("backbones")
    trunk = timm.create_model("test_vit", num_classes=0).eval()
    tokens = backbones.Backbone("tokens", backbones.MultiLevel(trunk), (0.5,) * 3, (0.5,) * 3, True, "random", 160)
    pictures = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(backbones.with_levels(tokens).trunk(pictures), trunk(pictures))


@pytest.mark.parametrize(("name", "side"), [("test_efficientnet", 64), ("test_resnet", 64), ("test_convnext", 64)])
def test_a_trunk_in_two_parts_answers_like_the_whole(name: str, side: int) -> None:
    """The rest has the whole's weights under their names, and fewer of them."""
    backbones, prefix = part_of_finetune("backbones"), part_of_finetune("prefix")
    torch.manual_seed(0)
    trunk = backbones.MultiLevel(timm.create_model(name, num_classes=0).eval())
    whole = backbones.with_levels(backbones.Backbone(name, trunk, (0.5,) * 3, (0.5,) * 3, True, "random")).trunk
    pictures = torch.randn(3, 3, side, side)
    first, rest = prefix.split(whole, pictures)
    with torch.inference_mode():
        assert torch.allclose(rest(first(pictures)), whole(pictures), rtol=1e-3, atol=1e-4)
    ours, theirs = rest.state_dict(), whole.state_dict()
    assert 0 < len(ours) < len(theirs)
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_a_network_that_is_no_chain_of_blocks_is_not_cut() -> None:
    """In a vision transformer positions are added between the blocks; a cut one would answer otherwise."""
    backbones, prefix = part_of_finetune("backbones"), part_of_finetune("prefix")
    trunk = backbones.MultiLevel(timm.create_model("test_vit", num_classes=0).eval())
    assert prefix.split(trunk, torch.randn(2, 3, 160, 160)) is None


def test_cached_rows_are_drawn_from_all_views_and_measured_on_the_plain_one() -> None:
    cached = part_of_finetune("cached")
    known, learning = np.array([2, 5, 7, 9]), np.array([5, 9])
    plain = cached.View(known, np.array([[2], [5], [7], [9]], np.float16))
    changed = [cached.View(learning, np.array([[50], [90]], np.float16)) for _ in range(3)]
    inputs = cached.CachedRows(plain, changed)
    assert inputs.judging(np.array([7, 2])).tolist() == [[7], [2]]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([inputs.training(np.array([9, 5]), generator) for _ in range(40)], dim=1)
    assert set(drawn[0].tolist()) == {9, 90}
    assert set(drawn[1].tolist()) == {5, 50}
    assert (drawn[0] == 90).float().mean() > 0.5, "three of four views are changed ones"


def chosen(classes_by: str) -> str:
    """Return the way that is chosen where the class is the light of a picture, or where it is the side of a stripe."""
    trial = part_of_finetune("trial")
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[np.ndarray, torch.Tensor]:
        classes = np.arange(count) % 2
        pictures = rng.normal(120, 4, (count, SIDE, SIDE, 3))
        if classes_by == "light":
            pictures += np.where(classes == 1, 10, -10)[:, None, None, None]
        else:
            for picture, number in zip(pictures, classes, strict=True):
                at = rng.integers(0, SIDE - 3)
                picture[:, at : at + 3] += 80 * number
                picture[at : at + 3] += 80 * (1 - number)
        return pictures.clip(0, 255).astype(np.uint8), torch.from_numpy(classes)

    def features(pictures: np.ndarray) -> np.ndarray:
        grey = pictures.astype(np.float32).mean(axis=3) / 255
        if classes_by == "light":
            return grey.mean(axis=(1, 2))[:, None]
        return grey.reshape(len(grey), -1)

    name, losses = trial.choose_augmentation(
        trial.candidates("both"), features, train=drawn(24), validation=drawn(200), weights=torch.ones(2), decay=0.1,
        seed=0,
    )  # fmt: skip
    assert losses[name] == min(losses.values())
    return name


def test_changes_that_the_class_does_not_survive_are_not_made() -> None:
    assert chosen("light") in ("none", "flips"), "where light tells the class, light is not changed"
    assert chosen("stripes") != "none", "few examples of stripes anywhere: moved copies help"


def test_parts_of_a_network_learn_at_their_own_rates() -> None:
    network = nn.Sequential()
    network.add_module("trunk", nn.Linear(2, 2))
    network.add_module("head", nn.Linear(2, 2))
    plan = TrainingPlan(size=1, epochs=1, rates={"trunk.": 0.2})
    groups = make_optimizer(network, plan).param_groups
    parts = {id(parameter): group["part"] for group in groups for parameter in group["params"]}
    assert {name: parts[id(each)] for name, each in network.named_parameters()} == {
        "trunk.weight": 0.2, "trunk.bias": 0.2, "head.weight": 1.0, "head.bias": 1.0,
    }  # fmt: skip


def test_fine_tuning_that_makes_it_worse_is_left_and_the_head_stays(bench, textures, monkeypatch) -> None:
    """A rate that destroys the network: it is left within the first epoch, and the model is the head's."""
    ladder, backbones = part_of_finetune("ladder"), part_of_finetune("backbones")
    built = backbones.build_backbone
    monkeypatch.setattr(
        sys.modules[ladder.__name__.rpartition(".")[0] + ".main"],
        "build_backbone",
        lambda name, uploaded: built("tf_efficientnet_lite0", None),
    )
    monkeypatch.setattr(ladder, "TRUNK_RATE", 200.0)
    recorder = Recorder()
    asked = {"size": 32, "batch_size": 4, "augmentation": "none", "depth": "full"}
    host = bench.host("finetune", textures, target=1.0, recorder=recorder, parameters=asked, max_epochs=2)
    fitted = ladder.fit_head

    def modest(*arguments):
        head = fitted(*arguments)
        return replace(head, accuracy=min(head.accuracy, 0.95), score=min(head.score, 0.95))

    monkeypatch.setattr(ladder, "fit_head", modest)
    run_image(IMAGES / "finetune", host)
    assert host.result.outcome is not Outcome.TARGET_REACHED
    assert host.result.report["notes"]["way"].startswith("a linear head")
    looks = [each for each in recorder.reports if each.phase == "finetune" and "validation_accuracy" in each.metrics]
    assert looks[0].step < looks[0].total_steps, "the first look comes before the epoch is over"
    assert host.result.report["validation"]["accuracy"] >= 0.9
