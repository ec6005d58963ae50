"""The networks that there are, and how each is trained: a light one for CPUs, a strong one for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .network import Block, Dense, Detector, Separable
from .trunk import LITE0, LITE2, Backbone, CpuTrunk, Trunk


@dataclass(frozen=True)
class Variant:
    """A network and what it is trained with, where nothing else is asked for.

    width: channels of its pyramid and heads, made of blocks. batch_size: pictures. learning_rate: the highest.
    smallest, largest: sides of pictures in pixels that are chosen. pixels_per_second: what a CPU thread, or a GPU where
    there is one, trains, roughly; the order matters, since it limits how large pictures are in a short budget.
    """

    name: str
    backbone: Backbone
    trunk: Callable[[Backbone], Trunk]
    block: Block
    width: int
    batch_size: int
    learning_rate: float
    smallest: int
    largest: int
    pixels_per_second: dict[str, float]

    def build(self, size: int, classes: int) -> Detector:
        """Return the network for squares with sides of so many pixels: its trunk pretrained, the rest random."""
        return Detector(self.trunk(self.backbone), size, classes, self.width, self.block)

    @property
    def architecture(self) -> str:
        """What the network is, for people."""
        return f"{self.backbone.name} + anchor-free head of {self.width} channels"


LIGHT = Variant(
    name="light",
    backbone=LITE0,
    trunk=CpuTrunk,
    block=Separable,
    width=96,
    batch_size=16,
    learning_rate=0.002,
    smallest=160,
    largest=512,
    pixels_per_second={"cpu": 1.2e6},
)
STRONG = Variant(
    name="strong",
    backbone=LITE2,
    trunk=Trunk,
    block=Dense,
    width=256,
    batch_size=16,
    learning_rate=0.001,
    smallest=320,
    largest=640,
    pixels_per_second={"cpu": 1.5e5, "cuda": 1e7},
)
VARIANTS = {each.name: each for each in (LIGHT, STRONG)}


def choose_variant(asked: str, device: torch.device) -> Variant:
    """Return the variant of a name; for "auto" the strong one where the device is a GPU."""
    if asked == "auto":
        return STRONG if device.type == "cuda" else LIGHT
    return VARIANTS[asked]
