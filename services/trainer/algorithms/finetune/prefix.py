"""A trunk in two parts: what stays frozen while fine-tuning is computed once, and only the rest is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from .backbones import MultiLevel, answers_of, early_blocks, pooled, trunk_blocks

AGREEMENT = 1e-3
"""How far apart the features of a trunk and of its two parts may be, as a part of the largest."""


class Prefix(nn.Module):
    """The first part: normalised pictures [N, 3, H, W] to rows [N, K].

    A row is what goes into the rest, the answer of the block `last`, and then the means and maxima of `levels`, early
    blocks that are features already.
    """

    def __init__(self, trunk: nn.Module, last: str, levels: Sequence[str]) -> None:
        super().__init__()
        self.trunk, self._last, self._levels = trunk, last, levels

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        with answers_of(self.trunk, {self._last, *self._levels}) as answers:
            self.trunk(pictures)
        return torch.cat([answers[self._last].flatten(1), *(pooled(answers[name]) for name in self._levels)], dim=1)


class Rest(nn.Module):
    """The other part: rows of a Prefix, [N, K], to the features [N, D] of the whole trunk.

    shape: of what goes into it, without N. levels: its own blocks whose means and maxima are features.
    """

    def __init__(self, trunk: nn.Module, levels: Sequence[str], shape: torch.Size) -> None:
        super().__init__()
        self.trunk, self._levels, self._shape = trunk, levels, shape

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        size = math.prod(self._shape)
        maps = rows[:, :size].reshape(-1, *self._shape)
        if len(self._shape) == 3:
            maps = maps.contiguous(memory_format=torch.channels_last)
        with answers_of(self.trunk, self._levels) as answers:
            features = self.trunk(maps)
        return torch.cat([features, rows[:, size:], *(pooled(answers[name]) for name in self._levels)], dim=1)


def split(whole: MultiLevel, pictures: torch.Tensor) -> tuple[Prefix, Rest] | None:
    """Return a trunk's early blocks, and a copy of its rest, which takes their rows; None where it has no such cut.

    The rest's weights have the same names as in the whole. pictures: normalised [N, 3, H, W], what both ways are
    compared on: a trunk in which something gets past the last early block answers otherwise when it is cut.
    """
    blocks, early = trunk_blocks(whole.trunk), early_blocks(whole.trunk)
    with torch.inference_mode(), answers_of(whole.trunk, blocks) as answers:
        expected = whole.eval()(pictures)
    order = list(answers)
    trained = [at for at, name in enumerate(order) if name not in early and _learns(blocks[name])]
    if not trained or trained[0] == 0 or not isinstance(answers[order[trained[0] - 1]], torch.Tensor):
        return None
    before = order[: trained[0]]
    inner = copy.deepcopy(whole.trunk)
    for name in before:
        inner.set_submodule(name, nn.Identity())
    prefix = Prefix(whole.trunk, before[-1], [name for name in whole.blocks if name in before])
    levels = [name for name in whole.blocks if name not in before]
    rest = Rest(inner, levels, answers[before[-1]].shape[1:]).eval()
    with torch.inference_mode():
        try:
            got = rest(prefix(pictures))
        except (RuntimeError, TypeError, ValueError):
            return None  # what does not fit together without its beginning is no chain of blocks
    far = AGREEMENT * float(expected.abs().max())
    return (prefix, rest) if got.shape == expected.shape and float((got - expected).abs().max()) <= far else None


def _learns(block: nn.Module) -> bool:
    return any(True for _ in block.parameters())
