"""What a picture's pixels tell: whether they can be decoded, and what near-duplicates are found by.

Decoder processes import this module and nothing else of the service, so it imports little.
"""

from __future__ import annotations

from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image

from loupe import picture
from loupe.picture import BadPicture, White

_SIZE = 32
THUMBNAIL_SIZE = 16


@dataclass(frozen=True)
class Inspected:
    """What decoding told. problem: empty for a whole picture; a broken one has no hash and no thumbnail.

    perceptual_hash: imagehash's phash, 64 bits in 8 bytes. thumbnail: 16x16 grey levels in 256 bytes, row by row.
    frames: how many pages or frames the file has; the first was taken. white: how samples of more than 8 bits were
    scaled. width, height: of the upright picture in pixels, 0 of a broken one.
    """

    digest: str
    problem: str = ""
    perceptual_hash: bytes | None = None
    thumbnail: bytes | None = None
    frames: int = 1
    white: White | None = None
    width: int = 0
    height: int = 0


def warm() -> None:
    """Import what is only imported over the first picture: no picture pays for that."""
    _hash(Image.new("L", (_SIZE, _SIZE)))


def inspect(digest: str, data: bytes) -> Inspected:
    """Decode a picture and say what its pixels tell."""
    try:
        decoded = picture.read(data, _SIZE, _SIZE)
    except BadPicture as error:
        return Inspected(digest, str(error))
    except MemoryError:
        return Inspected(digest, "decoding it takes too much memory")
    grey = Image.fromarray(decoded.pixels).convert("L")
    thumbnail = np.asarray(grey.reduce(_SIZE // THUMBNAIL_SIZE))
    return Inspected(
        digest, "", _hash(grey), thumbnail.tobytes(), decoded.frames, decoded.white, decoded.width, decoded.height
    )


def _hash(grey: Image.Image) -> bytes:
    bits = imagehash.phash(grey, hash_size=8, highfreq_factor=_SIZE // 8).hash
    return np.packbits(bits).tobytes()
