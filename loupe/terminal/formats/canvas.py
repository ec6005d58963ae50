"""Between the pixels of a picture, in which most formats speak, and parts of it, in which annotations are kept.

A coordinate that is a whole pixel is written as a whole number, and what is written is read as the same part again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loupe.annotations import DIGITS, Annotation, BadAnnotation, Box, Point, Provenance, box, polygon

_PERSON = Provenance()
_HALF = 0.5001 * 10**-DIGITS


class Canvas(NamedTuple):
    """The size of an upright picture in pixels."""

    width: int
    height: int

    def box(self, label: str, corners: Sequence[float], provenance: Provenance = _PERSON) -> Annotation:
        """Make a box of its corners in pixels: x_min, y_min, x_max, y_max. Raises BadAnnotation."""
        try:
            return box(label, [value / self[index % 2] for index, value in enumerate(corners)], provenance)
        except BadAnnotation as error:
            said = ", ".join(f"{value:g}" for value in corners)
            raise BadAnnotation(f"{error} (in pixels {said}, of a picture of {self.width}x{self.height})") from error

    def polygon(self, label: str, numbers: Sequence[float], provenance: Provenance = _PERSON) -> Annotation:
        """Make a polygon of x and y of each corner in pixels. Raises BadAnnotation."""
        parts = [value / self[index % 2] for index, value in enumerate(numbers)]
        return polygon_of(label, parts, provenance)

    def bounds(self, annotation: Annotation) -> Box:
        """Return the box around an annotation in pixels."""
        x_min, y_min, x_max, y_max = annotation.bounds
        return (
            _pixels(x_min, self.width), _pixels(y_min, self.height),
            _pixels(x_max, self.width), _pixels(y_max, self.height),
        )  # fmt: skip

    def numbers(self, annotation: Annotation) -> list[float]:
        """Return x and y in pixels of an annotation's points, one after the other."""
        return [_pixels(value, self[axis]) for point in annotation.points for axis, value in enumerate(point)]


def polygon_of(label: str, numbers: Sequence[float], provenance: Provenance = _PERSON) -> Annotation:
    """Make a polygon of x and y of each corner in parts of the picture; one that is closed is opened.

    Raises BadAnnotation.

    >>> polygon_of("dent", [0.1, 0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.5, 0.1, 0.1]).points
    ((0.1, 0.1), (0.5, 0.1), (0.5, 0.5))
    """
    if len(numbers) % 2:
        raise BadAnnotation(f"a polygon of {len(numbers)} numbers; x and y of each corner would be right")
    corners: list[Point] = []
    for corner in zip(numbers[::2], numbers[1::2], strict=True):
        if not corners or not _same(corner, corners[-1]):
            corners.append(corner)
    while len(corners) > 1 and _same(corners[0], corners[-1]):
        corners.pop()
    return polygon(label, corners, provenance)


def written(value: float) -> str:
    """Write a number without an exponent and without digits that say nothing.

    >>> written(3), written(0.1234560), written(1e-06)
    ('3', '0.123456', '0.000001')
    """
    return f"{value:.7f}".rstrip("0").rstrip(".")


def _same(one: Point, other: Point) -> bool:
    return round(one[0], DIGITS) == round(other[0], DIGITS) and round(one[1], DIGITS) == round(other[1], DIGITS)


def _pixels(part: float, extent: int) -> float:
    exact = part * extent
    nearest = round(exact)
    # An annotation's part was rounded: what lies within that of a whole pixel was one.
    return nearest if abs(exact - nearest) <= _HALF * extent else round(exact, DIGITS)
