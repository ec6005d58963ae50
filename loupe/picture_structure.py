"""What a picture's file says of itself: its format, its size, its structure, walked within limits.

What is taken and how much work a file may make is decided by its own first bytes and by walking its structure; no pixel
is decoded here, and nothing but the standard library looks at the bytes.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE, _PHOTOMETRIC = 281, 258, 262
_STRIPS = (273, 324)

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


def check_header(data: bytes) -> None:
    """Raise BadPicture unless the bytes begin as a picture that is taken.

    Only bytes at fixed places are looked at, and a few of a JPEG's markers: it takes microseconds whatever is sent.
    Whether the rest is right is found out by `decode`.
    """
    if len(data) > MAX_BYTES:
        raise BadPicture("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are taken")
    kind = _format(data)
    require_canvas(*_QUICK[kind](data))


@dataclass
class Facts:
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


def require_canvas(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture("too_large", f"{width}x{height} pixels; at most {MAX_PIXELS} are taken")


def examine(data: bytes) -> tuple[str, Facts]:
    """Return format and facts of a file whose structure is within the limits; no pixel is decoded."""
    check_header(data)
    kind = _format(data)
    try:
        facts = _EXAMINED[kind](data)
    except (struct.error, IndexError) as error:
        raise BadPicture("broken", f"the {kind} data are cut off or damaged") from error
    require_canvas(facts.width, facts.height)
    return kind, facts


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


def _examine_jpeg(data: bytes) -> Facts:
    facts, scans, exif = Facts(), 0, b""
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
    check_exif(exif)
    return facts


def _examine_png(data: bytes) -> Facts:
    facts = Facts()
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


def _examine_webp(data: bytes) -> Facts:
    facts = Facts(*_webp_canvas(data))
    if data[12:16] == b"VP8X":
        position, frames = 12, 0
        while position + 8 <= len(data) and frames < _MAX_PAGES:
            kind, length = struct.unpack_from("<4sI", data, position)
            frames += kind == b"ANMF"
            position += 8 + length + length % 2
        facts.frames = max(1, frames)
    return facts


def _examine_bmp(data: bytes) -> Facts:
    return Facts(*_bmp_canvas(data))


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


def _examine_tiff(data: bytes) -> Facts:
    tags = _Directory(data, "TIFF")
    bits = tags.get(_BITS_PER_SAMPLE, 1)
    white = tags.get(_MAX_SAMPLE_VALUE, 0) or None
    if white is None and bits not in (8, 16, 32, 64):
        white = 2**bits - 1 if 8 < bits < 32 else None
    try:
        pages = tags.count_pages()
    except struct.error:
        pages = 1
    return Facts(tags.get(256, 0), tags.get(257, 0), bits, white, inverted=tags.get(_PHOTOMETRIC, 1) == 0, frames=pages)


def check_exif(exif: bytes) -> None:
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
_EXAMINED: dict[str, Callable[[bytes], Facts]] = {
    "PNG": _examine_png,
    "JPEG": _examine_jpeg,
    "WEBP": _examine_webp,
    "BMP": _examine_bmp,
    "TIFF": _examine_tiff,
}
