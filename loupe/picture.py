"""Pictures as every part of Loupe reads them: the one decoder of storage, trainer and terminal.

What is taken and how much work a file may make is decided by its own first bytes and by walking its structure; no other
reader than the five below ever sees the bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

DECODER = "loupe.picture-2"
"""What an array of pixels depends on besides the file: another name, other pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 32 << 20
MAX_PIXELS = 64_000_000

# How much structure a file may have: far more than cameras and programs write, far less than takes seconds to walk.
_MAX_MARKERS = 2_000
_MAX_SCANS = 256
_MAX_SCANNED_PIXELS = 32 * MAX_PIXELS
_MAX_JUNK = 4 << 10
_MAX_CHUNKS = 1_000
_MAX_DATA_CHUNKS = 1 << 16
_MAX_TAGS = 1_000
_MAX_TAG_BYTES = 16 << 20
_MAX_STRIPS = 1 << 18
_MAX_PAGES = 10_000
# In the service a JPEG's size is looked for so far and no further.
_QUICK_MARKERS = 64

_BITS = (8, 12, 16, 20, 24, 28, 32)
_BRIGHTEST_UNIT = 2.0
_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE, _PHOTOMETRIC = 281, 258, 262
_STRIPS = (273, 324)

# Our own bound is checked before any pixel is decoded; Pillow's would only warn between its limit and twice that.
Image.MAX_IMAGE_PIXELS = None

_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_FOREIGN = (
    (b"GIF8", "GIF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\1\0", "ICO"),
    (b"SIMPLE  =", "FITS"),
    (b"/* XPM */", "XPM"),
    (b"DDS ", "DDS"),
    (b"<svg", "SVG"),
    *((b"P" + bytes([digit]) + space, "PPM") for digit in b"123456" for space in (b"\n", b" ", b"\r", b"\t")),
)


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


def check_header(data: bytes) -> None:
    """Raise BadPicture unless the bytes begin as a picture that is taken.

    Only bytes at fixed places are looked at, and a few of a JPEG's markers: it takes microseconds whatever is sent.
    Whether the rest is right is found out by `decode`.
    """
    if len(data) > MAX_BYTES:
        raise BadPicture("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are taken")
    kind = _format(data)
    _require_canvas(*_QUICK[kind](data))


@dataclass(frozen=True)
class White:
    """The sample that became 255. told: the file says so; else it is the least of its steps that no sample exceeds."""

    value: float
    told: bool = False


@dataclass(frozen=True)
class Decoded:
    """A picture, and what a person should know of how it was read.

    pixels: uint8 [height, width, 3], RGB. frames: the pages or frames of the file, of which the first was taken. white:
    how samples of more than 8 bits were scaled; None for those of 8.
    """

    pixels: np.ndarray
    frames: int = 1
    white: White | None = None


