"""How large pictures must be for their smallest boxes, and may be for the time that is left."""

from __future__ import annotations

import math

import numpy as np

from loupe.algorithm import Context

SMALLEST, LARGEST, MULTIPLE = 160, 512, 32
SMALL_BOX = 0.05
"""The part of the boxes that may be smaller than PIXELS."""
PIXELS = 20
FEWEST_EPOCHS = 12
PIXELS_PER_SECOND = 1.2e6
"""What a thread trains, roughly: the order matters, since it limits how large pictures are in a short budget."""


def choose_size(context: Context) -> int:
    """Return the side of the pictures in pixels, a multiple of 32: what was asked for, or what boxes and budget need.

    Decided by what is known beforehand and not by a measurement, so that it is the same when the run is repeated.
    """
    if asked := context.parameters["size"]:
        return rounded_up(asked)
    data = context.data
    wanted = size_for_boxes(data.regions.boxes)
    if context.device.type != "cpu" or math.isinf(context.seconds_left()):
        return wanted
    pictures = FEWEST_EPOCHS * (len(data.train) + len(data.validation) / 4)
    bearable = math.sqrt(context.seconds_left() * context.threads * PIXELS_PER_SECOND / pictures)
    return max(SMALLEST, min(wanted, MULTIPLE * int(bearable / MULTIPLE)))


def size_for_boxes(boxes: np.ndarray) -> int:
    """Return the side at which all boxes, float [M, 4] in 0..1, but the smallest few, have PIXELS.

    >>> size_for_boxes(np.array([[0.1, 0.1, 0.5, 0.5]])), size_for_boxes(np.array([[0.1, 0.1, 0.15, 0.15]]))
    (160, 416)
    """
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    small = float(np.quantile(sides, SMALL_BOX))
    return min(LARGEST, max(SMALLEST, rounded_up(PIXELS / max(small, 1e-3))))


def rounded_up(side: float) -> int:
    """Return the next multiple of 32 pixels.

    >>> rounded_up(161), rounded_up(224)
    (192, 224)
    """
    return MULTIPLE * math.ceil(side / MULTIPLE)
