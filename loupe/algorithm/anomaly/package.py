"""What an inspector's package has besides: golden scores and heat maps, and the scores that set its threshold.

`golden.npz` has `pictures`, uint8 [K, S, S, 3], their `scores`, and
`maps`. The member `inspection` of model.json says which class is that of the good parts, the rate of false alarms that
was asked for, the threshold for it, and the highest scores of the good validation pictures (of so many `pictures`), by
which terminals set thresholds for other rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loupe.algorithm.package import GOLDEN_PICTURES, ExportMismatch

TOLERANCE = 0.02, 1e-3
"""How far scores and map cells may be apart: so much, and this part of the value besides. Their unit is the spread of
good pictures."""


def check_parity(expected: tuple[np.ndarray, np.ndarray], got: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Compare scores [N] and maps [N, h, h] of the network and of the ONNX model, picture by picture.

    Returns JSON-able figures. Raises ExportMismatch where one is farther off than TOLERANCE.
    """
    absolute, relative = TOLERANCE
    for name, wanted, found in zip(("scores", "heat maps"), expected, got, strict=True):
        off = np.abs(wanted - found)
        if not (off <= absolute + relative * np.abs(wanted)).all():  # also catches NaN
            raise ExportMismatch(
                f"the ONNX model's {name} differ from the network's by up to {off.max():.2g} (at most {absolute} and "
                f"{relative:.1%} of the value is taken)"
            )
    differences = [float(np.abs(wanted - found).max(initial=0.0)) for wanted, found in zip(expected, got, strict=True)]
    return {
        "pictures": len(expected[0]),
        "max_difference": differences[0],
        "max_map_difference": differences[1],
        "tolerance": absolute,
        "relative_tolerance": relative,
    }


def golden_rows(good: np.ndarray) -> np.ndarray:
    """Pick up to GOLDEN_PICTURES of M pictures, good and bad ones in turn. good: bool [M].

    >>> golden_rows(np.array([True, True, False])).tolist()
    [0, 2, 1]
    """
    queues = [np.flatnonzero(good).tolist(), np.flatnonzero(~good).tolist()]
    picked: list[int] = []
    while len(picked) < min(GOLDEN_PICTURES, len(good)):
        picked += [queue.pop(0) for queue in queues if queue]
    return np.array(picked[:GOLDEN_PICTURES])
