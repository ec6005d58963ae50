"""Pictures as every part of Loupe reads them: the one decoder of storage, trainer and terminal.

`loupe.picture_structure` has looked at a file before anything here does, and no other reader than the five below ever
sees the bytes.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from loupe.letterbox import FILL, Fit, fitted
from loupe.picture_structure import MAX_BYTES, BadPicture, Facts, check_exif, check_header, examine, require_canvas

__all__ = [
    "DECODER",
    "MAX_BYTES",
    "BadPicture",
    "Decoded",
    "White",
    "check_header",
    "count_frames",
    "decode",
    "digest",
    "read",
    "upright_size",
]

DECODER = "loupe.picture-2"
"""What an array of pixels depends on besides the file: another name, other pixels."""

_LYING = (5, 6, 7, 8)
"""The values of EXIF's orientation with which width and height change places."""
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_BITS = (8, 12, 16, 20, 24, 28, 32)
_BRIGHTEST_UNIT = 2.0

# Our own bound is checked before any pixel is decoded; Pillow's would only warn between its limit and twice that.
Image.MAX_IMAGE_PIXELS = None

_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}


def digest(data: bytes) -> str:
    """Return the sha256 of the file's bytes, hex: the picture's identity."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class White:
    """The sample that became 255. told: the file says so; else it is the least of its steps that no sample exceeds."""

    value: float
    told: bool = False


@dataclass(frozen=True)
class Decoded:
    """A picture, and what a person should know of how it was read.

    pixels: uint8 [height, width, 3], RGB. frames: the pages or frames of the file, of which the first was taken. white:
    how samples of more than 8 bits were scaled; None for those of 8. width, height: of the upright picture in the file.
    """

    pixels: np.ndarray
    frames: int = 1
    white: White | None = None
    width: int = 0
    height: int = 0


def count_frames(data: bytes) -> int:
    """Return how many pages or frames a file has, of which `decode` takes the first. Raises BadPicture."""
    return examine(data)[1].frames


def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the whole picture as `decode` holds it, without decoding a pixel. Raises BadPicture.

    Only a PNG with texts or EXIF behind its pixels is decoded, as its reader does not come to these otherwise.
    """
    kind, _ = examine(data)
    image = _open(kind, data)
    try:
        pixels = data.find(b"IDAT") if kind == "PNG" else -1
        early = pixels >= 0 and all(data.find(name, pixels) < 0 for name in _PNG_METADATA)
        exif = Image.Image.getexif(image) if early else image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1) in _LYING
    except Exception as error:
        raise BadPicture("broken", f"the {kind} data are cut off or damaged") from error
    return (image.height, image.width) if turned else image.size


def decode(data: bytes, height: int, width: int, fit: Fit = "stretch") -> np.ndarray:
    """Return uint8 [height, width, 3], RGB, upright as EXIF says, resized bilinearly with antialiasing, not cropped.

    Training and terminals both call this, so that a model sees on the terminal what it saw in training. fit: how the
    picture fills the array, see `loupe.letterbox`. Raises BadPicture.

    Of several pages or frames the first is taken. Transparent pixels are laid on black; alpha that is nowhere above 0
    is a mistake of who wrote the file, and the colour counts.

    Samples of more than 8 bits are scaled so that white becomes 255. White is, in this order: what the file says
    (TIFF's MaxSampleValue, or BitsPerSample where it is none of 8, 16, 32; PNG's sBIT where the samples stand at the
    lower end of their 16 bits, which PNG forbids and cameras do); 1 for floats of which none is above 2; else the
    smallest of 2^8-1, 2^12-1, 2^16-1, 2^20-1, 2^24-1, 2^28-1 and 2^32-1 that no sample of this picture exceeds. It
    depends on this picture alone. Values below 0, and those that are no number, are black.
    """
    return read(data, height, width, fit).pixels


