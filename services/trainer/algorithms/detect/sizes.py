"""How large pictures must be for their smallest boxes, and may be for the time that is left."""

from __future__ import annotations

import math

import numpy as np

from loupe.algorithm import Context

from .variants import LIGHT, Variant

MULTIPLE = 32
SMALL_BOX = 0.05
"""The part of the boxes that may be smaller than PIXELS."""
PIXELS = 20
FEWEST_EPOCHS = 12


def choose_size(context: Context, variant: Variant) -> int:
    """Return the side of the pictures in pixels, a multiple of 32: what was asked for, or what boxes and budget need.

    Decided by what is known beforehand and not by a measurement, so that it is the same when the run is repeated.
    """
    if asked := context.parameters["size"]:
        return rounded_up(asked)
    data = context.data
    wanted = size_for_boxes(data.regions.boxes, variant)
    speed = variant.pixels_per_second.get(context.device.type, math.inf)
    if math.isinf(speed * context.seconds_left()):
        return wanted
    if context.device.type == "cpu":
        speed *= context.threads
    pictures = FEWEST_EPOCHS * (len(data.train) + len(data.validation) / 4)
    bearable = math.sqrt(context.seconds_left() * speed / pictures)
    return max(variant.smallest, min(wanted, MULTIPLE * int(bearable / MULTIPLE)))


def size_for_boxes(boxes: np.ndarray, variant: Variant = LIGHT) -> int:
    """Return the side at which all boxes, float [M, 4] in 0..1, but the smallest few, have PIXELS.

    >>> size_for_boxes(np.array([[0.1, 0.1, 0.5, 0.5]])), size_for_boxes(np.array([[0.1, 0.1, 0.15, 0.15]]))
    (160, 416)
    """
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    small = float(np.quantile(sides, SMALL_BOX))
    return min(variant.largest, max(variant.smallest, rounded_up(PIXELS / max(small, 1e-3))))


def rounded_up(side: float) -> int:
    """Return the next multiple of 32 pixels.

    >>> rounded_up(161), rounded_up(224)
    (192, 224)
    """
    return MULTIPLE * math.ceil(side / MULTIPLE)
