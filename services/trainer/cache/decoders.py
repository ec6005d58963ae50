"""Decoding picture files in sandboxed processes: a file that breaks the decoder breaks nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from loupe.errors import BadDataset
from services.trainer.sandbox.decoder import BAD, HEAD, SIZE
from services.trainer.sandbox.launch import Launch
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxedProcess
from services.trainer.sandbox.sandbox import Sandbox

BATCH = 32
LIMITS = Limits(memory=2 << 30, processes=16, file=0, work=0, tmp=16 << 20, shm=16 << 20)
SECONDS_PER_PICTURE = 20
NICE = 5


class DecoderDied(Exception):
    """Says that a decoder ended, or hung, over a batch."""


class Decoders:
    """A few decoder processes, started when they are first needed.

    first_slot: the slots from there on are theirs.
    """

    def __init__(self, sandbox: Sandbox, folder: Path, first_slot: int, count: int) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for slot in reversed(range(first_slot, first_slot + count)):
            self._free.put_nowait(slot)
        self._live: dict[int, _Decoder] = {}
        self._names = itertools.count(1)

    async def decode(self, pictures: Sequence[tuple[str, bytes]], height: int, width: int) -> np.ndarray:
        """Return uint8 [len(pictures), height, width, 3] for (digest, file) pairs.

        Raises BadDataset for the first picture that cannot be decoded, also when it takes the decoder with it.
        """
        try:
            return await self._decode(pictures, height, width)
        except DecoderDied as error:
            if len(pictures) == 1:
                raise _bad(pictures[0][0], str(error)) from error
        parts = [await self.decode([picture], height, width) for picture in pictures]
        return np.concatenate(parts)

    async def close(self) -> None:
        """End the processes."""
        for slot in list(self._live):
            await self._live.pop(slot).kill()

    async def _decode(self, pictures: Sequence[tuple[str, bytes]], height: int, width: int) -> np.ndarray:
        async with self._decoder() as decoder:
            answers = await decoder.decode([data for _, data in pictures], height, width)
        for (digest, _), pixels in zip(pictures, answers, strict=True):
            if isinstance(pixels, str):
                raise _bad(digest, pixels)
        return np.stack(answers)

    @asynccontextmanager
    async def _decoder(self) -> AsyncIterator[_Decoder]:
        slot = await self._free.get()
        try:
            if slot not in self._live:
                self._live[slot] = await self._start(slot)
            done = False
            try:
                yield self._live[slot]
                done = True
            finally:
                # After anything but a whole answer, nobody knows where in its stream the decoder is.
                if not done and (decoder := self._live.pop(slot, None)):
                    await decoder.kill()
        finally:
            self._free.put_nowait(slot)

    async def _start(self, slot: int) -> _Decoder:
        folder = self._folder / f"decoder-{slot}-{next(self._names)}"
        launch = Launch("decoder", folder, slot, LIMITS, ("--channel", "{channel}"), nice=NICE)
        process = await self._sandbox.start(launch)
        reader, writer = await asyncio.open_connection(sock=process.channel.dup())
        return _Decoder(process, reader, writer)


class _Decoder:
    def __init__(self, process: SandboxedProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    async def decode(self, files: Sequence[bytes], height: int, width: int) -> list[np.ndarray | str]:
        """Return pixels, or why not, for each file. Raises DecoderDied."""
        try:
            async with asyncio.timeout(SECONDS_PER_PICTURE * len(files)):
                self._writer.write(HEAD.pack(height, width, len(files)))
                for file in files:
                    self._writer.write(SIZE.pack(len(file)))
                    self._writer.write(file)
                await self._writer.drain()
                return [await self._answer(height, width) for _ in files]
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise DecoderDied("the decoder died over it or took too long") from error

    async def kill(self) -> None:
        """End the process."""
        self._writer.close()
        await self._process.kill()

    async def _answer(self, height: int, width: int) -> np.ndarray | str:
        if await self._reader.readexactly(1) == BAD:
            (size,) = SIZE.unpack(await self._reader.readexactly(SIZE.size))
            if size > 1000:
                raise DecoderDied("the decoder answered out of turn")
            return (await self._reader.readexactly(size)).decode(errors="replace")
        pixels = await self._reader.readexactly(height * width * 3)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _bad(digest: str, why: str) -> BadDataset:
    return BadDataset(f"picture {digest} cannot be decoded: {why}", problem="broken_picture", digest=digest)
