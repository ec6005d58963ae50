"""Upright copies of pictures with what was found drawn into them: a box each, in the colour of its class."""

from __future__ import annotations

import colorsys
import contextlib
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from loupe import picture
from loupe.terminal.decoding import read_picture
from loupe.terminal.escapes import escaped
from loupe.terminal.saliency import LONGEST_STEM

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    from loupe.terminal.detector import Detections, Found

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

LONGEST_SIDE = 2048
"""Of a copy, in pixels: larger pictures are scaled down."""
LONGEST_NAME = 40
"""The characters of a class name that are drawn."""
MOST_DRAWN = 300
"""The boxes that are drawn, the surest ones: more cover the picture and each other."""
_GOLDEN_SECTION = 0.618034


class Drawings:
    """Writes copies of pictures with what was found into a folder, each as a new file. Raises OSError.

    labels: the classes that there are.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._colours = colours_of(labels)
        self._numbers: Counter[str] = Counter()

    def write(self, detections: Detections) -> Path | None:
        """Write one picture with what was found in it, and return where; None for one that can no longer be read.

        It is called "part.detected.png", with a number where there is such a file: none is written over.
        """
        try:
            copy = drawn(detections, self._colours)
        except (OSError, picture.BadPicture):
            return None
        with self._new_file(detections.path.stem[:LONGEST_STEM]) as file:
            target = Path(file.name)
            try:
                copy.save(file, "PNG", compress_level=1)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
        return target

    def _new_file(self, stem: str) -> BinaryIO:
        """Open a file that was not there, whatever other programs do meanwhile."""
        while True:
            self._numbers[stem] += 1
            number = f".{self._numbers[stem]}" if self._numbers[stem] > 1 else ""
            with contextlib.suppress(FileExistsError):
                return (self._folder / f"{stem}{number}.detected.png").open("xb")


def drawn(detections: Detections, colours: Mapping[str, Colour]) -> Image:
    """Return the picture, upright and at most LONGEST_SIDE long, with what was found. Raises BadPicture and OSError."""
    from PIL import Image, ImageDraw

    scale = min(1.0, LONGEST_SIDE / max(detections.width, detections.height))
    width, height = (max(1, round(side * scale)) for side in (detections.width, detections.height))
    copy = Image.fromarray(picture.decode(read_picture(detections.path), height, width))
    draw = ImageDraw.Draw(copy)
    stroke = max(1, round(max(width, height) / 400))
    for one in reversed(detections.found[:MOST_DRAWN]):  # the surest lies on top
        _draw(draw, one, colours[one.label], np.array([width, height] * 2), stroke)
    return copy


def colours_of(labels: Sequence[str]) -> Mapping[str, Colour]:
    """Return a bright colour for each class, by its place, each far from those before it.

    >>> colours_of(["crack", "dent"])
    {'crack': (255, 38, 38), 'dent': (38, 101, 255)}
    """
    hues = ((_GOLDEN_SECTION * number) % 1 for number in range(len(labels)))
    parts = (colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues)
    return {
        label: (round(255 * r), round(255 * g), round(255 * b)) for label, (r, g, b) in zip(labels, parts, strict=True)
    }


def _draw(draw: ImageDraw, found: Found, colour: Colour, sides: np.ndarray, stroke: int) -> None:
    x0, y0, x1, y1 = (float(edge) for edge in np.array(found.box) * sides)
    draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=stroke)
    font = _font(10 + 3 * stroke)
    text = f"{escaped(found.label, LONGEST_NAME)} {found.confidence:.2f}"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * stroke, bottom - top + 2 * stroke
    # Above the box where there is room, else inside; never beyond the picture's right edge.
    x = max(0.0, min(x0, sides[0] - width))
    y = y0 - height if y0 >= height else y0
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + stroke - left, y + stroke - top), text, fill=_ink(colour), font=font)


@functools.lru_cache
def _font(size: int) -> FreeTypeFont | BitmapFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _ink(colour: Colour) -> str:
    """Return what can be read on a colour, by its luminance as in ITU-R BT.601."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
