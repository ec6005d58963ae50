"""Decoding picture files in sandboxed processes: a file that breaks the decoder breaks nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.concurrency import gather
from loupe.errors import BadDataset
from loupe.letterbox import FITS, Fit
from loupe.picture_structure import MAX_PIXELS
from loupe.turns import Turns
from services.trainer.sandbox.decoder import BAD, HEAD, SIDES, SIZE
from services.trainer.sandbox.launch import Launch
from services.trainer.sandbox.leftovers import FreshFolders
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxedProcess
from services.trainer.sandbox.sandbox import Sandbox

BATCH = 32
LIMITS = Limits(memory=2 << 30, processes=16, file=0, work=0, tmp=16 << 20, shm=16 << 20)
# Of a core's time for one picture, which the decoder's kernel keeps: 64 million pixels take less than half of it.
CPU_SECONDS_PER_PICTURE = 10
# The clock's time is only for a decoder that hangs; on a busy machine a decoder waits a lot for its core.
SECONDS_PER_PICTURE = 120
NICE = 5


class DecoderDied(Exception):
    """Says that a decoder ended, or hung, over a batch. answered: how many pictures of it were answered before."""

    def __init__(self, answered: int) -> None:
        super().__init__("the decoder died over it or took too long")
        self.answered = answered


@dataclass(frozen=True)
class DecodedPictures:
    """What decoders made of K pictures.

    pixels: uint8 [K, height, width, 3]. sizes: int64 [K, 2], width and height of each upright picture in its file.
    """

    pixels: np.ndarray
    sizes: np.ndarray


class Decoders:
    """A few decoder processes, started when they are first needed; whoever wants them gets them in turn.

    first_slot: the slots from there on are theirs. cpu_seconds: what one picture may take.
    """

    def __init__(
        self, sandbox: Sandbox, folder: Path, first_slot: int, count: int, cpu_seconds: int = CPU_SECONDS_PER_PICTURE
    ) -> None:
        self._sandbox = sandbox
        self._cpu_seconds = cpu_seconds
        self._folders = FreshFolders(folder)
        self._turns = Turns(range(first_slot, first_slot + count))
        self._live: dict[int, _Decoder] = {}

    async def decode(
        self,
        pictures: Sequence[tuple[str, bytes]],
        height: int,
        width: int,
        turn: object = None,
        *,
        fit: Fit = "stretch",
    ) -> DecodedPictures:
        """Decode (digest, file) pairs, of which there is at least one.

        turn: for whom; each who waits gets a decoder in turn, however much another one has waiting.
        Raises BadDataset for the first picture that cannot be decoded, also when it takes the decoder with it.
        """
        try:
            return await self._decode(pictures, height, width, turn, fit)
        except DecoderDied as error:
            victim, died = pictures[error.answered], error
        if len(pictures) == 1:
            raise _bad(victim[0], str(died)) from died
        # Only a second decoder that dies over it, alone, proves that it was the picture.
        alone = await self.decode([victim], height, width, turn, fit=fit)
        before, after = pictures[: died.answered], pictures[died.answered + 1 :]
        parts = [await self.decode(part, height, width, turn, fit=fit) for part in (before, after) if part]
        parts.insert(bool(before), alone)
        return DecodedPictures(
            np.concatenate([part.pixels for part in parts]), np.concatenate([part.sizes for part in parts])
        )

    async def clear(self) -> None:
        """Remove what the decoders of an earlier trainer left behind."""
        await self._folders.clear()

    async def close(self) -> None:
        """End the processes."""
        for slot in list(self._live):
            await self._live.pop(slot).kill()

    async def _decode(
        self, pictures: Sequence[tuple[str, bytes]], height: int, width: int, turn: object, fit: Fit
    ) -> DecodedPictures:
        async with self._decoder(turn) as decoder:
            answers = await decoder.decode([data for _, data in pictures], height, width, fit)
        decoded: list[_Answer] = []
        for (digest, _), answer in zip(pictures, answers, strict=True):
            if isinstance(answer, str):
                raise _bad(digest, answer)
            decoded.append(answer)
        return DecodedPictures(np.stack([each.pixels for each in decoded]), np.array([each.size for each in decoded]))

    @asynccontextmanager
    async def _decoder(self, turn: object = None) -> AsyncIterator[_Decoder]:
        async with self._turns.turn(id(turn)) as slot:
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

    async def _start(self, slot: int) -> _Decoder:
        arguments = ("--channel", "{channel}", "--cpu-seconds", str(self._cpu_seconds))
        launch = Launch("decoder", self._folders.name(f"decoder-{slot}"), slot, LIMITS, arguments, nice=NICE)
        process = await self._sandbox.start(launch)
        reader, writer = await asyncio.open_connection(sock=process.channel.dup())
        return _Decoder(process, reader, writer)


@dataclass(frozen=True)
class _Answer:
    """pixels: uint8 [height, width, 3]. size: width and height of the upright picture in its file."""

    pixels: np.ndarray
    size: tuple[int, int]


class _Decoder:
    def __init__(self, process: SandboxedProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    async def decode(
        self, files: Sequence[bytes], height: int, width: int, fit: Fit = "stretch"
    ) -> list[_Answer | str]:
        """Return the answer, or why there is none, for each file. Raises DecoderDied."""
        answers: list[_Answer | str] = []

        async def ask() -> None:
            self._writer.write(HEAD.pack(height, width, FITS.index(fit), len(files)))
            with suppress(OSError):  # what was answered before it died is still to be read
                for file in files:
                    self._writer.write(SIZE.pack(len(file)))
                    self._writer.write(file)
                    await self._writer.drain()

        async def listen() -> None:
            for _ in files:
                async with asyncio.timeout(SECONDS_PER_PICTURE):
                    answers.append(await self._answer(height, width))

        try:
            # It answers while it is still being asked: both ways at once, or both ends might wait for each other.
            await gather(ask(), listen())
        except (OSError, asyncio.IncompleteReadError, TimeoutError, DecoderDied) as error:
            raise DecoderDied(min(len(answers), len(files) - 1)) from error
        return answers

    async def kill(self) -> None:
        """End the process."""
        self._writer.close()
        await self._process.kill()

    async def _answer(self, height: int, width: int) -> _Answer | str:
        if await self._reader.readexactly(1) == BAD:
            (size,) = SIZE.unpack(await self._reader.readexactly(SIZE.size))
            if size > 1000:
                raise DecoderDied(0)  # it answered out of turn
            return (await self._reader.readexactly(size)).decode(errors="replace")
        across, down = SIDES.unpack(await self._reader.readexactly(SIDES.size))
        if not 1 <= across * down <= MAX_PIXELS:
            raise DecoderDied(0)  # no such picture is decoded
        pixels = await self._reader.readexactly(height * width * 3)
        return _Answer(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), (across, down))


def _bad(digest: str, why: str) -> BadDataset:
    return BadDataset(f"picture {digest} cannot be decoded: {why}", problem="broken_picture", digest=digest)
