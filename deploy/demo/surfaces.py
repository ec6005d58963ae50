"""The demo's default pictures: photographs of brick, grass and gravel that ship with scikit-image, cut into tiles."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from skimage import data

LABELS = ("brick", "grass", "gravel")
TILE = 64
STRIDE = 32
# Each photograph is 512 rows high; a split is a band of rows, and no tile reaches over a band's border.
BANDS = {"train": (0, 320), "val": (320, 416), "test": (416, 512)}


def write_surfaces(folder: Path) -> int:
    """Write <split>/<label>/<tile>.png, grey, 64x64, and return how many tiles it wrote.

    Tiles of a band overlap each other by half, never those of another band: no test pixel is seen in training.
    """
    count = 0
    for label in LABELS:
        photograph = getattr(data, label)()
        for split, (top, bottom) in BANDS.items():
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for row in range(top, bottom - TILE + 1, STRIDE):
                for column in range(0, photograph.shape[1] - TILE + 1, STRIDE):
                    tile = photograph[row : row + TILE, column : column + TILE]
                    Image.fromarray(tile).save(target / f"{label}-{row:03d}-{column:03d}.png")
                    count += 1
    return count


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "surfaces")
    print(f"{write_surfaces(target)} tiles written to {target}/")
