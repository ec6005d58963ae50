"""Where in a picture something is unlike good parts, drawn over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loupe import picture
from loupe.terminal.inspector import Inspection
from loupe.terminal.saliency import Explanations, overlaid

MOST = 0.7
"""The share of red in the most unusual place."""


def strength(heat: np.ndarray) -> np.ndarray:
    """Return how much red each cell of a bad part's heat map gets, 0 to MOST: from half the way to its peak on.

    Where no place sticks out of the others by what good parts differ by, which is 1, none is as red as that.
    """
    usual, peak = float(np.median(heat)), float(heat.max())
    low = (usual + peak) / 2
    found: np.ndarray = (MOST * ((heat - low) / max(0.5, peak - low)).clip(0.0, 1.0)).astype(np.float32)
    return found


class HeatMaps:
    """Writes pictures into a folder, each under a name of its own, bad parts with their heat maps. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._kept = Explanations(folder)

    def write(self, answer: Inspection) -> Path | None:
        """Draw an answer, and return where; None for a picture without one, or one that can no longer be read."""
        if answer.heat is None:
            return None
        try:
            red = strength(answer.heat) if answer.bad else np.zeros_like(answer.heat)
            drawn = overlaid(answer.path, red)
        except (OSError, picture.BadPicture):
            return None
        return self._kept.keep(answer.path, drawn)
