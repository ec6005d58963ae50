"""What a detector's package has besides: its golden pictures with their boxes, and the score from which on boxes count.

`golden.npz` has `pictures`, uint8 [K, S, S, 3], and for each box that is found in them `found_pictures`, `boxes`,
`scores` and `classes`, as the model's outputs are. `min_confidence` in model.json is the score from which on boxes are
shown; `operating_points` say of other scores how many boxes of the validation pictures they show, and how many of
these are wrong.
"""

from __future__ import annotations

import numpy as np

from loupe.algorithm.detection.export import OUTPUTS
from loupe.algorithm.package import GOLDEN_PICTURES
from loupe.tasks.average_precision import Regions


def golden_rows(found: Regions, pictures: int, classes: int) -> np.ndarray:
    """Pick up to GOLDEN_PICTURES of so many pictures, one class after the other, those with the surest boxes first.

    Sure boxes are found on every device; a borderline one would call a correct model altered.
    """
    assert found.scores is not None, "what a model found has scores"
    surest = np.zeros((classes, pictures), np.float32)
    np.maximum.at(surest, (found.classes, found.pictures), found.scores)
    queues = np.argsort(-surest, axis=1, kind="stable")
    # The queues' heads, then what is behind them.
    picked = dict.fromkeys(queues.T.reshape(-1).tolist())
    return np.array(list(picked)[:GOLDEN_PICTURES])


def golden_arrays(pictures: np.ndarray, found: Regions) -> dict[str, np.ndarray]:
    """Return the arrays of golden.npz. pictures: uint8 [K, S, S, 3]. found: what the model finds in them."""
    assert found.scores is not None, "what a model found has scores"
    expected = (found.pictures, found.boxes, found.scores, found.classes)
    return {"pictures": pictures, **dict(zip(OUTPUTS, expected, strict=True))}
