"""Waiting for pictures to be decoded: whoever waits is told, whatever order things happen in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import Any, cast

import pytest

from loupe.errors import Unavailable
from services.storage.database.session import Database
from services.storage.pictures import indexing
from services.storage.pictures.decoders import Decoders, Encoded, Turn
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.inspection import Inspected
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import IndexRow, PictureRow

PROJECTS = ("line-7", "other")
STEPS = 2_000
"""Turns of the event loop in which everything that can happen has happened."""


class Scene:
    """A table of pictures and decoders that take as many turns of the event loop for each step as a seed says.

    No thread and no clock takes part, so that one seed is one order of events.
    """

    processes = 1

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.to_decode = {
            project: {f"{project}-{number}" for number in range(self.random.randint(1, 12))} for project in PROJECTS
        }
        self.digests = {project: sorted(digests) for project, digests in self.to_decode.items()}
        self.deadly = self.random.random() < 0.2

    async def pause(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3, 8))):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Scene]:
        await self.pause()
        yield self
        await self.pause()

    write = read

    async def warm(self) -> None:
        await self.pause()

    async def inspect(self, pictures: Sequence[Encoded], *, patient: bool = False) -> Turn:
        await self.pause()
        if self.deadly and self.random.random() < 0.1:
            raise Unavailable("no process that decodes pictures can be started", dependency="decoders")
        some = pictures[: self.random.randint(1, 4)]
        slow = [digest for digest, _ in some[-1:] if not patient and self.random.random() < 0.1]
        return Turn([Inspected(digest, "broken") for digest, _ in some if digest not in slow], slow)


class Table:
    """What the indexer asks of PictureTable, over a scene."""

    def __init__(self, session: Scene) -> None:
        self._scene = session

    async def undecoded(self, project: str, digests: Sequence[str]) -> list[str]:
        await self._scene.pause()
        return [digest for digest in digests if digest in self._scene.to_decode[project]]

    async def to_decode(self, project: str, limit: int) -> list[str]:
        await self._scene.pause()
        return sorted(self._scene.to_decode[project])[:limit]

    async def projects_to_decode(self) -> list[str]:
        return [project for project, digests in self._scene.to_decode.items() if digests]

    async def to_measure(self, project: str, limit: int) -> list[str]:
        return []

    async def locate(self, project: str, digests: Sequence[str]) -> dict[str, PictureRow]:
        await self._scene.pause()
        return {digest: PictureRow(digest, 1, "pack", 0) for digest in digests}

    async def set_index(self, project: str, rows: Sequence[IndexRow]) -> None:
        self._scene.to_decode[project] -= {row.digest for row in rows}


class Bytes:
    """Packs in which every picture is there."""

    async def read(self, project: str, rows: Sequence[PictureRow]) -> list[bytes]:
        return [b"" for _ in rows]


@contextmanager
def indexer(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexer]:
    monkeypatch.setattr(indexing, "PictureTable", Table)
    yield Indexer(cast(Database, scene), cast(Packs, Bytes()), cast(Decoders, scene))


@pytest.mark.parametrize("start", range(0, 200, 50))
async def test_whoever_waits_is_told(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of the same and of other pictures wait, some are cancelled, decoders fail: nobody waits for ever."""
    for seed in range(start, start + 50):
        scene = Scene(seed)
        random = Random(seed)
        with indexer(scene, monkeypatch) as under_test:
            await under_test.start()
            waiting: list[asyncio.Task[None]] = []
            for step in range(STEPS):
                if step < 60 and random.random() < 0.4:
                    project = random.choice(PROJECTS)
                    digests = scene.digests[project]
                    chosen = random.sample(digests, random.randint(1, len(digests)))
                    waiting.append(asyncio.create_task(under_test.ensure(project, chosen)))
                if waiting and step < 200 and random.random() < 0.03:
                    random.choice(waiting).cancel()
                await asyncio.sleep(0)
            left = [task for task in waiting if not task.done()]
            for task in left:
                task.cancel()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            await under_test.close()
        assert not left, f"with seed {seed} {len(left)} of {len(waiting)} wait for ever"
        assert all(each is None or isinstance(each, (asyncio.CancelledError, Unavailable)) for each in outcomes)
