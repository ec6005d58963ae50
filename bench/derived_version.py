"""Deriving a version by a few changes, against making it of a full list: seconds inside storage, on SQLite.

    python -m bench.derived_version [--pictures 100000] [--changes 10] [--regions 0] [--rounds 3]

Both go through the domain behind the servicer, on one database; the pictures' index is made up, so that no picture is
decoded. Pictures have a class, or with --regions so many boxes each. Prints one JSON object. What counts is the wall's
clock on a machine that does nothing else; processor_seconds say what of it is work, also beside others.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np

from bench.figures import median_ratio
from loupe import database
from loupe.annotations import Provenance, box, write
from loupe.idempotency import RequestLog
from loupe.names import AccountName, DatasetName, DatasetVersionName, ProjectName
from services.storage.database.session import Database
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.orders import ChangePart, CreatedVersion, Part, VersionClosing, VersionOrder
from services.storage.datasets.store import ItemRow
from services.storage.datasets.versions import DatasetVersions
from services.storage.files.disk import Disk
from services.storage.files.files import LocalFiles
from services.storage.pictures.decoders import Decoders
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import WHOLE, IndexRow, PackRow, PictureRow, PictureTable
from services.storage.projects.store import ProjectRow, ProjectTable

TARGET_SECONDS = 1.0
ANNA, PROJECT = AccountName("anna"), ProjectName("line-7")
_AT_ONCE = 10_000


async def make_pictures(tables: Database, count: int, regions: int = 0) -> list[ItemRow]:
    """Write the index of so many pictures that do not exist, and return them as items of six classes.

    regions: how many boxes each has, of its class; 0 for pictures that have a class as a whole.
    """
    random = np.random.default_rng(7)
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    for start in range(0, count, _AT_ONCE):
        part = digests[start : start + _AT_ONCE]
        rows = [PictureRow(digest, 17_000, "pack", 0) for digest in part]
        index = [IndexRow(digest, 17_000, WHOLE, "", random.bytes(8), random.bytes(256)) for digest in part]
        async with tables.write() as session:
            await PictureTable(session).add(PROJECT.project, rows, PackRow("pack", PROJECT.project, 0, False))
            await PictureTable(session).set_index(PROJECT.project, index)
    return [
        ItemRow(
            digest,
            "" if regions else f"class-{number % 6}",
            0,
            f"class-{number % 6}/{number:06}.jpg",
            0,
            make_boxes(f"class-{number % 6}", random.random((regions, 4))) if regions else "",
        )
        for number, digest in enumerate(digests)
    ]


def make_boxes(label: str, corners: np.ndarray) -> str:
    """Return the annotations of a picture with a box for each row of `corners`, four numbers of 0 to 1."""
    low, high = corners[:, :2] * 0.5, corners[:, 2:] * 0.4 + 0.55
    boxes = np.hstack([low, high]).tolist()
    return write(box(label, each, Provenance(str(ANNA))) for each in boxes)


async def make_version(
    versions: DatasetVersions, dataset: DatasetName, items: Sequence[ItemRow], removed: Sequence[str], base: str = ""
) -> tuple[CreatedVersion, float, float]:
    """Make a version and return it with the seconds that it took, by the wall's clock and of the processor."""
    name = DatasetVersionName(dataset.project, dataset.dataset, base) if base else None
    order = VersionOrder(dataset, name, None, False, True, False, "", ANNA)

    async def parts() -> AsyncIterator[Part]:
        yield items
        if base:
            yield ChangePart(removed, [])
        yield VersionClosing(len(items), len(removed))

    gc.collect()
    gc.freeze()  # what this program holds is not storage's to look through
    begun, used = time.perf_counter(), time.process_time()
    made = await versions.create(order, parts())
    return made, time.perf_counter() - begun, time.process_time() - used


async def measure(folder: Path, pictures: int, changes: int, rounds: int, regions: int) -> dict[str, object]:
    """Derive and push in turns, each round by other changes of the same first version."""
    tables = Database(database.create_engine(database.sqlite_url(folder, "storage")), RequestLog())
    await tables.migrate()
    disk = Disk(0)
    packs = Packs(folder / "open", LocalFiles(folder / "files", disk), disk, tables, 1 << 20)
    versions = DatasetVersions(tables, Indexer(tables, packs, Decoders(1)), time.time)
    async with tables.write() as session:
        await ProjectTable(session).add(ProjectRow(PROJECT.project, "0" * 32, "", str(ANNA), True, 0.0))
    items = await make_pictures(tables, pictures + rounds * changes, regions)
    seconds: dict[str, list[float]] = {"derived": [], "full": []}
    processor: dict[str, list[float]] = {"derived": [], "full": []}
    for each in seconds:
        await Datasets(tables, time.time).create(PROJECT, each, "", ANNA, "")
        await make_version(versions, DatasetName(PROJECT.project, each), items[:pictures], [])
    for number in range(rounds):
        half = changes // 2
        first = pictures + number * changes
        fresh, gone = items[first : first + changes - half], items[number * half : (number + 1) * half]
        left = [*items[:pictures], *fresh]
        removed = [item.digest for item in gone]
        whole = [item for item in left if item.digest not in removed]
        _, took, used = await make_version(versions, DatasetName(PROJECT.project, "derived"), fresh, removed, "1")
        seconds["derived"].append(took)
        processor["derived"].append(used)
        _, took, used = await make_version(versions, DatasetName(PROJECT.project, "full"), whole, [])
        seconds["full"].append(took)
        processor["full"].append(used)
    await tables.close()
    derived = statistics.median(seconds["derived"])
    return {
        "bench": "derived_version",
        "pictures": pictures,
        "changes": changes,
        "regions": regions,
        "seconds": {way: round(statistics.median(each), 2) for way, each in seconds.items()},
        "processor_seconds": {way: round(statistics.median(each), 2) for way, each in processor.items()},
        "times_faster": median_ratio(seconds["full"], seconds["derived"]),
        "target_seconds": TARGET_SECONDS,
        "met": derived < TARGET_SECONDS,
    }


def main() -> None:
    """Print one JSON object; exit with 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--regions", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), options.pictures, options.changes, options.rounds, options.regions))
    print(json.dumps(figures))
    raise SystemExit(not figures["met"])


if __name__ == "__main__":
    main()
