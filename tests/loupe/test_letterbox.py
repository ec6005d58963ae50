"""Letterboxed pictures: their own shape, upright, at the top left of what is asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from loupe import picture
from loupe.letterbox import FILL, to_square


def encoded(kind: str, orientation: int) -> bytes:
    """Return a picture of 400 x 100, red on its left and blue on its right, with an orientation in its EXIF."""
    image = Image.new("RGB", (400, 100), (255, 0, 0))
    image.paste((0, 0, 255), (200, 0, 400, 100))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "lying", "first"), [(1, True, 0), (3, True, 2), (6, False, 0), (8, False, 2)])
def test_a_picture_lies_upright_at_the_top_left(kind: str, orientation: int, lying: bool, first: int) -> None:
    decoded = picture.read(encoded(kind, orientation), 64, 64, "letterbox")
    assert (decoded.width, decoded.height) == ((400, 100) if lying else (100, 400))
    pixels = decoded.pixels if lying else decoded.pixels.transpose(1, 0, 2)
    assert (pixels[16:] == FILL).all() and not (pixels[:16] == FILL).all(axis=2).any()
    assert pixels[2, 2].argmax() == first and pixels[2, 60].argmax() == 2 - first
    stretched = picture.read(encoded(kind, orientation), 64, 64)
    assert (stretched.width, stretched.height) == (decoded.width, decoded.height)
    assert not (stretched.pixels == FILL).all(axis=2).any()


def test_a_small_picture_grows_and_a_thin_one_keeps_a_pixel() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 1), (9, 9, 9)).save(buffer, "PNG")
    pixels = picture.decode(buffer.getvalue(), 32, 32, "letterbox")
    assert (pixels[0] == 9).all() and (pixels[1:] == FILL).all()


def test_boxes_follow_their_pictures_into_the_square() -> None:
    boxes = np.array([[0.5, 0.0, 1.0, 1.0], [0.0, 0.5, 1.0, 1.0]])
    assert to_square(boxes, np.array([[400, 100], [100, 400]])).tolist() == [[0.5, 0, 1, 0.25], [0, 0.5, 0.25, 1]]
    assert len(to_square(np.zeros((0, 4)), np.zeros((0, 2)))) == 0