def count_frames(data: bytes) -> int:
    """Return how many pages or frames a file has, of which `decode` takes the first. Raises BadPicture."""
    return _examine(data)[1].frames


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width, 3], RGB, upright as EXIF says, resized bilinearly with antialiasing, not cropped.

    Training and classification both call this, so that a model sees on the terminal what it saw in training. Raises
    BadPicture.

    Of several pages or frames the first is taken. Transparent pixels are laid on black; alpha that is nowhere above 0
    is a mistake of who wrote the file, and the colour counts.

    Samples of more than 8 bits are scaled so that white becomes 255. White is, in this order: what the file says
    (TIFF's MaxSampleValue, or BitsPerSample where it is none of 8, 16, 32; PNG's sBIT where the samples stand at the
    lower end of their 16 bits, which PNG forbids and cameras do); 1 for floats of which none is above 2; else the
    smallest of 2^8-1, 2^12-1, 2^16-1, 2^20-1, 2^24-1, 2^28-1 and 2^32-1 that no sample of this picture exceeds. It
    depends on this picture alone. Values below 0, and those that are no number, are black.
    """
    return read(data, height, width).pixels


def read(data: bytes, height: int, width: int) -> Decoded:
    """Decode as `decode` does, and tell what was done. Raises BadPicture."""
    kind, facts = _examine(data)
    image = _open(kind, data)
    try:
        if kind == "JPEG":
            image.draft("RGB", (width * 2, height * 2))
        wide, white = _wide_colour(image, facts, lambda: _open(kind, data))
        upright = ImageOps.exif_transpose(wide or image)
        if upright.mode.startswith("I") or upright.mode == "F":
            samples = np.asarray(upright)
            white = _white(samples, facts)
            upright = Image.fromarray(_eight_bits(samples, white, inverted=facts.inverted))
        colour = _on_black(upright)
        if colour.size != (width, height):
            colour = colour.resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:
        raise BadPicture("broken", f"the {kind} data are cut off or damaged") from error
    return Decoded(np.asarray(colour, dtype=np.uint8), facts.frames, white)


@dataclass
class _Facts:
    """What a file says of itself.

    bits: of each sample, as it is stored. white: the highest sample, None where it is not told. significant: PNG's
    sBIT, the bits that the samples had before they were stored; 0 where it is not told. inverted: 0 is white.
    """

    width: int = 0
    height: int = 0
    bits: int = 8
    white: int | None = None
    significant: int = 0
    inverted: bool = False
    frames: int = 1


def _format(data: bytes) -> str:
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    foreign = next((kind for magic, kind in _FOREIGN if data.startswith(magic)), "")
    if not foreign and data[4:8] == b"ftyp":
        foreign = "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF"
    if foreign:
        known = ", ".join(FORMATS)
        raise BadPicture("unsupported_format", f"{foreign} is not taken; use one of {known}")
    raise BadPicture("not_a_picture", "the bytes are not a picture in any known format")


def _require_canvas(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture("too_large", f"{width}x{height} pixels; at most {MAX_PIXELS} are taken")


def _examine(data: bytes) -> tuple[str, _Facts]:
    """Return format and facts of a file whose structure is within the limits; no pixel is decoded."""
    check_header(data)
    kind = _format(data)
    try:
        facts = _EXAMINED[kind](data)
    except (struct.error, IndexError) as error:
        raise BadPicture("broken", f"the {kind} data are cut off or damaged") from error
    _require_canvas(facts.width, facts.height)
    return kind, facts


def _open(kind: str, data: bytes) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _READERS[kind](io.BytesIO(data))
    except Exception as error:
        raise BadPicture("not_a_picture", f"the bytes begin like {kind}, but are not a picture") from error
    _require_canvas(*image.size)
    if isinstance(exif := image.info.get("exif"), bytes):
        _check_exif(exif)
    return image


def _too_much(what: str) -> BadPicture:
    return BadPicture("broken", f"{what}: no camera or program writes that; save the picture anew")


# What a format's first bytes tell: width and height, 0 where they do not.


def _png_canvas(data: bytes) -> tuple[int, int]:
    width, height = _unpack(">II", data, 16)
    return width, height


def _bmp_canvas(data: bytes) -> tuple[int, int]:
    if _unpack("<I", data, 14)[0] == 12:
        width, height = _unpack("<HH", data, 18)
        return width, height
    width, height = _unpack("<ii", data, 18)
    return abs(width), abs(height)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = _unpack("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_canvas(data: bytes) -> tuple[int, int]:
    for number, (code, position) in enumerate(_jpeg_markers(data)):
        if code in _FRAMES:
            height, width = _unpack(">HH", data, position + 3)
            return width, height
        if number >= _QUICK_MARKERS or code == _SCAN:
            break
    return 0, 0


def _tiff_canvas(data: bytes) -> tuple[int, int]:
    return 0, 0  # it stands anywhere in the file


def _unpack(layout: str, data: bytes, position: int) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    return struct.unpack(layout, data[position : position + size].ljust(size, b"\0"))


# The structure of each format, walked with limits.

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_ALONE = (0xD8, 0x01)


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield code and position behind it of each marker that a decoder would meet."""
    position, junk, scanned = 2, 0, False
    while (found := _MARKER.search(data, position, sys.maxsize if scanned else position + _MAX_JUNK)) is not None:
        if not scanned:
            junk += found.start() - position
        code, position = data[found.end() - 1], found.end()
        yield code, position
        if code == _END:
            return
        if junk > _MAX_JUNK:
            raise _too_much("the JPEG has bytes between its parts")
        scanned = scanned or code == _SCAN
        if code not in _ALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    if not scanned and position < len(data):
        raise _too_much("the JPEG has bytes between its parts")


