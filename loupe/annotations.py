"""What is to be seen where in a picture: boxes and polygons with a class, in parts of the upright picture.

Coordinates run from 0, 0 at the top left corner to 1, 1 at the bottom right one of the picture as EXIF says that it is
to be held, rounded to six digits: a file of any format that is written from them and read again gives the same ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loupe.labels import normalise_label

MAX_REGIONS = 1000
"""The most annotations of one picture."""
MAX_POINTS = 1000
"""The most corners of a polygon."""
MAX_CORNERS = 100_000
"""The most corners of all annotations of one picture; a box has 2."""
DIGITS = 6
UNLABELLED = ""
"""The annotations, as text, of a picture that nobody looked at."""
NOTHING_THERE = "[]"
"""The annotations, as text, of a picture that was looked at, and nothing is there."""

_SCALE = 10**DIGITS
_REGIONS = '{"regions":'
_PROVENANCE = ',"provenance":'
_LABEL = re.compile(r'\["((?:[^"\\]|\\.)*)",\[\[')
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_OVER = 1e-3
"""How far beyond the picture's edge a coordinate may lie, as rounding of pixels puts it; it is put on the edge."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class BadAnnotation(ValueError):
    """Says what is wrong with an annotation, and what would be right."""


@dataclass(frozen=True)
class Provenance:
    """Where an annotation comes from.

    model: the model version that made it, "projects/…/models/…/versions/…"; empty for a person. confidence: the
    model's, 0..1. author: the account that put it in. verifier, verified_at: who said that it is right, and when, in
    seconds since 1970; empty and 0 for nobody.
    """

    author: str = ""
    model: str = ""
    confidence: float = 0.0
    verifier: str = ""
    verified_at: float = 0.0

    @property
    def open(self) -> bool:
        """Whether a model made it and nobody said yet that it is right."""
        return bool(self.model) and not self.verifier


@dataclass(frozen=True)
class Annotation:
    """A region of a picture and its class.

    points: two for a box, its corners top left and bottom right; else a polygon's. Made by box() and polygon(), which
    check it.
    """

    label: str
    points: tuple[Point, ...]
    provenance: Provenance = Provenance()

    @property
    def is_box(self) -> bool:
        """Whether it is a box."""
        return len(self.points) == 2

    @property
    def bounds(self) -> Box:
        """The smallest box around it: x_min, y_min, x_max, y_max.

        >>> polygon("dent", [(0.1, 0.1), (0.5, 0.2), (0.3, 0.6)]).bounds
        (0.1, 0.1, 0.5, 0.6)
        """
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def box(label: str, corners: Sequence[float], provenance: Provenance = Provenance()) -> Annotation:
    """Return a checked box. corners: x_min, y_min, x_max, y_max. Raises BadAnnotation.

    >>> box("dent", (0.25, 0.5, 0.75, 1.0000004)).points
    ((0.25, 0.5), (0.75, 1.0))
    >>> box("dent", (0.75, 0.5, 0.25, 1.0))
    Traceback (most recent call last):
    loupe.annotations.BadAnnotation: the box 0.75, 0.5, 0.25, 1.0 is inverted or empty; min < max would be right
    """
    if len(corners) != 4:
        raise BadAnnotation(f"a box has 4 numbers, x_min, y_min, x_max and y_max, not {len(corners)}")
    x_min, y_min, x_max, y_max = (_inside(value) for value in corners)
    if x_min >= x_max or y_min >= y_max:
        shown = ", ".join(f"{value:g}" if value % 1 else f"{value:.1f}" for value in corners)
        raise BadAnnotation(f"the box {shown} is inverted or empty; min < max would be right")
    return Annotation(_label(label), ((x_min, y_min), (x_max, y_max)), provenance)


def polygon(label: str, points: Sequence[Point], provenance: Provenance = Provenance()) -> Annotation:
    """Return a checked polygon, of its corners in order; the last one joins the first. Raises BadAnnotation.

    A corner that is the one before it once more, as where a file names the first one again at the end, counts once.

    >>> polygon("dent", [(0, 0), (0.5, 0), (0.5, 0.0000001), (0, 0.5), (0, 0)]).points
    ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
    """
    if not 3 <= len(points) <= MAX_POINTS + 1:
        raise _bad_corners(len(points))
    inside = [(_inside(x), _inside(y)) for x, y in points]
    corners = tuple(corner for corner, after in zip(inside, [*inside[1:], inside[0]], strict=True) if corner != after)
    if not 3 <= len(corners) <= MAX_POINTS:
        raise _bad_corners(len(corners))
    closed = np.rint(np.array([*corners, corners[0]]) * _SCALE)
    if _crosses(closed):
        raise BadAnnotation("a polygon whose edges cross or touch each other; one that goes once around would be right")
    if not _has_area(closed):
        raise BadAnnotation("a polygon without area; corners that do not lie on one line would be right")
    return Annotation(_label(label), corners, provenance)


def normalise(annotations: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """Return annotations in the one order that they are kept in, each region of a class once. Raises BadAnnotation."""
    kept = {(each.label, each.points): each for each in annotations}
    if len(kept) > MAX_REGIONS:
        raise BadAnnotation(f"{len(kept)} annotations of one picture; at most {MAX_REGIONS} are taken")
    corners = sum(len(points) for _, points in kept)
    if corners > MAX_CORNERS:
        raise BadAnnotation(f"annotations of one picture with {corners} corners; at most {MAX_CORNERS} are taken")
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (key[1], key[0])))


