"""A storage process that dies at a chosen step and loses what was not synced: `python -m tests.storage.mortal`.

It reads lines "part step when nth state" and forks a process for each, which lives until it gets there: before or after
the nth such step of that part of its life, see store(). Forking a process that has everything imported, and no thread
yet, makes a death cost a tenth of a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.engine.default import DefaultDialect

from loupe.identity import AttemptGrant
from loupe.names import AccountName, JobName, ProjectName
from services.storage.algorithms.library import ImageClosing
from services.storage.app import Storage
from services.storage.blobs.blob_references import BlobReference
from services.storage.blobs.uploads import BlobClosing, BlobOrder
from services.storage.files.disk import Disk
from services.storage.models.store import Checkpoint
from services.storage.pictures.admission import UploadedPicture
from services.storage.pictures.decoders import Decoders, Encoded, Turn
from services.storage.pictures.uploads import PictureClosing
from services.storage.settings import StorageSettings
from services.storage.streams import Held
from tests.storage.archives import packed
from tests.storage.house import MadeUpAuth
from tests.storage.photographs import jpeg, sha256

Part = TypeVar("Part")
Closing = TypeVar("Closing")

PROJECT = ProjectName("line-7")
PICTURES = [jpeg(seed) for seed in range(21)]
BATCH = 3
COLLECTION = "collection"
"""The only part of the life of a storage that collects."""
BLOB = b"0123456789abcdef" * 25_000
CHUNK = 100_000
IMAGE = packed(code=b"#" * 150_000)
GRANT = AttemptGrant(JobName(PROJECT.project, "j1"), 1)
TENSORS = [{"rest": b"of both", "weights": b"the first"}, {"rest": b"of both", "weights": b"the second"}]
CHECKPOINTS = [
    Checkpoint(
        job=GRANT.job,
        attempt=GRANT.attempt,
        files=[BlobReference(name, sha256(data), len(data)) for name, data in files.items()],
    )
    for files in TENSORS
]
STATE_FIELDS: dict[str, Any] = {
    "internal_port": 1,
    "tls_ca": "/",
    "tls_cert": "/",
    "tls_key": "/",
    "pack_bytes": 12_000,
}


def settings_of(state: Path) -> StorageSettings:
    """settings_of is a storage without doors, with small packs."""
    return StorageSettings(state=state, **STATE_FIELDS)


class NoDecoders(Decoders):
    """Decoders that never come to an end, so that only uploads write."""

    def __init__(self) -> None:
        super().__init__(1)

    async def warm(self) -> None:
        """warm starts nothing."""

    async def inspect(self, pictures: Sequence[Encoded], *, patient: bool = False) -> Turn:
        """inspect waits for ever."""
        await asyncio.Event().wait()
        return Turn()


class MortalDisk(Disk):
    """A disk whose power fails before or after the nth step of a kind in a part: what was not synced is lost.

    One step at a time, whatever thread it comes from: nothing is stored while the power fails.
    """

    def __init__(self, part: str, step: str, when: str, nth: int) -> None:
        super().__init__()
        self.part = part
        self._fate = (part, step, when, nth)
        self._one_at_a_time = threading.Lock()
        self._part = ""
        self._seen: Counter[tuple[str, str]] = Counter()
        self._unsynced: defaultdict[Path, list[tuple[int, int]]] = defaultdict(list)
        self._created: set[Path] = set()
        self._renamed: list[tuple[Path, Path]] = []

    def begin(self, part: str) -> None:
        """begin says which part of the life comes now."""
        with self._one_at_a_time:
            self._part = part
            self._seen.clear()

    @contextmanager
    def step(self, step: str) -> Iterator[None]:
        """step dies before or after its block if that is the moment."""
        with self._one_at_a_time:
            self._pass_by(step, "before")
            yield
            self._pass_by(step, "after")

    def _pass_by(self, step: str, when: str) -> None:
        self._seen[step, when] += 1
        if (self._part, step, when, self._seen[step, when]) == self._fate:
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
        with self._one_at_a_time:
            if not path.exists():
                self._created.add(path)
        return super().create(path)

    def write(self, descriptor: int, data: bytes, position: int) -> None:
        """write puts bytes there that are lost unless the file is synced."""
        with self.step("write"):
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._unsynced[path].append((position, len(data)))
            super().write(descriptor, data, position)

    def sync(self, descriptor: int) -> None:
        """sync keeps the file's bytes."""
        with self.step("sync"):
            super().sync(descriptor)
            self._unsynced.pop(Path(f"/proc/self/fd/{descriptor}").readlink(), None)

    def rename(self, source: Path, target: Path) -> None:
        """rename changes a name, which is undone unless the folder is synced."""
        with self.step("rename"):
            super().rename(source, target)
            if source in self._unsynced:
                self._unsynced[target] = self._unsynced.pop(source)
            self._renamed.append((source, target))

    def remove(self, path: Path) -> None:
        """remove takes a name away."""
        with self.step("remove"):
            super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        """sync_folder keeps the folder's names."""
        with self.step("sync_folder"):
            super().sync_folder(folder)
            self._created = {path for path in self._created if path.parent != folder}
            self._renamed = [pair for pair in self._renamed if pair[1].parent != folder]


