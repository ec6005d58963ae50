"""Regions as a .npy file of records: how they lie in a run's folders, and nothing in it can run when it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loupe.tasks.average_precision import Regions

RECORD = np.dtype([("picture", "<i4"), ("class", "<i4"), ("box", "<f4", (4,)), ("score", "<f4")])
"""A region, see Regions; the score of an annotation is 0."""


def write_regions(path: Path, regions: Regions) -> None:
    """Write regions to a file."""
    records = np.zeros(len(regions), RECORD)
    records["picture"], records["class"], records["box"] = regions.pictures, regions.classes, regions.boxes
    if regions.scores is not None:
        records["score"] = regions.scores
    np.save(path, records, allow_pickle=False)


def read_regions(path: Path) -> Regions:
    """Read annotations that `write_regions` wrote."""
    return of_records(np.load(path, allow_pickle=False))


def of_records(records: np.ndarray, *, scored: bool = False) -> Regions:
    """Return records as regions, ordered by picture. scored: they are a model's, not annotations."""
    records = records[np.argsort(records["picture"], kind="stable")]
    return Regions(
        records["picture"].astype(np.int64),
        records["class"].astype(np.int64),
        np.ascontiguousarray(records["box"]),
        np.ascontiguousarray(records["score"]) if scored else None,
    )


def no_regions() -> Regions:
    """Return annotations of nothing."""
    return of_records(np.zeros(0, RECORD))