def _examine_jpeg(data: bytes) -> _Facts:
    facts, scans, exif = _Facts(), 0, b""
    for number, (code, position) in enumerate(_jpeg_markers(data)):
        if number >= _MAX_MARKERS:
            raise _too_much(f"the JPEG has more than {_MAX_MARKERS} parts")
        if code in _FRAMES and not facts.width:
            facts.height, facts.width = _unpack(">HH", data, position + 3)
        elif code == _EXIF and data[position + 2 : position + 8] == b"Exif\0\0":
            (size,) = _unpack(">H", data, position)
            exif += data[position + 8 : position + size]  # Pillow joins several of them, too
        elif code == _SCAN:
            scans += 1
            if scans > _MAX_SCANS or scans * facts.width * facts.height > _MAX_SCANNED_PIXELS:
                raise _too_much(f"the JPEG has {scans} scans or more of {facts.width}x{facts.height} pixels")
    _check_exif(exif)
    return facts


def _examine_png(data: bytes) -> _Facts:
    facts = _Facts()
    facts.width, facts.height, facts.bits, colour = _unpack(">IIBB", data, 16)
    position, chunks, data_chunks = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"fdAT", b"fcTL"):
            data_chunks += 1
        else:
            chunks += 1
        if chunks > _MAX_CHUNKS or data_chunks > _MAX_DATA_CHUNKS:
            raise _too_much(f"the PNG has more than {chunks + data_chunks - 1} chunks")
        body = data[position + 8 : position + 12]
        if kind == b"sBIT":
            facts.significant = max(body[: 1 if colour in (0, 4) else min(3, length)], default=0)
        elif kind == b"acTL":
            facts.frames = max(1, *_unpack(">I", body, 0))
        elif kind == b"IEND":
            break
        position += 12 + length
    return facts


def _examine_webp(data: bytes) -> _Facts:
    facts = _Facts(*_webp_canvas(data))
    if data[12:16] == b"VP8X":
        position, frames = 12, 0
        while position + 8 <= len(data) and frames < _MAX_PAGES:
            kind, length = struct.unpack_from("<4sI", data, position)
            frames += kind == b"ANMF"
            position += 8 + length + length % 2
        facts.frames = max(1, frames)
    return facts


def _examine_bmp(data: bytes) -> _Facts:
    return _Facts(*_bmp_canvas(data))


