"""The demo's pictures for detection: tiles of photographed surfaces with scratches and stains drawn on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from skimage import data

from deploy.demo.surfaces import BANDS, LABELS

FLAWS = ("scratch", "stain")
TILE = 96
STRIDE = 32
SEED = 7
_MARGIN = 4


def write_flaws(folder: Path) -> int:
    """Write images/<split>/<tile>.png, grey, 96x96, and annotations/<split>.json as COCO has it; return how many tiles.

    Every third tile has no flaw, the others one or two. Tiles of a split overlap, those of different splits do not.
    """
    random = np.random.default_rng(SEED)
    count = 0
    for split, (top, bottom) in BANDS.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        for surface in LABELS:
            photograph = Image.fromarray(getattr(data, surface)())
            for row in range(top, bottom - TILE + 1, STRIDE):
                for column in range(0, photograph.width - TILE + 1, STRIDE):
                    tile = photograph.crop((column, row, column + TILE, row + TILE))
                    number = len(images) + 1
                    name = f"images/{split}/{surface}-{row}-{column}.png"
                    for _ in range(number % 3):
                        tile, flaw, box = _draw(tile, random)
                        annotations.append(_annotation(len(annotations) + 1, number, flaw, box))
                    tile.save(folder / name)
                    images.append({"id": number, "file_name": name, "width": TILE, "height": TILE})
        _write(folder / "annotations" / f"{split}.json", images, annotations)
        count += len(images)
    return count


def _draw(tile: Image.Image, random: np.random.Generator) -> tuple[Image.Image, str, tuple[int, int, int, int]]:
    """Return the tile with one more flaw, the flaw's name, and its box in pixels: left, upper, right, lower."""
    flaw = FLAWS[random.integers(len(FLAWS))]
    mask = Image.new("L", tile.size)
    pen = ImageDraw.Draw(mask)
    x, y = random.integers(_MARGIN, TILE - _MARGIN, 2).tolist()
    if flaw == "scratch":
        angle, length = random.uniform(0, np.pi), random.uniform(24, 48)
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), tuple(np.clip(end, _MARGIN, TILE - _MARGIN))], fill=255, width=2)
        shade = 255
    else:
        half = random.integers(6, 14, 2)
        pen.ellipse([x - half[0], y - half[1], x + half[0], y + half[1]], fill=220)
        shade = 10
    box = mask.getbbox()
    assert box is not None, "a flaw is drawn inside of the tile"
    flawed = Image.composite(Image.new("L", tile.size, shade), tile, mask.filter(ImageFilter.GaussianBlur(0.6)))
    return flawed, flaw, box


def _annotation(number: int, image: int, flaw: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, upper, right, lower = box
    sides = [left, upper, right - left, lower - upper]
    return {
        "id": number,
        "image_id": image,
        "category_id": FLAWS.index(flaw) + 1,
        "bbox": sides,
        "area": sides[2] * sides[3],
        "iscrowd": 0,
    }


def _write(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(FLAWS, start=1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "flaws")
    print(f"{write_flaws(target)} tiles written to {target}/")
