"""Pictures from a camera, a network stream or a video file, by OpenCV; `pip install 'loupe[camera]'` brings it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import queue
import re
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from loupe.errors import FailedPrecondition, LoupeError, Unavailable, invalid
from loupe.terminal.picture_paths import chunks

TIMEOUT_SECONDS = 10.0
"""How long a network camera may take to answer."""
WARM_UP_SECONDS = 0.5
"""How long a camera's first pictures are dropped: its exposure is not set yet."""
BAD_PICTURES = 10
"""So many broken pictures in a row, and a camera counts as gone."""
FRAMES_PER_SECOND = 25.0
"""Of a video file that does not say it."""
DEVICES = Path("/dev")

Request = Future["Taken | None"]


@dataclass(frozen=True)
class Taken:
    """A picture of a camera. pixels: uint8 [height, width, 3], RGB. name: of a file, by when it was taken."""

    pixels: np.ndarray
    name: str

    def write(self, folder: Path) -> Path:
        """Write it as PNG, which loses nothing, and return where. Raises OSError."""
        path = folder / self.name
        Image.fromarray(self.pixels).save(path, "PNG", compress_level=1)
        return path


class Camera:
    """Takes pictures: of "0" or "/dev/video0", of an RTSP or HTTP address, or of a video file.

    A camera's pictures are emptied out all the time, so that each one taken is new. A video file gives its pictures
    `step_seconds` of its own time apart. It is opened over the first picture. Raises FailedPrecondition without OpenCV.
    """

    def __init__(self, device: str, step_seconds: float = 1.0) -> None:
        if not 0 <= step_seconds < math.inf:  # also catches NaN
            raise invalid("interval", step_seconds, "seconds, 0 or more")
        self.shown = re.sub(r"//[^/@]*@", "//…@", device)
        self._source = f"{DEVICES}/video{int(device)}" if device.isascii() and device.isdigit() else device
        self.is_file = Path(self._source).is_file()
        self._step = step_seconds
        self._opencv = _opencv()
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._closed = threading.Event()
        # OpenCV is called from this thread alone, which keeps nobody from ending the program while a camera is silent.
        self._thread = threading.Thread(target=self._work, name="camera", daemon=True)

    async def take(self) -> Taken | None:
        """Return a picture that was taken after this was called; None after the last one of a video.

        Raises Unavailable for a camera that is not there, is in use or goes, InvalidArgument for a file without video.
        """
        if self._thread.ident is None:
            self._thread.start()
        request: Request = Future()
        self._requests.put(request)
        return await asyncio.wrap_future(request)

    def close(self) -> None:
        """Let go of the camera as soon as its next picture is there."""
        self._closed.set()
        self._requests.put(None)

    def _work(self) -> None:
        try:
            capture = self._opened()
            try:
                if self.is_file or capture.get(self._opencv.CAP_PROP_FRAME_COUNT) > 0:
                    self._play(capture)
                else:
                    self._follow(capture)
            finally:
                capture.release()
        except Exception as error:  # whoever waits for a picture is told
            while request := self._requests.get():
                if request.set_running_or_notify_cancel():
                    request.set_exception(error)

    def _opened(self) -> Any:
        """Open the source and go to its first picture."""
        opencv = self._opencv
        if self.is_file:
            capture = opencv.VideoCapture(self._source)
        elif "://" in self._source:
            limits = (opencv.CAP_PROP_OPEN_TIMEOUT_MSEC, opencv.CAP_PROP_READ_TIMEOUT_MSEC)
            options = [value for limit in limits for value in (limit, int(TIMEOUT_SECONDS * 1000))]
            capture = opencv.VideoCapture(self._source, opencv.CAP_FFMPEG, options)
        elif Path(self._source).exists():
            capture = opencv.VideoCapture(self._source, opencv.CAP_V4L2)
        else:
            raise self._missing()
        capture.set(opencv.CAP_PROP_BUFFERSIZE, 1)
        # A camera in use can be opened; it gives no picture.
        if capture.isOpened() and capture.grab():
            return capture
        capture.release()
        raise self._silent()

    def _missing(self) -> LoupeError:
        there = ", ".join(sorted(map(str, DEVICES.glob("video[0-9]*")))) or "none"
        return Unavailable(
            f"there is no camera {self.shown}; expected a number, a device (there are: {there}), an address such as "
            "rtsp://camera/stream, or a video file",
            dependency="camera",
        )

    def _silent(self) -> LoupeError:
        if self.is_file:
            return invalid("camera", self.shown, "a video file that OpenCV reads")
        if "://" in self._source:
            why = "check the address, its account, and the network"
        elif not os.access(self._source, os.R_OK | os.W_OK):
            why = "this account may not use it; on most systems the group video may"
        else:
            why = "another program may be using it, or it is no camera"
        return Unavailable(f"the camera {self.shown} gives no picture: {why}", dependency="camera")

    def _play(self, capture: Any) -> None:
        """Answer each request with the next picture of a video, beginning with the one that was grabbed."""
        rate = capture.get(self._opencv.CAP_PROP_FPS)
        rate = rate if 0 < rate < math.inf else FRAMES_PER_SECOND
        frame, taken, there = 0, 0, True
        while request := self._requests.get():
            wanted = max(taken, round(taken * self._step * rate))
            while there and frame < wanted:
                there = capture.grab()
                frame += 1
            next_one = None
            if there:
                there, pixels = capture.retrieve()
                if there:
                    next_one = Taken(_rgb(pixels), f"{Path(self._source).stem}.{frame / rate:010.3f}s.png")
            taken += 1
            _answer(request, next_one)

    def _follow(self, capture: Any) -> None:
        """Empty a camera out all the time, and answer each request with a picture that was not there yet before it."""
        request: Request | None = None
        bad, warm_at = 0, time.monotonic() + WARM_UP_SECONDS
        while not self._closed.is_set():
            if request is None and time.monotonic() >= warm_at:
                request = self._pending()
            whole: bool = capture.grab()
            if whole and request is not None:
                whole, pixels = capture.retrieve()
                if whole:
                    _answer(request, Taken(_rgb(pixels), f"{_now()}.png"))
                    request = None
            bad = 0 if whole else bad + 1
            if bad == BAD_PICTURES:
                if request is not None:
                    self._requests.put(request)
                raise Unavailable(
                    f"the camera {self.shown} gives no pictures any more; look after its cable, power and network",
                    dependency="camera",
                )

    def _pending(self) -> Request | None:
        try:
            return self._requests.get_nowait()
        except queue.Empty:
            return None