_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _Directory:
    """The first directory of a TIFF, or of EXIF, which has the form of one; checked against the limits."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = data[2:4] in (b"+\0", b"\0+")
        self._long = "Q" if self._big else "I"
        self._entry = f"{self._order}HH{self._long}"
        self._values: dict[int, tuple[int, int, int]] = {}
        self.pages = 0
        start = self._read(self._long, 8 if self._big else 4)
        self.next = self._walk(start, name)
        self._first = start

    def _read(self, layout: str, position: int) -> int:
        value: int = struct.unpack_from(self._order + layout, self._data, position)[0]
        return value

    def _shape(self, start: int) -> tuple[int, int, int]:
        """Return the number of entries, where they begin, and the length of each."""
        if self._big:
            return self._read("Q", start), start + 8, 20
        return self._read("H", start), start + 2, 12

    def _walk(self, start: int, name: str) -> int:
        count, position, length = self._shape(start)
        if count > _MAX_TAGS:
            raise _too_much(f"the {name} has {count} tags")
        total = 0
        for entry in range(position, position + count * length, length):
            if entry + length > len(self._data):
                return 0
            tag, kind, values = struct.unpack_from(self._entry, self._data, entry)
            size = _TYPE_BYTES.get(kind, 1) * values
            total += size
            if total > _MAX_TAG_BYTES or (tag in _STRIPS and values > _MAX_STRIPS):
                raise _too_much(f"the {name}'s tags hold {total} bytes")
            inline = entry + struct.calcsize(self._entry)
            at = inline if size <= (8 if self._big else 4) else self._read(self._long, inline)
            self._values.setdefault(tag, (kind, values, at))
        end = position + count * length
        return self._read(self._long, end) if end + (8 if self._big else 4) <= len(self._data) else 0

    def get(self, tag: int, default: int) -> int:
        """Return the first value of a tag that holds whole numbers, or the default."""
        kind, values, at = self._values.get(tag, (0, 0, 0))
        layout = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "")
        if not layout or not values or at + struct.calcsize(layout) > len(self._data):
            return default
        return self._read(layout, at)

    def count_pages(self) -> int:
        """Follow the directories to the last one, or to one that was seen."""
        seen, at = {self._first}, self.next
        while at and at not in seen and at < len(self._data) and len(seen) < _MAX_PAGES:
            seen.add(at)
            count, position, length = self._shape(at)
            end = position + count * length
            at = self._read(self._long, end) if end + (8 if self._big else 4) <= len(self._data) else 0
        return len(seen)


def _examine_tiff(data: bytes) -> _Facts:
    tags = _Directory(data, "TIFF")
    bits = tags.get(_BITS_PER_SAMPLE, 1)
    white = tags.get(_MAX_SAMPLE_VALUE, 0) or None
    if white is None and bits not in (8, 16, 32, 64):
        white = 2**bits - 1 if 8 < bits < 32 else None
    try:
        pages = tags.count_pages()
    except struct.error:
        pages = 1
    return _Facts(
        tags.get(256, 0), tags.get(257, 0), bits, white, inverted=tags.get(_PHOTOMETRIC, 1) == 0, frames=pages
    )


def _check_exif(exif: bytes) -> None:
    exif = exif.removeprefix(b"Exif\0\0")
    if exif:
        try:
            _Directory(exif, "EXIF")
        except struct.error:
            return  # Pillow finds it damaged too, and goes on without it


_QUICK: dict[str, Callable[[bytes], tuple[int, ...]]] = {
    "PNG": _png_canvas,
    "JPEG": _jpeg_canvas,
    "WEBP": _webp_canvas,
    "BMP": _bmp_canvas,
    "TIFF": _tiff_canvas,
}
_EXAMINED: dict[str, Callable[[bytes], _Facts]] = {
    "PNG": _examine_png,
    "JPEG": _examine_jpeg,
    "WEBP": _examine_webp,
    "BMP": _examine_bmp,
    "TIFF": _examine_tiff,
}


# From samples to 8 bits.


def _eight_bits(samples: np.ndarray, white: White, *, inverted: bool) -> np.ndarray:
    """Return uint8 of the same shape: samples of any type, white as `decode` says. inverted: 0 is white."""
    scaled = samples.astype(np.float32)
    scaled *= 255.0 / white.value
    np.nan_to_num(scaled, copy=False, nan=0.0)
    np.clip(scaled, 0, 255, out=scaled)
    levels = scaled.astype(np.uint8)
    return 255 - levels if inverted else levels


def _white(samples: np.ndarray, facts: _Facts) -> White:
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
    image: ImageFile.ImageFile, facts: _Facts, again: Callable[[], ImageFile.ImageFile]
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
    wide.getexif().update({0x0112: image.getexif().get(0x0112, 1)})
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