def write(annotations: Iterable[Annotation]) -> str:
    """Return annotations as they are kept, in JSON; of none NOTHING_THERE.

    >>> write([box("dent", (0, 0, 0.5, 0.5), Provenance("accounts/anna"))])
    '{"regions":[["dent",[[0.0,0.0],[0.5,0.5]]]],"provenance":[{"author":"accounts/anna"}]}'
    """
    kept = normalise(annotations)
    if not kept:
        return NOTHING_THERE
    regions = _encode([(each.label, each.points) for each in kept])
    said = [{name: value for name, value in vars(each.provenance).items() if value} for each in kept]
    return f'{{"regions":{regions}{_PROVENANCE}{_encode(said)}}}'


def read(text: str) -> tuple[Annotation, ...]:
    """Read what `write` wrote; of an unlabelled picture none."""
    if text in (UNLABELLED, NOTHING_THERE):
        return ()
    said = json.loads(text)
    return tuple(
        Annotation(label, tuple((x, y) for x, y in points), Provenance(**provenance))
        for (label, points), provenance in zip(said["regions"], said["provenance"], strict=True)
    )


def regions_of(text: str) -> str:
    """Return what is to be seen where, of annotations as they are kept: equal texts say the same of a picture.

    Who put it in, and which model, is left out. Empty for an unlabelled picture.

    >>> regions_of(write([box("dent", (0, 0, 0.5, 0.5), Provenance("accounts/anna"))]))
    '[["dent",[[0.0,0.0],[0.5,0.5]]]]'
    """
    return text[len(_REGIONS) : text.index(_PROVENANCE)] if text.startswith(_REGIONS) else text


def labels_of(text: str) -> list[str]:
    """Return the class of each region, of annotations as they are kept.

    >>> labels_of(write([box("dent", (0, 0, 0.5, 0.5)), box("dent", (0, 0, 1, 1)), box("hole", (0, 0, 1, 1))]))
    ['dent', 'dent', 'hole']
    """
    found = _LABEL.findall(regions_of(text))
    return [json.loads(f'"{each}"') if "\\" in each else each for each in found]


def mark_of(label: str) -> str:
    """Return what stands in annotations as they are kept wherever a region of a class begins, and nowhere else.

    >>> mark_of("dent") in write([box("dent", (0, 0, 0.5, 0.5))])
    True
    """
    return f"[{_encode(label)},[["


def identity(text: str) -> str:
    """Return what a data set version's digest says of annotations as they are kept; empty for an unlabelled picture.

    Classes and regions, and of those that a model made and nobody verified, the model and its confidence: who put the
    others in, and when, is left out, so that a version which was exported and comes back is the same.
    """
    if not text.startswith(_REGIONS):
        return text
    end = text.index(_PROVENANCE)
    if text.find('"model":', end) < 0:
        return text[len(_REGIONS) : end]
    said = [
        [
            each.label,
            each.points,
            *([each.provenance.model, each.provenance.confidence] if each.provenance.open else []),
        ]
        for each in read(text)
    ]
    return _encode(said)


def _label(label: str) -> str:
    try:
        return normalise_label(label)
    except ValueError as error:
        raise BadAnnotation(f"the class {label!r} {error}") from error


def _inside(value: float) -> float:
    if not math.isfinite(value) or not -_OVER <= value <= 1 + _OVER:
        raise BadAnnotation(f"the coordinate {value:g} lies outside of the picture; 0 to 1 would be right")
    return round(min(1.0, max(0.0, value)), DIGITS) + 0.0


def _bad_corners(count: int) -> BadAnnotation:
    return BadAnnotation(f"a polygon of {count} different corners; 3 to {MAX_POINTS} would be right")


def _has_area(closed: np.ndarray) -> bool:
    """Say whether a polygon has an area, exactly. closed: float [n + 1, 2], whole numbers, the first one again last."""
    x, y = closed.T
    return bool(x[:-1] @ y[1:] - x[1:] @ y[:-1])


def _crosses(closed: np.ndarray) -> bool:
    """Say whether two edges that are not neighbours touch or cross. closed: as of _has_area, each number 0 to 10^6.

    Exact: what decides stays below 2^53. All pairs at once: of 1,000 corners in 10 ms, while other threads run.
    """
    count = len(closed) - 1
    if count == 3:
        return False
    (x, y), (step_x, step_y) = closed[:-1].T, (closed[1:] - closed[:-1]).T
    # side[i, k]: on which side of the line through edge i corner k lies, 0 on it.
    side = np.array([-step_y, step_x, step_y * x - step_x * y]).T @ np.array([*closed.T, np.ones(count + 1)])
    parted = side[:, :-1] * side[:, 1:] <= 0
    touching = np.triu(parted & parted.T, 2)
    touching[0, -1] = False
    if not touching.any():
        return False
    # Edges on one line part each other wherever they lie on it.
    firsts, seconds = np.nonzero(touching)
    low, high = np.minimum(closed[:-1], closed[1:]), np.maximum(closed[:-1], closed[1:])
    return bool(((low[firsts] <= high[seconds]) & (low[seconds] <= high[firsts])).all(axis=1).any())
