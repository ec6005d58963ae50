"""The one decoder: 8 bits are read as they always were, more bits as bright as they are, and work is bounded."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from loupe import picture
from loupe.letterbox import FILL, fitted
from loupe.picture import BadPicture
from tests.storage.photographs import photograph

SMALL, LARGE = Image.fromarray(photograph(1, 97)), Image.fromarray(photograph(2, 700))
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)  # every value of 12 bits once
ROTATED = Image.Exif()
ROTATED[0x112] = 6


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Taken from the decoder of Loupe 0.1.0, at 64x96: what a model was trained on, another version must not see otherwise.
PINNED = {
    "PNG": (encoded(SMALL, "PNG"), "cd3ee7e9bda6d4af"),
    "PNG large": (encoded(LARGE, "PNG"), "d456e68383cc50a4"),
    "PNG grey": (encoded(SMALL.convert("L"), "PNG"), "ac17afd9c17c01b7"),
    "PNG rotated": (encoded(SMALL, "PNG", exif=ROTATED), "6ede999267196954"),
    "PNG palette": (encoded(SMALL.quantize(64), "PNG"), "93f6df15920c0d9a"),
    "PNG of one bit": (encoded(SMALL.convert("1"), "PNG"), "c0be98e724cdfd87"),
    "PNG opaque": (encoded(SMALL.convert("RGBA"), "PNG"), "cd3ee7e9bda6d4af"),
    "JPEG": (encoded(SMALL, "JPEG"), "d12a9bd51b4c7a3b"),
    "JPEG large": (encoded(LARGE, "JPEG"), "6929ea573d3a176f"),
    "JPEG grey": (encoded(SMALL.convert("L"), "JPEG"), "956e07f4b53c65fa"),
    "JPEG rotated": (encoded(SMALL, "JPEG", exif=ROTATED), "6fa296314cd5a983"),
    "JPEG progressive": (encoded(LARGE, "JPEG", progressive=True), "6929ea573d3a176f"),
    "JPEG CMYK": (encoded(SMALL.convert("CMYK"), "JPEG"), "3ce8e6104b0e8ae9"),
    "WEBP": (encoded(SMALL, "WEBP"), "04c9a7b590263752"),
    "WEBP large": (encoded(LARGE, "WEBP"), "06ace8fe4cce10c6"),
    "WEBP rotated": (encoded(SMALL, "WEBP", exif=ROTATED), "2329237f41007adc"),
    "BMP": (encoded(SMALL, "BMP"), "cd3ee7e9bda6d4af"),
    "BMP grey": (encoded(SMALL.convert("L"), "BMP"), "ac17afd9c17c01b7"),
    "BMP palette": (encoded(SMALL.quantize(64), "BMP"), "93f6df15920c0d9a"),
    "TIFF": (encoded(SMALL, "TIFF"), "cd3ee7e9bda6d4af"),
    "TIFF rotated": (encoded(SMALL, "TIFF", exif=ROTATED), "6ede999267196954"),
    "TIFF packed": (encoded(SMALL, "TIFF", compression="tiff_lzw"), "cd3ee7e9bda6d4af"),
}


@pytest.mark.parametrize("kind", PINNED)
def test_pictures_of_eight_bits_are_read_as_ever(kind: str) -> None:
    """Bit for bit."""
    data, expected = PINNED[kind]
    assert hashlib.sha256(picture.decode(data, 64, 96).tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize("kind", PINNED)
def test_the_upright_size_is_that_of_what_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it takes no decoding, of a PNG neither."""
    data, _ = PINNED[kind]
    source = LARGE if "large" in kind or "progressive" in kind else SMALL
    expected = source.size[::-1] if "rotated" in kind else source.size
    monkeypatch.setattr(PngImageFile, "load", None)
    assert picture.upright_size(data) == expected


