"""Folders of annotated pictures for runs on this machine: from a COCO file, or from arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loupe.algorithm.host import Split
from loupe.algorithm.local import SPLITS_BY_NAME, BadFolder, PictureFolder, drawn_splits
from loupe.algorithm.region_file import RECORD, of_records
from loupe.annotations import BadAnnotation, Box, box
from loupe.letterbox import to_square
from loupe.picture import BadPicture, digest, read
from loupe.picture_folders import SPLIT_NAMES, SUFFIXES

COCO_FILE = "annotations.json"
"""What the COCO file beside the pictures is called."""

Labelled = tuple[str, Box]
"""A class, and a box's left, upper, right and lower edge in pixels of the upright picture."""


def read_coco(root: Path, *, validation: float = 0.2, test: float = 0.2) -> PictureFolder:
    """Read COCO_FILE in a folder, and the pictures that it names; a polygon counts as the box that the file has for it.

    A picture without annotations has nothing in it; one in the folder that the file does not name was not looked at. A
    picture is in the split that a part of its path names ("train", "validation", "test"); where none does, the order of
    their digests splits them, validation and test being parts of 1. Raises BadFolder.
    """
    try:
        document = json.loads((root / COCO_FILE).read_text(encoding="utf-8"))
        labels = {each["id"]: str(each["name"]) for each in document["categories"]}
        paths = {each["id"]: root / each["file_name"] for each in document["images"]}
        boxes: dict[Any, list[Labelled]] = {number: [] for number in paths}
        for each in document["annotations"]:
            left, top, width, height = (float(value) for value in each["bbox"])
            boxes[each["image_id"]].append((labels[each["category_id"]], (left, top, left + width, top + height)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFolder(f"{root / COCO_FILE} is not a COCO file with boxes: {error!r}") from error
    known = set(paths.values())
    others = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path not in known)
    rows = [(path, boxes[number], _split_of(path.relative_to(root))) for number, path in paths.items()]
    return _folder(root, [*rows, *((path, None, None) for path in others)], labels.values(), validation, test)


def write_arrays(
    root: Path, pictures: Sequence[np.ndarray], boxes: Sequence[Sequence[Labelled] | None], splits: Sequence[Split]
) -> PictureFolder:
    """Write uint8 [H, W, 3] arrays into a folder as PNG files, and return it. boxes: None where nobody looked."""
    root.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Path, Sequence[Labelled] | None, Split | None]] = []
    for number, (pixels, there, split) in enumerate(zip(pictures, boxes, splits, strict=True)):
        Image.fromarray(pixels).save(root / f"{number:05}.png")
        rows.append((root / f"{number:05}.png", there, split))
    labels = {label for there in boxes for label, _ in there or ()}
    return _folder(root, rows, labels, 0.0, 0.0)


def _folder(
    root: Path,
    rows: Sequence[tuple[Path, Sequence[Labelled] | None, Split | None]],
    labels: Iterable[str],
    validation: float,
    test: float,
) -> PictureFolder:
    seen: dict[str, tuple[Path, Sequence[Labelled] | None, Split | None]] = {}
    for path, there, split in rows:
        try:
            seen.setdefault(digest(path.read_bytes()), (path, there, split))
        except OSError as error:
            raise BadFolder(f"{path} cannot be read: {error}") from error
    if not seen:
        raise BadFolder(f"{root} has no pictures")
    digests, names = sorted(seen), sorted(set(labels))
    looked_at = np.array([seen[each][1] is not None for each in digests])
    splits = np.full(len(digests), Split.UNLABELLED, dtype=np.uint8)
    splits[looked_at] = drawn_splits(int(looked_at.sum()), validation, test)
    for row, each in enumerate(digests):
        if looked_at[row] and (split := seen[each][2]) is not None:
            splits[row] = split
    records = [
        (row, names.index(label), found, 0.0)
        for row, each in enumerate(digests)
        for label, found in _in_square(*seen[each][:2])
    ]
    classes = np.full(len(digests), -1, dtype=np.int32)
    regions = of_records(np.array(records, RECORD))
    return PictureFolder(root, names, [seen[each][0] for each in digests], digests, classes, splits, regions)


def _in_square(path: Path, there: Sequence[Labelled] | None) -> list[tuple[str, tuple[float, ...]]]:
    """Return boxes of a picture in parts of the square that it is letterboxed into."""
    if not there:
        return []
    try:
        decoded = read(path.read_bytes(), 1, 1)
        size = np.array([decoded.width, decoded.height])
        parts = [np.array(box(label, tuple(np.array(corners) / np.tile(size, 2))).bounds) for label, corners in there]
    except (BadPicture, BadAnnotation) as error:
        raise BadFolder(f"{path}: {error}") from error
    square = to_square(np.stack(parts), np.tile(size, (len(parts), 1)))
    return [(label, tuple(corners)) for (label, _), corners in zip(there, square.tolist(), strict=True)]


def _split_of(path: Path) -> Split | None:
    named = [SPLIT_NAMES[part.lower()] for part in path.parts[:-1] if part.lower() in SPLIT_NAMES]
    return SPLITS_BY_NAME[named[0]] if named else None