async def store(storage: Storage, acknowledged: int, begin: Callable[[str], None] = lambda part: None) -> None:
    """store lives a life; what is acknowledged is written down.

    Its parts: "files" (all pictures, three at a time, and the blob, until full packs are sealed), "algorithm" (the
    image), "checkpoint" (the first one, with its files), "replacement" (of the first checkpoint by the second).
    """
    begin("files")
    for start in range(0, len(PICTURES), BATCH):
        pictures = [UploadedPicture(sha256(data), data) for data in PICTURES[start : start + BATCH]]
        async for answer in storage.picture_uploads.receive(
            PROJECT, _held(_parts([pictures], _pictures_closing(pictures)))
        ):
            assert answer.stored_count == len(pictures)
            if answer.complete:
                _note(acknowledged, *(each.digest for each in pictures))
    await _store_blob(storage, BLOB)
    _note(acknowledged, sha256(BLOB))
    await _seals()
    begin("algorithm")
    closing = ImageClosing(sha256(IMAGE), len(IMAGE))
    version = await storage.algorithms.publish(closing, _parts(_chunks(IMAGE), closing), AccountName("anna"))
    _note(acknowledged, str(version.name))
    for part, files, checkpoint in zip(("checkpoint", "replacement"), TENSORS, CHECKPOINTS, strict=True):
        begin(part)
        for data in files.values():
            await _store_blob(storage, data, GRANT)
        await storage.checkpoints.save(checkpoint, GRANT)
        _note(acknowledged, part)


async def _seals() -> None:
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("seal-")))


def _note(acknowledged: int, *lines: str) -> None:
    os.write(acknowledged, "".join(f"{line}\n" for line in lines).encode())


async def _store_blob(storage: Storage, data: bytes, grant: AttemptGrant | None = None) -> None:
    order = BlobOrder(PROJECT, sha256(data), len(data), 0, grant)
    await storage.blob_uploads.receive(order, _parts(_chunks(data), BlobClosing(order.digest, order.size)))


def _pictures_closing(pictures: Sequence[UploadedPicture]) -> PictureClosing:
    return PictureClosing(len(pictures), sum(len(each.data) for each in pictures))


def _chunks(data: bytes) -> Iterable[bytes]:
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


async def _parts(parts: Iterable[Part], closing: Closing) -> AsyncIterator[Part | Closing]:
    for part in parts:
        yield part
    yield closing


async def _held(parts: AsyncIterator[Part]) -> AsyncIterator[Held[Part]]:
    async for part in parts:
        yield Held(part)


async def live(disk: MortalDisk, state: Path) -> None:
    """live stores everything, or collects what is to be collected there, or dies on the way."""
    storage = Storage(settings_of(state), MadeUpAuth(), disk=disk, decoders=NoDecoders())
    await storage.start()
    commit = DefaultDialect.do_commit

    def do_commit(dialect: DefaultDialect, connection: object) -> None:
        with disk.step("commit"):
            commit(dialect, connection)  # type: ignore[arg-type]

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
    if disk.part == COLLECTION:
        disk.begin(COLLECTION)
        await storage.collector.collect()
    else:
        acknowledged = os.open(state / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        await store(storage, acknowledged, disk.begin)
    await storage.stop()


async def live_by(line: str) -> None:
    """live_by lives the life of a line that this program reads."""
    part, step, when, nth, state = line.split()
    await live(MortalDisk(part, step, when, int(nth)), Path(state))


def fork_for_each_line(life: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """fork_for_each_line lives a life in a process for each line and prints how it ended: the signal, or 0."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the answers
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(life(line))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    fork_for_each_line(live_by)