def test_exif_behind_the_pixels_turns_a_png() -> None:
    """A chunk that stands last, as PNG allows it."""
    exif = chunk(b"eXIf", ROTATED.tobytes().removeprefix(b"Exif\0\0"))
    data = encoded(SMALL, "PNG")
    assert picture.upright_size(data[:-12] + exif + data[-12:]) == SMALL.size[::-1]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(samples: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits with 1 to 4 channels, which Pillow does not write."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + end


def colour(samples: np.ndarray, *more: np.ndarray) -> np.ndarray:
    return np.stack([samples, samples, samples, *more], axis=2)


RAMPS = {
    "12 bits in PNG": encoded(Image.fromarray(RAMP), "PNG"),
    "12 bits in TIFF": encoded(Image.fromarray(RAMP), "TIFF"),
    "12 bits of colour in PNG": deep_png(colour(RAMP)),
    "12 bits of colour and alpha in PNG": deep_png(colour(RAMP, np.full_like(RAMP, 4095))),
    "12 bits and alpha in PNG": deep_png(np.stack([RAMP, np.full_like(RAMP, 4095)], axis=2)),
    "12 bits and opaque alpha in PNG": deep_png(np.stack([RAMP, np.full_like(RAMP, 65535)], axis=2)),
    "16 bits": encoded(Image.fromarray((RAMP.astype(np.uint32) * 65535 // 4095).astype(np.uint16)), "PNG"),
    "16 bits of colour": deep_png(colour((RAMP.astype(np.uint32) * 65535 // 4095).astype(np.uint16))),
    "32 bits": encoded(Image.fromarray(RAMP.astype(np.int32) * (2**20 // 4096)), "TIFF"),
    "floats from 0 to 1": encoded(Image.fromarray((RAMP / 4095).astype(np.float32)), "TIFF"),
    "floats from 0 to 255": encoded(Image.fromarray((RAMP / 4095 * 255).astype(np.float32)), "TIFF"),
    "floats and what is no number": encoded(
        Image.fromarray(np.where(RAMP == 0, np.nan, RAMP / 4095).astype(np.float32)), "TIFF"
    ),
    "PNG that says 12 bits": deep_png(RAMP[..., None], chunk(b"sBIT", b"\x0c")),
}


@pytest.mark.parametrize("kind", RAMPS)
def test_more_than_eight_bits_become_all_256_levels(kind: str) -> None:
    """From black to white, rising: not 16 levels of grey, and not black."""
    decoded = picture.decode(RAMPS[kind], 64, 64)[..., 0].reshape(-1).astype(int)
    assert (decoded[0], decoded[-1]) in ((0, 255), (0, 254))
    assert len(np.unique(decoded)) >= 255
    assert (np.diff(decoded) >= 0).all()
    assert np.abs(decoded - np.arange(4096) * 255 / 4095).max() <= 2


def brightest(data: bytes) -> int:
    return int(picture.decode(data, 64, 64).max())


def test_what_a_file_says_of_its_white_holds() -> None:
    """TIFF's MaxSampleValue; PNG's sBIT where the samples are not shifted up as PNG wants it."""
    assert brightest(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={281: 8191})) == 127
    assert brightest(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={281: 100})) == 255  # it is wrong
    dark = RAMP[..., None] // 4
    twelve = chunk(b"sBIT", b"\x0c")
    assert brightest(deep_png(dark, twelve)) == 63
    assert brightest(deep_png(dark // 16 * 16 * 4, twelve)) == 15  # shifted up: a dark picture
    assert brightest(deep_png(RAMP[..., None] * 16, twelve)) == 254


def test_what_became_white_is_told_and_who_said_so() -> None:
    """None for samples of 8 bits."""
    told = {kind: picture.read(data, 8, 8).white for kind, data in RAMPS.items()}
    assert told.pop("16 bits") == told.pop("16 bits of colour") == picture.White(65535)
    assert told.pop("32 bits") == picture.White(2**20 - 1)
    assert {white.value for kind, white in told.items() if white} == {1, 255, 4095}
    assert told["PNG that says 12 bits"] == picture.White(4095, told=True)
    assert picture.read(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={281: 100}), 8, 8).white == picture.White(4095)
    assert picture.read(deep_png(colour(RAMP * 2)), 8, 8).white == picture.White(65535)
    assert picture.read(encoded(see_through(), "PNG"), 8, 8).white is None


def test_dark_pictures_are_not_made_bright() -> None:
    """The rule knows 8, 12 and 16 bits; a picture of 16 bits that is not almost black stays as dark as it is."""
    assert brightest(encoded(Image.fromarray(RAMP * 2), "PNG")) == 31
    assert brightest(deep_png(colour(RAMP * 2))) == 31
    assert brightest(encoded(Image.fromarray(RAMP % 200), "PNG")) == 199
    assert brightest(encoded(Image.fromarray((RAMP / 8190).astype(np.float32)), "TIFF")) == 127


def see_through() -> Image.Image:
    """White that is transparent, left of which stands opaque red."""
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    return image


@pytest.mark.parametrize(
    "data",
    [
        encoded(see_through(), "PNG"),
        encoded(see_through(), "WEBP", lossless=True),
        encoded(see_through(), "TIFF"),
        encoded(see_through().quantize(8), "PNG"),
    ],
    ids=["PNG", "WEBP", "TIFF", "palette"],
)
def test_transparent_pixels_are_laid_on_black(data: bytes) -> None:
    """Half of it is half as bright."""
    assert picture.decode(data, 64, 64)[10, [5, 60]].tolist() == [[255, 0, 0], [0, 0, 0]]
    half = Image.new("RGBA", (8, 8), (200, 100, 50, 128))
    assert picture.decode(encoded(half, "PNG"), 8, 8)[0, 0].tolist() == [100, 50, 25]


def test_a_picture_that_is_transparent_everywhere_keeps_its_colour() -> None:
    """Programs write an alpha of 0 that means nothing."""
    clear = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    assert picture.decode(encoded(clear, "PNG"), 8, 8)[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    """And how many there are is told."""
    frames = [Image.new("RGB", (32, 32), name) for name in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert picture.count_frames(data) == 3
    assert picture.count_frames(encoded(frames[0], kind)) == 1
    assert picture.decode(data, 32, 32)[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM", "ICO", "PDF"])
def test_other_formats_are_refused_by_their_first_bytes(kind: str) -> None:
    """None of their readers is asked."""
    with pytest.raises(BadPicture) as caught:
        picture.check_header(encoded(SMALL, kind)[:64])
    assert caught.value.kind == "unsupported_format"
    assert kind in str(caught.value)


def huge_canvas(kind: str) -> bytes:
    """A picture of 9,000x9,000, or its header with little behind it where that is quick to write."""
    match kind:
        case "BMP":
            return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 9_000, -9_000, 1, 8, 0, 0, 0, 0, 0, 0)
        case "WEBP":
            small = encoded(Image.new("L", (64, 64)), kind)
            return small[:26] + struct.pack("<HH", 9_000, 9_000) + small[30:]
    return encoded(Image.new("1" if kind in ("PNG", "TIFF") else "L", (9_000, 9_000)), kind)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG", "TIFF"])
def test_a_huge_canvas_is_refused(kind: str) -> None:
    """Before a pixel of it is decoded; where its size stands at the beginning, by the header alone."""
    data = huge_canvas(kind)
    with pytest.raises(BadPicture) as caught:
        picture.decode(data, 8, 8)
    assert caught.value.kind == "too_large"
    if kind != "TIFF":
        with pytest.raises(BadPicture):
            picture.check_header(data)


def test_damage_is_told_and_nothing_else_happens() -> None:
    """Bytes that are flipped, cut or put in anywhere give a picture or BadPicture."""
    random = np.random.default_rng(3)
    for data, _ in PINNED.values():
        for _ in range(30):
            broken = bytearray(data[: random.integers(1, len(data))] if random.random() < 0.3 else data)
            for position in random.integers(0, min(len(broken), 400), 3):
                broken[position] = random.integers(256)
            try:
                assert picture.decode(bytes(broken), 16, 16).shape == (16, 16, 3)
                assert picture.count_frames(bytes(broken)) >= 1
            except BadPicture as error:
                assert error.kind in ("not_a_picture", "unsupported_format", "too_large", "broken")


@pytest.mark.parametrize(("size", "taken"), [((200, 100), (64, 32)), ((30, 90), (21, 64)), ((64, 64), (64, 64))])
def test_a_letterboxed_picture_keeps_its_proportions_at_the_top_left(
    size: tuple[int, int], taken: tuple[int, int]
) -> None:
    assert fitted(*size, 64, 64, "letterbox") == taken
    decoded = picture.read(encoded(Image.new("RGB", size, (250, 20, 20)), "PNG"), 64, 64, "letterbox")
    assert (decoded.width, decoded.height) == size and decoded.pixels.shape == (64, 64, 3)
    width, height = taken
    assert (decoded.pixels[:height, :width] == (250, 20, 20)).all()
    assert (decoded.pixels[height:] == FILL).all() and (decoded.pixels[:, width:] == FILL).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(kind: str, orientation: int) -> None:
    """A JPEG is decoded at a part of its size, and its size is told all the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (401, 203)), kind, exif=exif)
    for fit in ("stretch", "letterbox"):
        decoded = picture.read(data, 16, 16, fit)
        assert (decoded.width, decoded.height) == ((203, 401) if orientation > 4 else (401, 203))
