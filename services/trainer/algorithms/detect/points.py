"""The points of a square at which a detector answers: the centres of the cells of its maps."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .trunk import STRIDES


class Points(NamedTuple):
    """centres: float32 [A, 2], x and y in pixels. strides: float32 [A], the pixels from a point to the next one."""

    centres: torch.Tensor
    strides: torch.Tensor


def points_of(size: int) -> Points:
    """Return the points of all levels of a square with sides of so many pixels, row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        along = (torch.arange(size // stride) + 0.5) * stride
        rows, columns = torch.meshgrid(along, along, indexing="ij")
        centres.append(torch.stack([columns, rows], dim=-1).view(-1, 2))
        strides.append(torch.full((len(centres[-1]),), float(stride)))
    return Points(torch.cat(centres), torch.cat(strides))
