"""How long it takes to read and check annotations, against hashing the pictures that they are about.

    python -m bench.annotation_import [--pictures 10000] [--regions 5] [--size 640x480] [--rounds 3]

JPEG pictures with noise are made, and each format is written with so many boxes for each of them. Reading
finds the pictures, takes each one's size of its own file, and checks every box; hashing reads the whole files, as a
push does that sends nothing. The two take turns. Prints one JSON object; the ratio is to the hashing, and the slowest
format must stay below the seconds that are wanted. processor_seconds say what of these is work, also on a machine that
does other things beside; with --size 64x64 little of it is reading files.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.figures import median_ratio
from loupe.annotations import Annotation
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION, DatasetItem
from loupe.terminal.digests import DigestCache
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.sources import read_source
from loupe.terminal.formats.targets import WRITERS
from loupe.terminal.hashing import hash_files
from loupe.terminal.picture_source import LabelledPicture

CLASSES = 6
MEASURED = ("coco", "voc", "yolo", "datumaro", "csv")
SECONDS = 10.0
_SPLITS = (SPLIT_TRAIN, SPLIT_TRAIN, SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST)


def make_pictures(count: int, canvas: Canvas) -> list[bytes]:
    """Return so many files of a size, no two of which are equal."""
    random = np.random.default_rng(7)
    noise = random.integers(0, 255, (canvas.height // 8, canvas.width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((canvas.width, canvas.height)).save(buffer, "JPEG", quality=90)
    # What stands behind the end of a JPEG is not looked at.
    return [buffer.getvalue() + number.to_bytes(8, "big") for number in range(count)]


def make_boxes(count: int, seed: int, canvas: Canvas) -> tuple[Annotation, ...]:
    """Return so many boxes of whole pixels; no side of the picture is below 64."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, [canvas.width - 60, canvas.height - 60], (count, 2))
    sizes = random.integers(4, 60, (count, 2))
    return tuple(
        canvas.box(f"class-{number % CLASSES}", [int(x), int(y), int(x + width), int(y + height)])
        for number, ((x, y), (width, height)) in enumerate(zip(corners, sizes, strict=True))
    )


def write(
    folder: Path, format: str, pictures: list[bytes], boxes: list[tuple[Annotation, ...]], canvas: Canvas
) -> None:
    """Write all pictures with their boxes in a format."""
    writer = WRITERS[format](folder, [f"class-{number}" for number in range(CLASSES)])
    for number, (data, regions) in enumerate(zip(pictures, boxes, strict=True)):
        item = DatasetItem(filename=f"{number:06}.jpg", split=_SPLITS[number % 5], nothing_there=True)
        path = folder / writer.place(item)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        writer.add(LabelledPicture(path, "", item.split, item.filename, regions), canvas)
    writer.finish()


def measure(folder: Path, format: str, rounds: int) -> dict[str, Any]:
    """Read and hash what was written, in turns, after one reading that is not counted."""
    seconds: dict[str, list[float]] = {"reading": [], "hashing": []}
    processor: list[float] = []
    found = read_source(folder, format)
    for number in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        read_source(folder, format)
        processor.append(time.process_time() - used)
        seconds["reading"].append(time.perf_counter() - began)
        began = time.perf_counter()
        cache = DigestCache(folder / f".digests-{number}.db")
        asyncio.run(hash_files([one.path for one in found.pictures], lambda progress: None, cache))
        seconds["hashing"].append(time.perf_counter() - began)
    return {
        "format": format,
        "pictures": len(found.pictures),
        "regions": sum(len(one.annotations) for one in found.pictures),
        "seconds": {way: round(statistics.median(each), 2) for way, each in seconds.items()},
        "processor_seconds": round(statistics.median(processor), 2),
        "ratio": median_ratio(seconds["reading"], seconds["hashing"]),
    }


def main() -> int:
    """Measure all formats, print the slowest, and return 1 when it takes longer than is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--regions", type=int, default=5)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    canvas = Canvas(*map(int, options.size.split("x")))
    pictures = make_pictures(options.pictures, canvas)
    boxes = [make_boxes(options.regions, seed, canvas) for seed in range(options.pictures)]
    rows = []
    for format in MEASURED:
        with tempfile.TemporaryDirectory(prefix="loupe-annotations-") as folder:
            write(Path(folder), format, pictures, boxes, canvas)
            rows.append(measure(Path(folder), format, options.rounds))
        print(json.dumps(rows[-1]), file=sys.stderr)
    slowest = max(row["seconds"]["reading"] for row in rows)
    print(json.dumps({"bench": "annotation_import", "formats": rows, "slowest_seconds": slowest, "wanted": SECONDS}))
    return 1 if slowest > SECONDS else 0


if __name__ == "__main__":
    sys.exit(main())
