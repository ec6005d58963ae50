"""How a picture becomes an array of another shape: stretched to fill it, or fitted into it as it is, a letterbox."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Fit = Literal["stretch", "letterbox"]
"""stretch: height and width change as they must. letterbox: the picture keeps its shape, lies at the top left of the
array, and the rest is grey."""

FITS: tuple[Fit, ...] = get_args(Fit)
FILL = 114
"""The grey of what a letterboxed picture leaves free, in all three channels."""


def fitted(width: int, height: int, into_width: int, into_height: int, fit: Fit) -> tuple[int, int]:
    """Return the width and height in pixels that an upright picture gets within those that are asked for.

    >>> fitted(4000, 1000, 640, 640, "letterbox"), fitted(4000, 1000, 640, 640, "stretch")
    ((640, 160), (640, 640))
    """
    if fit == "stretch":
        return into_width, into_height
    scale = min(into_width / width, into_height / height)
    return min(into_width, max(1, round(width * scale))), min(into_height, max(1, round(height * scale)))


def to_square(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return boxes in parts of the square that their pictures are letterboxed into.

    boxes: [M, 4], x_min, y_min, x_max, y_max in parts of each one's picture. sizes: [M, 2], width and height of that
    picture. The square's side does not matter; that letterboxed pixels are whole is at most half of one of them.

    >>> to_square(np.array([[0.5, 0.5, 1.0, 1.0]]), np.array([[400, 100]])).tolist()
    [[0.5, 0.125, 1.0, 0.25]]
    """
    scaled: np.ndarray = boxes * _parts(sizes)
    return scaled


def from_square(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return boxes in parts of each one's picture, as `to_square` takes them; what lies beside the picture is above 1.

    >>> from_square(np.array([[0.5, 0.125, 1.0, 0.25]]), np.array([[400, 100]])).tolist()
    [[0.5, 0.5, 1.0, 1.0]]
    """
    scaled: np.ndarray = boxes / _parts(sizes)
    return scaled


def _parts(sizes: np.ndarray) -> np.ndarray:
    """Return [M, 4]: which part of the square's side a picture has in x and y, twice."""
    parts: np.ndarray = sizes / sizes.max(axis=1, keepdims=True, initial=1)
    return np.concatenate([parts, parts], axis=1)
