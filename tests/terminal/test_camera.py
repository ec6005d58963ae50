"""loupe classify --camera: each picture is new, is read as any other, and what goes wrong with a camera is said."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe import errors
from loupe.terminal import camera as cameras
from loupe.terminal.camera import Camera, every, lines
from tests.terminal.test_classify import lines as fields
from tests.terminal.test_classify import running

OPENCV = '''
"""As much of OpenCV as a camera needs: a file named *.avi has a frame per byte, its brightness; a device counts up."""
import os, time
import numpy as np

CAP_FFMPEG, CAP_V4L2 = 1900, 200
CAP_PROP_FPS, CAP_PROP_FRAME_COUNT, CAP_PROP_BUFFERSIZE = 5, 7, 38
CAP_PROP_OPEN_TIMEOUT_MSEC, CAP_PROP_READ_TIMEOUT_MSEC = 53, 54
grabbed = released = 0
broken = set()

class VideoCapture:
    def __init__(self, source, backend=0, options=()):
        self.source, self.at = source, -1
        self.frames = None if backend else (open(source, "rb").read() if source.endswith(".avi") else b"")
        self.busy = source.endswith("1") or "://" in source
    def isOpened(self):
        return self.frames != b""
    def get(self, what):
        return {CAP_PROP_FPS: 10.0, CAP_PROP_FRAME_COUNT: len(self.frames or b"") or -1.0}[what]
    def set(self, what, value):
        return False
    def grab(self):
        global grabbed
        self.at += 1
        if self.frames is not None:
            return self.at < len(self.frames)
        time.sleep(0.002)
        grabbed += 1
        return not self.busy and grabbed not in broken
    def retrieve(self):
        level = grabbed % 251 if self.frames is None else self.frames[self.at]
        return True, np.full((9, 12, 3), level, np.uint8)
    def release(self):
        global released
        released += 1
'''
MIDDLE = 119
"""The brightness of which the model is not sure."""


@pytest.fixture
def opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    place = tmp_path / "opencv"
    place.mkdir()
    (place / "cv2.py").write_text(OPENCV)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(cameras, "WARM_UP_SECONDS", 0.0)
    import cv2  # type: ignore[import-not-found, unused-ignore]

    yield cv2
    sys.modules.pop("cv2")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cameras, 0 and 1; something uses the second one."""
    place = tmp_path / "dev"
    place.mkdir()
    for number in (0, 1):
        os.mkfifo(place / f"video{number}")
    monkeypatch.setattr(cameras, "DEVICES", place)
    return place


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three seconds of ten frames: dark, bright, and one of which the model is not sure."""
    path = tmp_path / "belt.avi"
    path.write_bytes(bytes([20] * 10 + [230] * 10 + [MIDDLE] * 10))
    return path


@contextlib.asynccontextmanager
async def camera(device: object, **options: Any) -> AsyncGenerator[Camera]:
    with contextlib.closing(Camera(str(device), **options)) as opened:
        async with asyncio.timeout(20):
            yield opened


def test_a_video_is_answered_to_its_end_and_what_no_class_was_sure_of_is_kept(
    command_line: Callable[..., Any], make_model: Callable[..., Path], opencv: Any, video: Path, tmp_path: Path
) -> None:
    model, unknown, table = make_model(), tmp_path / "unknown", tmp_path / "answers.csv"
    words = ("classify", model, "--camera", video, "--min-confidence", "0.8", "--save-unknown", unknown)
    result = command_line(*words, "--csv", table, "--explain", tmp_path / "why")
    assert result.exit_code == 0, result.output
    kept = unknown / "belt.000002.000s.png"
    assert [line[:2] for line in fields(result)] == [
        ["belt.000000.000s.png", "dark"], ["belt.000001.000s.png", "bright 零件"], [str(kept), "unknown"],
    ]  # fmt: skip
    assert f"1 unknown picture is in {unknown}" in " ".join(result.stderr.split())
    assert [row["path"] for row in csv.DictReader(table.open(encoding="utf-8"))][2] == str(kept)
    assert len(list((tmp_path / "why").glob("*.explained.png"))) == 3
    assert np.asarray(Image.open(kept)).tolist() == np.full((9, 12, 3), MIDDLE).tolist()
    machine = [json.loads(line) for line in command_line(*words, "--json", "--interval", "0.5").stdout.splitlines()]
    assert [one["path"] for one in machine[:2]] == ["belt.000000.000s.png", "belt.000000.500s.png"]
    assert [one["saved"] for one in machine[3:]] == [None, str(kept), str(unknown / "belt.000002.500s.png")]
    (again,) = command_line("classify", model, kept, "--json").stdout.splitlines()
    assert json.loads(again)["probabilities"] == machine[4]["probabilities"]


async def test_a_picture_was_not_there_before_it_was_asked_for(opencv: Any, devices: Path) -> None:
    async with camera(0) as opened:
        for _ in range(3):
            before = opencv.grabbed
            taken = await opened.take()
            assert taken is not None and taken.pixels.shape == (9, 12, 3)
            assert before < taken.pixels[0, 0, 0] <= before + 3
            while opencv.grabbed < before + 20:  # nobody asks, and it is emptied out all the same
                await asyncio.sleep(0.01)
    while not opencv.released:
        await asyncio.sleep(0.01)


async def test_colours_come_out_red_first(opencv: Any, devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[..., 2] = 200
    monkeypatch.setattr(opencv.VideoCapture, "retrieve", lambda self: (True, frame))
    async with camera(0) as opened:
        taken = await opened.take()
        assert taken is not None and taken.pixels[0, 0].tolist() == [200, 0, 0]
    assert cameras._rgb(np.full((2, 3), 7, np.uint8)).tolist() == np.full((2, 3, 3), 7).tolist()


async def test_a_few_broken_pictures_are_passed_over_and_many_are_the_cameras_end(opencv: Any, devices: Path) -> None:
    opencv.broken = {3, 4, 5}
    async with camera(0) as opened:
        while opencv.grabbed < 6:
            assert await opened.take() is not None
        opencv.broken = set(range(100_000))
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match="camera 0 gives no pictures any more"):
                await opened.take()
    assert opencv.released == 1


@pytest.mark.parametrize(
    ("device", "code", "message"),
    [
        ("7", 7, "there is no camera 7; expected a number, a device (there are: {devices}/video0, {devices}/video1)"),
        ("1", 7, "the camera 1 gives no picture: another program may be using it"),
        ("rtsp://me:secret@camera/1", 7, "the camera rtsp://…@camera/1 gives no picture: check the address"),
        ("{devices}/../notes.txt", 6, "expected a video file that OpenCV reads"),
    ],
)
def test_a_camera_that_gives_nothing_says_why(
    command_line: Callable[..., Any],
    make_model: Callable[..., Path],
    opencv: Any,
    devices: Path,
    *,
    device: str,
    code: int,
    message: str,
) -> None:
    (devices.parent / "notes.txt").write_text("no video")
    result = command_line("classify", make_model(), "--camera", device.format(devices=devices), COLUMNS="400")
    assert result.exit_code == code and result.stdout == ""
    assert message.format(devices=devices) in " ".join(result.stderr.split())


def test_without_opencv_it_says_how_to_get_it(
    command_line: Callable[..., Any], make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = command_line("classify", make_model(), "--camera", "0")
    assert result.exit_code == 8 and "`pip install 'loupe[camera]'` brings it" in " ".join(result.stderr.split())


def test_enter_takes_a_picture_and_the_end_of_stdin_ends_it(
    command_line: Callable[..., Any], make_model: Callable[..., Path], opencv: Any, devices: Path
) -> None:
    result = command_line("classify", make_model(), "--camera", "0", "--trigger", "enter", input=b"\nx\n")
    assert result.exit_code == 0, result.output
    names = [line[0] for line in fields(result)]
    assert len(names) == 2 and names == sorted(names) and all(len(one) == len(names[0]) for one in names)


def test_ctrl_c_ends_it_with_130(make_model: Callable[..., Path], opencv: Any, devices: Path, tmp_path: Path) -> None:
    words = ("classify", make_model(), "--camera", devices / "video0", "--interval", "0.01")
    with running(*words, PYTHONPATH=os.pathsep.join([str(tmp_path / "opencv"), *sys.path])) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline().split("\t")[1] in ("dark", "bright 零件")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert "pictures were classified" in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--camera", "0", "part.png"), "a camera alone"),
        (("--camera", "0", "--watch", "."), "a camera alone"),
        (("part.png", "--interval", "2"), "need --camera DEVICE"),
        (("part.png", "--trigger", "enter"), "need --camera DEVICE"),
        (("--camera", "0", "--interval", "inf"), "interval is inf"),
        (("--camera", "0", "--save-unknown", "u"), "--max-error RATE with it"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    command_line: Callable[..., Any], make_model: Callable[..., Path], opencv: Any, words: tuple[str, ...], message: str
) -> None:
    result = command_line("classify", make_model(), *words)
    assert result.exit_code == 6 and message in " ".join(result.stderr.split())


async def test_moments_come_at_once_and_then_evenly_and_none_is_made_up_for() -> None:
    now, seen = [100.0], list[float]()

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async for _ in every(2.0, lambda: now[0], sleep):
        seen.append(now[0])
        now[0] += 0.5 if len(seen) != 3 else 5.0  # how long an answer takes
        if len(seen) == 6:
            break
    assert [round(later - earlier, 6) for earlier, later in pairwise(seen)] == [2, 2, 5, 2, 2]


async def test_each_line_is_a_moment() -> None:
    assert len([1 async for _ in lines(io.BytesIO(b"\n\n\nno line"))]) == 3


def test_what_is_kept_of_files_loses_nothing_and_nothing_is_kept_twice(
    command_line: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, unknown, belts = make_model(), tmp_path / "unknown", tmp_path / "belts"
    for belt, level in (("a", 118), ("b", 119), ("c", 20)):
        (belts / belt).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level, level, level)).save(belts / belt / "part.png")
    words = ("classify", model, belts, "--min-confidence", "0.8", "--save-unknown")
    for _ in range(2):
        result = command_line(*words, unknown)
        assert result.exit_code == 0, result.output
        assert [line[0] for line in fields(result)] == [str(belts / belt / "part.png") for belt in "abc"]
    kept = sorted(one.read_bytes() for one in unknown.iterdir())
    assert kept == sorted((belts / belt / "part.png").read_bytes() for belt in "ab")
    inside = command_line(*words, belts / "unknown")
    assert inside.exit_code == 6 and "save-unknown is" in inside.stderr and not (belts / "unknown").exists()
