"""What is to be seen where in a picture: boxes and polygons with a class, in parts of the upright picture.

Coordinates run from 0, 0 at the top left corner to 1, 1 at the bottom right one of the picture as EXIF says that it is
to be held, rounded to six digits: a file of any format that is written from them and read again gives the same ones.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loupe.labels import normalise_label

MAX_REGIONS = 1000
"""The most annotations of one picture."""
MAX_POINTS = 1000
"""The most corners of a polygon."""
DIGITS = 6
UNLABELLED = ""
"""The annotations, as text, of a picture that nobody looked at."""
NOTHING_THERE = "[]"
"""The annotations, as text, of a picture that was looked at, and nothing is there."""

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
    """Return a checked polygon, of its corners in order; the last one joins the first. Raises BadAnnotation."""
    if not 3 <= len(points) <= MAX_POINTS:
        raise BadAnnotation(f"a polygon of {len(points)} corners; 3 to {MAX_POINTS} would be right")
    corners = tuple((_inside(x), _inside(y)) for x, y in points)
    if not _area(corners):
        raise BadAnnotation("a polygon without area; corners that do not lie on one line would be right")
    if _crosses(corners):
        raise BadAnnotation("a polygon whose edges cross each other; one that goes once around would be right")
    return Annotation(_label(label), corners, provenance)


def normalise(annotations: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """Return annotations in the one order that they are kept in, each region of a class once. Raises BadAnnotation."""
    kept = {(each.label, each.points): each for each in annotations}
    if len(kept) > MAX_REGIONS:
        raise BadAnnotation(f"{len(kept)} annotations of one picture; at most {MAX_REGIONS} are taken")
    return tuple(kept[key] for key in sorted(kept, key=lambda key: (key[1], key[0])))


def write(annotations: Iterable[Annotation]) -> str:
    """Return annotations as they are kept, in JSON; of none NOTHING_THERE.

    >>> write([box("dent", (0, 0, 0.5, 0.5))])
    '[{"label":"dent","points":[[0.0,0.0],[0.5,0.5]]}]'
    """
    return json.dumps([_document(each) for each in normalise(annotations)], ensure_ascii=False, separators=(",", ":"))


def read(text: str) -> tuple[Annotation, ...]:
    """Read what `write` wrote; of an unlabelled picture none."""
    return tuple(
        Annotation(
            each["label"],
            tuple((x, y) for x, y in each["points"]),
            Provenance(**{name: value for name, value in each.items() if name not in ("label", "points")}),
        )
        for each in (json.loads(text) if text else ())
    )


def identity(text: str) -> str:
    """Return what a data set version's digest says of annotations as they are kept; empty for an unlabelled picture.

    Classes and regions, and of those that a model made and nobody verified, the model and its confidence: who put the
    others in, and when, is left out, so that a version which was exported and comes back is the same.
    """
    if text in (UNLABELLED, NOTHING_THERE):
        return text
    said = [
        [
            each.label,
            each.points,
            *([each.provenance.model, each.provenance.confidence] if each.provenance.open else []),
        ]
        for each in read(text)
    ]
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def _document(annotation: Annotation) -> dict[str, Any]:
    said = {name: value for name, value in vars(annotation.provenance).items() if value}
    return {"label": annotation.label, "points": annotation.points, **said}


def _label(label: str) -> str:
    try:
        return normalise_label(label)
    except ValueError as error:
        raise BadAnnotation(f"the class {label!r} {error}") from error


def _inside(value: float) -> float:
    if not math.isfinite(value) or not -_OVER <= value <= 1 + _OVER:
        raise BadAnnotation(f"the coordinate {value:g} lies outside of the picture; 0 to 1 would be right")
    return round(min(1.0, max(0.0, value)), DIGITS) + 0.0


def _area(corners: Sequence[Point]) -> float:
    closed = itertools.pairwise([*corners, corners[0]])
    return abs(round(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in closed) / 2, 2 * DIGITS))


def _crosses(corners: Sequence[Point]) -> bool:
    """Say whether two edges that are not neighbours touch or cross."""
    edges = list(itertools.pairwise([*corners, corners[0]]))
    last = len(edges) - 1
    return any(
        _touch(*edges[first], *edges[second])
        for first, second in itertools.combinations(range(len(edges)), 2)
        if second - first > 1 and (first, second) != (0, last)
    )


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Say whether the line from a to b has a point in common with that from c to d."""
    sides = _side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b)
    if sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0:
        return True
    on = zip(sides, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True)
    return any(not side and _between(*points) for side, points in on)


def _side(a: Point, b: Point, c: Point) -> float:
    return round((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]), 2 * DIGITS)


def _between(a: Point, b: Point, c: Point) -> bool:
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])
