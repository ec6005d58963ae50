"""Pictures for tests, made by rule from a seed: no two alike, unless asked for."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image


def photograph(seed: int, size: int = 64, quality: int = 85) -> np.ndarray:
    """photograph returns uint8 [size, size, 3]: smooth shapes with some grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.int16)
    return (smooth + random.integers(-8, 8, (size, size, 3))).clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    """encode returns the picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int, size: int = 64) -> bytes:
    """jpeg returns a small photograph's file."""
    return encode(photograph(seed, size), "JPEG", quality=85)


def sha256(data: bytes) -> str:
    """sha256 returns the digest in hex."""
    return hashlib.sha256(data).hexdigest()
