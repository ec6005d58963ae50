"""What `loupe classify --camera` does: takes pictures, one after the other, and has each answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.terminal.commands.lazy import errors

if TYPE_CHECKING:
    from loupe.terminal.camera import Camera

MEMORY = Path("/dev/shm")


class Trigger(StrEnum):
    """What a picture is taken at."""

    INTERVAL = "interval"
    ENTER = "enter"


class CameraPictures:
    """The pictures of a camera as they are taken; each is a file for as long as it is answered."""

    def __init__(self, camera: Camera, seconds: float, trigger: Trigger) -> None:
        self._camera = camera
        self._seconds = seconds
        self._trigger = trigger

    async def arrivals(self) -> AsyncGenerator[Sequence[Path]]:
        """Yield one picture after the other until a video, or stdin, ends. Raises what `Camera.take` raises."""
        # Files that are memory: pictures that nobody keeps wear no disk.
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        with contextlib.closing(self._camera), tempfile.TemporaryDirectory(prefix="loupe-", dir=memory) as place:
            async with contextlib.aclosing(self._moments()) as moments:
                async for _ in moments:
                    taken = await self._camera.take()
                    if taken is None:
                        return
                    path = await asyncio.to_thread(taken.write, Path(place))
                    yield [path]
                    path.unlink(missing_ok=True)

    def _moments(self) -> AsyncGenerator[None]:
        from loupe.terminal.camera import every, lines

        if self._trigger is Trigger.ENTER:
            return lines(sys.stdin.buffer)
        return every(0.0 if self._camera.is_file else self._seconds)  # a video has its own time


def opened(device: str | None, interval: float | None, trigger: Trigger, *, others: bool) -> CameraPictures | None:
    """Return the camera that the options name, None where they name none. Raises InvalidArgument.

    others: there are pictures, or a folder to watch, too.
    """
    if device is None:
        if interval is not None or trigger is not Trigger.INTERVAL:
            raise errors.InvalidArgument("--interval and --trigger need --camera DEVICE", field="camera")
        return None
    if others:
        raise errors.invalid("camera", device, "a camera alone, without PICTURE and --watch")
    from loupe.terminal.camera import Camera

    seconds = 1.0 if interval is None else interval
    return CameraPictures(Camera(device, seconds), seconds, trigger)
