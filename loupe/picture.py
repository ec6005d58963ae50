"""Pictures as every part of Loupe reads them: the one decoder of storage, trainer and terminal."""

from __future__ import annotations

import hashlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 32 << 20
MAX_PIXELS = 64_000_000

# Our own bound is checked before any pixel is decoded; Pillow's would only warn between its limit and twice that.
Image.MAX_IMAGE_PIXELS = None


class BadPicture(ValueError):
    """Says why bytes are not a picture that Loupe takes.

    kind is one of "not_a_picture", "unsupported_format", "too_large", "broken".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def digest(data: bytes) -> str:
    """Return the sha256 of the file's bytes, hex: the picture's identity."""
    return hashlib.sha256(data).hexdigest()


def _identify(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)  # twice as fast as asking every reader that Pillow has
    except UnidentifiedImageError:
        return Image.open(io.BytesIO(data))  # only to be able to say which format it is that is not taken


def _open(data: bytes) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise BadPicture("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _identify(data)
    except Exception as error:
        raise BadPicture("not_a_picture", "the bytes are not a picture in any known format") from error
    if image.format not in FORMATS:
        known = ", ".join(FORMATS)
        raise BadPicture("unsupported_format", f"{image.format} is not taken; use one of {known}")
    if image.width * image.height > MAX_PIXELS:
        raise BadPicture("too_large", f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are taken")
    return image


def check_header(data: bytes) -> None:
    """Raise BadPicture unless the bytes begin as a picture that is taken; no pixel is decoded."""
    _open(data)


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width, 3], RGB, upright as EXIF says, resized bilinearly with antialiasing, not cropped.

    Training and classification both call this, so that a model sees on the terminal what it saw in training.
    Grey with values above 255 is scaled from 16 bits to 8; of transparent pixels the colour counts. Raises BadPicture.
    """
    image = _open(data)
    try:
        if image.format == "JPEG":
            image.draft("RGB", (width * 2, height * 2))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            pixels = np.asarray(image, dtype=np.float32)
            peak = 65535.0 if pixels.max(initial=0.0) > 255 else 255.0
            image = Image.fromarray((pixels * (255.0 / peak)).clip(0, 255).astype(np.uint8))
        image = image.convert("RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:
        raise BadPicture("broken", f"the {image.format or 'picture'} data are cut off or damaged") from error
    return np.asarray(image, dtype=np.uint8)