def read(data: bytes, height: int, width: int, fit: Fit = "stretch") -> Decoded:
    """Decode as `decode` does, and tell what was done. Raises BadPicture."""
    kind, facts = examine(data)
    image = _open(kind, data)
    try:
        size = _upright_size(image) if kind == "JPEG" else None
        if size is not None:
            across, down = fitted(*size, width, height, fit)
            if fit == "letterbox" and size != image.size:
                across, down = down, across  # it is turned after it was drafted
            image.draft("RGB", (across * 2, down * 2))
        wide, white = _wide_colour(image, facts, lambda: _open(kind, data))
        upright = ImageOps.exif_transpose(wide or image)
        if upright.mode.startswith("I") or upright.mode == "F":
            samples = np.asarray(upright)
            white = _white(samples, facts)
            upright = Image.fromarray(_eight_bits(samples, white, inverted=facts.inverted))
        colour = _on_black(upright)
        size = size or colour.size
        room = fitted(*size, width, height, fit)
        if colour.size != room:
            colour = colour.resize(room, Image.Resampling.BILINEAR)
        if room != (width, height):
            colour, picture = Image.new("RGB", (width, height), (FILL,) * 3), colour
            colour.paste(picture)
    except Exception as error:
        raise BadPicture("broken", f"the {kind} data are cut off or damaged") from error
    return Decoded(np.asarray(colour, dtype=np.uint8), facts.frames, white, *size)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of a JPEG that nothing was drafted of, as EXIF says that it is to be held."""
    width, height = image.size
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING else (width, height)


def _open(kind: str, data: bytes) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _READERS[kind](io.BytesIO(data))
    except Exception as error:
        raise BadPicture("not_a_picture", f"the bytes begin like {kind}, but are not a picture") from error
    require_canvas(*image.size)
    if isinstance(exif := image.info.get("exif"), bytes):
        check_exif(exif)
    return image


# From samples to 8 bits.


def _eight_bits(samples: np.ndarray, white: White, *, inverted: bool) -> np.ndarray:
    """Return uint8 of the same shape: samples of any type, white as `decode` says. inverted: 0 is white."""
    scaled = samples.astype(np.float32)
    scaled *= 255.0 / white.value
    np.nan_to_num(scaled, copy=False, nan=0.0)
    np.clip(scaled, 0, 255, out=scaled)
    levels = scaled.astype(np.uint8)
    return 255 - levels if inverted else levels


def _white(samples: np.ndarray, facts: Facts) -> White:
    peak = float(np.max(samples, initial=0, where=np.isfinite(samples)))
    if facts.white is not None and peak <= facts.white:
        return White(float(facts.white), told=True)
    if samples.dtype.kind == "f" and peak <= _BRIGHTEST_UNIT:
        return White(1.0)
    if 0 < facts.significant < facts.bits and peak < 2**facts.significant:
        # PNG wants them shifted up to 16 bits, the low bits 0 or a copy of the high ones.
        shift = facts.bits - facts.significant
        low = np.bitwise_and(samples.astype(np.int64), 2**shift - 1)
        return White(float(2 ** (facts.significant if low.any() else facts.bits) - 1), told=True)
    return White(float(next((2**bits - 1 for bits in _BITS if peak <= 2**bits - 1), 2 ** _BITS[-1] - 1)))


_GREY_ALPHA = "LA;16B"
_LOW = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
_LOW |= {"RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B"}  # libtiff gives the machine's order, which is the little one


def _wide_colour(
    image: ImageFile.ImageFile, facts: Facts, again: Callable[[], ImageFile.ImageFile]
) -> tuple[Image.Image | None, White | None]:
    """Return colour of 16 bits whose upper bytes are almost empty, scaled by its range; None where nothing is to do.

    And the white of all colour of 16 bits.

    Pillow keeps the upper byte of each sample. Read once more in the other byte order, it gives the lower one.
    """
    if facts.bits != 16 or image.mode not in ("RGB", "RGBA") or not image.tile:
        return None, None
    whole = White(float(2**16 - 1))
    low = _lower_bytes(image, again)
    if low is None:
        return None, whole
    high = np.asarray(image)
    if high[..., :3].max(initial=0) >= 16:
        return None, whole
    samples = high.astype(np.uint16) << 8 | low
    white = _white(samples[..., :3], facts)
    scaled = [_eight_bits(samples[..., :3], white, inverted=facts.inverted)]
    if samples.shape[2] == 4:
        alpha = samples[..., 3:]
        narrow = alpha.max(initial=0) <= white.value
        scaled.append(_eight_bits(alpha, white, inverted=False) if narrow else high[..., 3:])
    wide = Image.fromarray(np.concatenate(scaled, axis=2))
    wide.info = image.info
    wide.getexif().update({ExifTags.Base.Orientation: image.getexif().get(ExifTags.Base.Orientation, 1)})
    return wide, white


def _lower_bytes(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """Return the lower byte of each sample, like the upper ones; None where Pillow does not give it."""
    low = again()
    if image.tile[0].args == _GREY_ALPHA:  # a pixel's four bytes are those of its two samples
        low.tile = [tile._replace(args="RGBA") for tile in low.tile]
        return np.asarray(low)[..., [1, 1, 1, 3]]
    low.tile = [_swapped(tile) for tile in low.tile]
    return None if low.tile == image.tile else np.asarray(low)


def _swapped(tile: ImageFile._Tile) -> ImageFile._Tile:
    if isinstance(tile.args, str):
        return tile._replace(args=_LOW.get(tile.args, tile.args))
    first, *rest = tile.args or ("",)
    return tile._replace(args=(_LOW.get(first, first), *rest))


def _on_black(image: Image.Image) -> Image.Image:
    """Return RGB: transparent pixels on black, unless everything is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() in ((255, 255), (0, 0)):
        return image.convert("RGB")
    black = Image.new("RGB", image.size)
    black.paste(image.convert("RGB"), mask=alpha)
    return black
