"""Collecting the pictures of a deleted version against copying the same bytes with cp.

    python -m bench.collection [--pictures 100000] [--size 4096] [--keep 0.25] [--beside]

A project has pictures in packs as uploads leave them, and two versions: of all of them, and of a part, spread over all
packs. The first one is deleted and expires. What a pass then does is measured by its kinds of steps: purging, marking,
removing, compacting. Beside that, `cp` copies the packs and syncs, as bytes have to be moved by whoever makes room.
With --beside one picture after the other is uploaded meanwhile, which says how long a call has to wait at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from loupe.idempotency import Request
from loupe.names import AccountName, DatasetVersionName, ProjectName
from services.storage.app import Storage
from services.storage.datasets.deletion import DatasetDeletion
from services.storage.datasets.store import Content, DatasetRow, DatasetTable, ItemRow, VersionRow
from services.storage.pictures.admission import UploadedPicture
from services.storage.pictures.decoders import Decoders, Encoded, Turn
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import PictureRow, PictureTable
from services.storage.pictures.uploads import PictureClosing
from services.storage.projects.store import ProjectRow, ProjectTable
from services.storage.settings import StorageSettings
from services.storage.streams import Held

LINE, ANNA = ProjectName("line-7"), AccountName("anna")
DAY = 24 * 3600.0
_AT_ONCE = 1_000
_TRAIN = 1


class Idle(Decoders):
    """Decoders that decode nothing: here only rows and packs are moved."""

    def __init__(self) -> None:
        super().__init__(1)

    async def warm(self) -> None:
        """Start nothing."""

    async def inspect(self, pictures: Sequence[Encoded], *, patient: bool = False) -> Turn:
        """Wait for ever."""
        await asyncio.Event().wait()
        return Turn()


class Nobody:
    """No memberships."""

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        """Do nothing."""

    async def of(self, account: AccountName) -> list[ProjectName]:
        """Return nothing."""
        return []

    async def may(self, account: AccountName, project: ProjectName, action: str, login: str) -> bool:
        """Allow nothing."""
        return False

    async def forget_project(self, project: ProjectName, uid: str) -> None:
        """Have nothing to forget."""


class Clock:
    """Wall-clock seconds that are set forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.time() + self.ahead


async def fill(storage: Storage, packs: Packs, count: int, size: int, keep: float) -> None:
    """Put pictures there, and a version of all of them beside one of a part."""
    items: list[ItemRow] = []
    async with storage.database.write() as session:
        await ProjectTable(session).add(ProjectRow(LINE.project, "0" * 32, "", str(ANNA), True, 0.0))
        await DatasetTable(session).add(DatasetRow(LINE.project, "screws", "1" * 32, "", 0, 0.0))
    for start in range(0, count, _AT_ONCE):
        data = [os.urandom(size) for _ in range(min(_AT_ONCE, count - start))]
        digests = [hashlib.sha256(each).hexdigest() for each in data]
        async with packs.append(LINE.project, data) as placed, storage.database.write() as session:
            rows = [
                PictureRow(digest, size, placed.pack.pack, position)
                for digest, position in zip(digests, placed.positions, strict=True)
            ]
            await PictureTable(session).add(LINE.project, rows, placed.pack)
        items += [ItemRow(digest, "a", _TRAIN, f"{start + n}.jpg", size) for n, digest in enumerate(digests)]
    step = round(1 / keep) if keep else 0
    for number, some in ((1, items), (2, items[::step] if step else items[:1])):
        version = VersionRow(LINE.project, "screws", number, f"{number + 1}" * 32, f"{number}" * 64, b"")
        async with storage.database.write() as session:
            await DatasetTable(session).add_version(version, Content(list(enumerate(some))))


async def upload_meanwhile(storage: Storage, waits: list[float]) -> None:
    """Send one picture after the other, and note how long each takes."""
    while True:
        data = b"\xff\xd8\xff" + os.urandom(2_000)
        picture = UploadedPicture(hashlib.sha256(data).hexdigest(), data)

        async def parts(picture: UploadedPicture = picture) -> AsyncIterator[Held[Any]]:
            yield Held([picture])
            yield Held(PictureClosing(1, len(picture.data)))

        started = time.perf_counter()
        async for _ in storage.picture_uploads.receive(LINE, parts()):
            pass
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)


async def timed(storage: Storage, waits: list[float] | None) -> tuple[float, float, Any]:
    """Do one pass, with waits beside uploads; return its seconds, those of the CPU, and what it came to."""
    uploads = asyncio.create_task(upload_meanwhile(storage, waits) if waits is not None else asyncio.sleep(0))
    started, cpu = time.perf_counter(), time.process_time()
    collected = await storage.collector.collect()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    uploads.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await uploads
    return seconds, cpu, collected


def copied(folder: Path, target: Path) -> float:
    """Return the seconds in which cp copies a folder and the copy is on the disk."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - started


def stored(state: Path) -> int:
    """Return the bytes of all packs."""
    return sum(
        each.stat().st_size for part in ("open", "files") for each in (state / part).rglob("*") if each.is_file()
    )


async def measure(state: Path, count: int, size: int, keep: float, *, beside: bool) -> dict[str, object]:
    """Return the figures."""
    clock = Clock()
    tls = {name: Path("/") for name in ("tls_ca", "tls_cert", "tls_key")}
    settings = StorageSettings(state=state, internal_port=1, **tls)  # type: ignore[arg-type]
    storage = Storage(settings, Nobody(), decoders=Idle(), now=clock)
    await storage.start()
    await fill(storage, storage._packs, count, size, keep)
    before = stored(state)
    copying = await asyncio.to_thread(copied, state / "files", state / "copy")
    deletion = DatasetDeletion(storage.database, 30 * DAY, clock)
    request = Request(str(ANNA), "DeleteDatasetVersion", "", b"")
    await deletion.delete_version(DatasetVersionName(LINE.project, "screws", "1"), request)
    clock.ahead += 31 * DAY
    waits: list[float] = []
    purging, purging_cpu, purged = await timed(storage, waits if beside else None)
    clock.ahead += 8 * DAY
    removing, removing_cpu, removed = await timed(storage, waits if beside else None)
    after = stored(state)
    await storage.stop()
    assert purged.dataset_versions == 1
    seconds = purging + removing
    return {
        "pictures": count,
        "removed": removed.pictures,
        "bytes_before": before,
        "bytes_after": after,
        "seconds_purging_and_marking": round(purging, 2),
        "seconds_removing_and_compacting": round(removing, 2),
        "cpu_seconds": round(purging_cpu + removing_cpu, 2),
        "pictures_per_second": round(removed.pictures / seconds),
        "cp_seconds": round(copying, 2),
        "times_cp": round(seconds / copying, 2),
        "uploads_meanwhile": len(waits),
        "longest_upload_seconds": round(max(waits, default=0.0), 3),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=4_096)
    parser.add_argument("--keep", type=float, default=0.25, help="the part of the pictures that the other version has")
    parser.add_argument("--beside", action="store_true", help="upload meanwhile, and say how long that has to wait")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(
            measure(Path(folder), arguments.pictures, arguments.size, arguments.keep, beside=arguments.beside)
        )
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
