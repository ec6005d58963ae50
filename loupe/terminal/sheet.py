"""A sheet of a version's pictures with what they are annotated with: what a person looks at before training."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe import picture
from loupe.annotations import Annotation
from loupe.errors import BadDataset
from loupe.names import DatasetVersionName
from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.annotation_messages import annotations_of
from loupe.terminal.confusion import drawable, font_of
from loupe.terminal.datasets import Datasets
from loupe.terminal.drawing import Colour, colours_of
from loupe.terminal.export import fetch
from loupe.terminal.picture_source import SPLITS

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

TILE, GAP, TEXT, LINE, SQUARE = 200, 8, 13, 18, 11
MOST_COLUMNS = 8
MOST_LEGEND = 40
INK, PAPER, MISSING = (20, 20, 20), (255, 255, 255), (225, 225, 225)


async def draw_sheet(
    datasets: Datasets,
    name: DatasetVersionName,
    file: Path,
    *,
    label: str | None = None,
    split: str | None = None,
    count: int = 48,
    seed: int = 0,
) -> tuple[int, int]:
    """Draw pictures of a version into a PNG file; return how many are drawn, and of how many that were meant.

    label, split: only pictures that show the class, or are for train, validation or test. seed: another one draws
    others. Raises BadDataset where no picture is meant, NotFound, OSError.
    """
    version = await datasets.version(str(name))
    labels = [each.label for each in version.labels]
    if label is not None and label not in labels:
        raise BadDataset(f"{version.name} has no class {label!r}; it has {', '.join(labels[:20])}", problem="label")
    meant = [item async for item in datasets.items(version.name) if _is_meant(item, label, split)]
    if not meant:
        raise BadDataset(f"{version.name} has no such picture", problem="empty")
    # By digest: the same pictures are drawn however the items are ordered.
    chosen = random.Random(seed).sample(sorted(meant, key=lambda item: item.digest), min(count, len(meant)))
    sheet = Sheet(chosen, colours_of(labels), f"{name.dataset}/versions/{version.name.rpartition('/')[2]}")
    async for digest, data in fetch(datasets, f"projects/{name.project}", [item.digest for item in chosen]):
        await asyncio.to_thread(sheet.add, digest, data)
    await asyncio.to_thread(sheet.write, file)
    return len(chosen), len(meant)


def _is_meant(item: DatasetItem, label: str | None, split: str | None) -> bool:
    shows = label is None or label == item.label or any(each.label == label for each in item.annotations)
    return shows and (split is None or item.split == SPLITS[split])


class Sheet:
    """The tiles of some pictures below a legend. colours: of each class."""

    def __init__(self, items: Sequence[DatasetItem], colours: Mapping[str, Colour], title: str) -> None:
        from PIL import Image, ImageDraw

        self._items = {item.digest: (place, item) for place, item in enumerate(items)}
        self._colours = colours
        regions = Counter(each.label for item in items for each in item.annotations)
        shown = {label: regions[label] for label in colours if regions[label]}
        self._font = font_of([*colours, title, *(item.filename for item in items)], TEXT)
        self._columns = min(MOST_COLUMNS, max(1, len(items)))
        self._rows = -(-len(items) // self._columns)
        width = GAP + self._columns * (TILE + GAP)
        legend = self._legend(title, shown, width)
        self._top = GAP + LINE * (1 + max((row for row, *_ in legend), default=0)) + GAP
        height = self._top + self._rows * (TILE + 2 * LINE + GAP)
        self._image: Image.Image = Image.new("RGB", (width, height), PAPER)
        self._pen: ImageDraw.ImageDraw = ImageDraw.Draw(self._image)
        for row, left, text, colour in legend:
            top = GAP + row * LINE
            if colour is not None:
                self._pen.rectangle((left, top + 3, left + SQUARE, top + 3 + SQUARE), colour)
            self._write(left if colour is None else left + SQUARE + 5, top, text)

    def _legend(self, title: str, shown: dict[str, int], width: int) -> list[tuple[int, int, str, Colour | None]]:
        """Return row, place and text of each word above the tiles, and the colour of a square before it."""
        words: list[tuple[str, Colour | None]] = [(title, None)]
        words += [(f"{label} ({count})", self._colours[label]) for label, count in list(shown.items())[:MOST_LEGEND]]
        if len(shown) > MOST_LEGEND:
            words.append((f"and {len(shown) - MOST_LEGEND} classes more", None))
        placed: list[tuple[int, int, str, Colour | None]] = []
        row, left = 0, GAP
        for text, colour in words:
            before = 0 if colour is None else SQUARE + 5
            cut = self._fitting(text, width - 2 * GAP - before)
            space = before + int(self._font.getlength(cut)) + 2 * GAP
            if left > GAP and left + space > width:
                row, left = row + 1, GAP
            placed.append((row, left, cut, colour))
            left += space
        return placed

    def add(self, digest: str, data: bytes) -> None:
        """Draw the tile of a picture. A file that cannot be read leaves an empty one that says so."""
        place, item = self._items[digest]
        left = GAP + place % self._columns * (TILE + GAP)
        top = self._top + place // self._columns * (TILE + 2 * LINE + GAP)
        try:
            self._draw(item, data, left, top)
        except picture.BadPicture as error:
            self._pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), MISSING)
            self._write(left + 4, top + 4, self._fitting(str(error), TILE - 8))
        self._write(left, top + TILE + 2, self._fitting(_caption(item), TILE))
        self._write(left, top + TILE + 2 + LINE, self._fitting(Path(item.filename).name, TILE), (120, 120, 120))

    def _draw(self, item: DatasetItem, data: bytes, left: int, top: int) -> None:
        from PIL import Image

        width, height = picture.upright_size(data)
        scale = TILE / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        pixels: np.ndarray = picture.decode(data, height, width)
        left, top = left + (TILE - width) // 2, top + (TILE - height) // 2
        self._image.paste(Image.fromarray(pixels), (left, top))
        for each in annotations_of(item):
            self._outline(each, left, top, width, height)

    def _outline(self, annotation: Annotation, left: int, top: int, width: int, height: int) -> None:
        colour = self._colours.get(annotation.label, INK)
        corners = [(left + x * (width - 1), top + y * (height - 1)) for x, y in annotation.points]
        if annotation.is_box:
            self._pen.rectangle([*corners[0], *corners[1]], outline=colour, width=2)
        else:
            self._pen.line([*corners, corners[0]], fill=colour, width=2)

    def _fitting(self, text: str, width: int) -> str:
        """Return a text escaped, and cut where it is wider than so many pixels."""
        shown = drawable(text, self._font)
        while shown and self._font.getlength(shown) > width:
            shown = shown[: max(0, min(len(shown) - 2, int(len(shown) * width / self._font.getlength(shown))))] + "…"
            if len(shown) == 1:
                break
        return shown

    def _write(self, left: float, top: float, text: str, colour: Colour = INK) -> None:
        self._pen.text((left, top), text, colour, self._font)

    def write(self, file: Path) -> None:
        """Write the sheet as PNG. Raises OSError."""
        data = io.BytesIO()
        self._image.save(data, "PNG")
        file.write_bytes(data.getvalue())


def _caption(item: DatasetItem) -> str:
    counts = Counter(each.label for each in item.annotations)
    regions = ", ".join(label if count == 1 else f"{count} {label}" for label, count in sorted(counts.items()))
    said = regions or ("nothing there" if item.nothing_there else "")
    return ": ".join(filter(None, (item.label, said))) or "unlabelled"