def _answer(request: Request, taken: Taken | None) -> None:
    if request.set_running_or_notify_cancel():
        request.set_result(taken)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Return a picture of OpenCV, blue first or grey, as uint8 [height, width, 3], RGB."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1])


def _now() -> str:
    """Return the time here as a file name that sorts: 20250612T101500.123+0200."""
    now = datetime.now().astimezone()
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}{now:%z}"


def _opencv() -> Any:
    # Its own lines say less than our errors, and stand between them.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise FailedPrecondition(
            f"a camera needs OpenCV, which this Python cannot load ({error}); `pip install 'loupe[camera]'` brings it",
            resource="opencv",
        ) from error


async def every(
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[None]:
    """Yield at once and then every so many seconds, for ever; what was missed is not made up for."""
    due = clock()
    while True:
        yield
        due = max(due + seconds, clock())
        await sleep(due - clock())


async def lines(source: BinaryIO) -> AsyncGenerator[None]:
    """Yield for each line that comes, which is what Enter makes, until there are no more."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[int | OSError | None]()

    def tell(value: int | OSError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, value)

    def read() -> None:
        try:
            for chunk in chunks(source):
                tell(chunk.count(b"\n"))
            tell(None)
        except OSError as error:
            tell(error)

    # A thread of its own, which does not keep the program from ending while it waits for a line.
    threading.Thread(target=read, daemon=True).start()
    while (count := await arrived.get()) is not None:
        if isinstance(count, OSError):
            raise count
        for _ in range(count):
            yield
