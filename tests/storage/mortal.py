"""A storage process that dies at a chosen step and loses what was not synced: `python -m tests.storage.mortal`.

It reads lines "step when nth state" and forks a process for each, which stores pictures and a blob until it gets there.
Forking a process that has everything imported and no thread yet makes a death cost a tenth of a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sqlalchemy.engine.default import DefaultDialect

from loupe.names import ProjectName
from services.storage import blobs, picture_uploads
from services.storage.app import Storage
from services.storage.blobs import BlobOrder
from services.storage.decoders import Decoders, Encoded
from services.storage.disk import Disk
from services.storage.looking import Looked
from services.storage.pictures import UploadedPicture
from services.storage.settings import StorageSettings
from tests.storage.house import MadeUpAuth
from tests.storage.photographs import jpeg, sha256

PROJECT = ProjectName("line-7")
PICTURES = [jpeg(seed) for seed in range(30)]
BATCH = 3
BLOB = b"0123456789abcdef" * 25_000
CHUNK = 100_000
STATE_FIELDS = {"internal_port": 1, "tls_ca": "/", "tls_cert": "/", "tls_key": "/", "pack_bytes": 20_000}


def settings_of(state: Path) -> StorageSettings:
    """settings_of is a storage without doors, with small packs."""
    return StorageSettings(state=state, **STATE_FIELDS)


class NoDecoders(Decoders):
    """Decoders that never come to an end, so that only uploads write."""

    def __init__(self) -> None:
        super().__init__(1)

    async def warm(self) -> None:
        """warm starts nothing."""

    async def look(self, pictures: Sequence[Encoded]) -> list[Looked]:
        """look waits for ever."""
        await asyncio.Event().wait()
        return []


class MortalDisk(Disk):
    """A disk whose power fails before or after the nth step of a kind: what was not synced is lost."""

    def __init__(self, step: str, when: str, nth: int) -> None:
        super().__init__()
        self._fate = (step, when, nth)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._unsynced: defaultdict[Path, list[tuple[int, int]]] = defaultdict(list)
        self._created: set[Path] = set()
        self._renamed: list[tuple[Path, Path]] = []

    def pass_by(self, step: str, when: str) -> None:
        """pass_by dies here if this is the moment."""
        self._seen[step, when] += 1
        if (step, when, self._seen[step, when]) == self._fate:
            self._lose_power()

    def _lose_power(self) -> None:
        for path, ranges in self._unsynced.items():
            for position, size in ranges:
                with path.open("r+b") as file:
                    file.seek(position)
                    file.write(b"\0" * size)
        for source, target in reversed(self._renamed):
            target.replace(source)
        for path in self._created:
            path.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def create(self, path: Path) -> int:
        """create makes a name that is lost unless its folder is synced."""
        if not path.exists():
            self._created.add(path)
        return super().create(path)

    def write(self, descriptor: int, data: bytes, position: int) -> None:
        """write puts bytes there that are lost unless the file is synced."""
        self.pass_by("write", "before")
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._unsynced[path].append((position, len(data)))
        super().write(descriptor, data, position)
        self.pass_by("write", "after")

    def sync(self, descriptor: int) -> None:
        """sync keeps the file's bytes."""
        self.pass_by("sync", "before")
        super().sync(descriptor)
        self._unsynced.pop(Path(f"/proc/self/fd/{descriptor}").readlink(), None)
        self.pass_by("sync", "after")

    def rename(self, source: Path, target: Path) -> None:
        """rename changes a name, which is undone unless the folder is synced."""
        self.pass_by("rename", "before")
        super().rename(source, target)
        if source in self._unsynced:
            self._unsynced[target] = self._unsynced.pop(source)
        self._renamed.append((source, target))
        self.pass_by("rename", "after")

    def sync_folder(self, folder: Path) -> None:
        """sync_folder keeps the folder's names."""
        self.pass_by("sync_folder", "before")
        super().sync_folder(folder)
        self._created = {path for path in self._created if path.parent != folder}
        self._renamed = [pair for pair in self._renamed if pair[1].parent != folder]
        self.pass_by("sync_folder", "after")


async def store(storage: Storage, acknowledged: int) -> None:
    """store uploads all pictures, three at a time, and the blob; what is acknowledged is written down."""
    for start in range(0, len(PICTURES), BATCH):
        pictures = [UploadedPicture(sha256(data), data) for data in PICTURES[start : start + BATCH]]
        async for answer in storage.uploads.receive(PROJECT, _picture_parts(pictures)):
            assert answer.stored_count == len(pictures)
            if answer.complete:
                os.write(acknowledged, "".join(f"{each.digest}\n" for each in pictures).encode())
    order = BlobOrder(PROJECT, sha256(BLOB), len(BLOB), 0)
    await storage.blobs.receive(order, _blob_parts())
    os.write(acknowledged, f"{order.digest}\n".encode())


async def _picture_parts(pictures: Sequence[UploadedPicture]) -> AsyncIterator[picture_uploads.Part]:
    yield pictures
    yield picture_uploads.Closing(len(pictures), sum(len(each.data) for each in pictures))


async def _blob_parts() -> AsyncIterator[bytes | blobs.Closing]:
    for start in range(0, len(BLOB), CHUNK):
        yield BLOB[start : start + CHUNK]
    yield blobs.Closing(sha256(BLOB), len(BLOB))


async def live(step: str, when: str, nth: int, state: Path) -> None:
    """live stores everything, or dies on the way."""
    disk = MortalDisk(step, when, nth)
    storage = Storage(settings_of(state), MadeUpAuth(), disk=disk, decoders=NoDecoders())
    await storage.start()
    commit = DefaultDialect.do_commit

    def do_commit(dialect: DefaultDialect, connection: object) -> None:
        disk.pass_by("commit", "before")
        commit(dialect, connection)  # type: ignore[arg-type]
        disk.pass_by("commit", "after")

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
    acknowledged = os.open(state / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    await store(storage, acknowledged)
    await storage.stop()


def main() -> None:
    """main forks a process for each line and prints how it ended: the signal, or 0."""
    for line in sys.stdin:
        step, when, nth, state = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(live(step, when, int(nth), Path(state)))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
