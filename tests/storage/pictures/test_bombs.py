"""Files that are made to take time: refused or decoded within limits, and no other project waits for them."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe.errors import BadDataset
from loupe.storage.v1 import blob_service_pb2, dataset_pb2
from services.storage.pictures.decoders import MOST_SECONDS, DecoderProcess, Decoders
from services.storage.pictures.inspection import inspect
from services.storage.settings import StorageSettings
from tests.storage.apart import storage_apart
from tests.storage.house import LINE, OTHER, Client, open_channel, open_house
from tests.storage.photographs import jpeg, sha256
from tests.storage.pictures.test_decoders import ActingProcess

SPLITS = (dataset_pb2.SPLIT_TRAIN, dataset_pb2.SPLIT_VALIDATION)


def many_scans(side: int, scans: int) -> bytes:
    """A small progressive JPEG whose last scan stands there so many times more: each costs a pass over all pixels."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    return data[:-2] + data[tables:-2] * scans + b"\xff\xd9"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG_HEAD = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
TAGS = b"".join(struct.pack("<HHII", 60000 + number % 5000, 1, 1, 0) for number in range(65535))
HEADERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"%%a\n" * (1 << 20),
    "XPM": b'/* XPM */\n"1 1 1 1",\n' + b"\n" * (4 << 20),
    "FITS": b"SIMPLE  =                    T" + b" " * 50 + (b"AAAAAAAA= 1" + b" " * 69) * (1 << 16),
    "PNG of text": PNG_HEAD + chunk(b"tEXt", b"a\0b") * (1 << 18),
    "PNG of empty data": PNG_HEAD + chunk(b"IDAT", b"") * (1 << 18),
    "JPEG of markers": b"\xff\xd8" + b"\xff\xe5\0\2" * (1 << 20),
    "JPEG of fill bytes": b"\xff\xd8" + b"\xff" * (4 << 20),
    "JPEG of nothing": b"\xff\xd8\xff\xe0\0\2" + b"\0" * (4 << 20),
    "JPEG of scans": many_scans(8000, 400),
    "TIFF of tags": struct.pack("<2sHIH", b"II", 42, 8, 65535) + TAGS + struct.pack("<I", 8),
    "TIFF of one huge tag": struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 700, 7, 1 << 30, 8) + b"\0" * 100,
    "EXIF of tags": b"\xff\xd8\xff\xe1\xff\xff" + b"Exif\0\0II*\0\x08\0\0\0\xff\x14" + TAGS[: 65535 - 18],
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_is_made_to_take_time_takes_none(kind: str) -> None:
    """Each is called broken within a moment; on Pillow's own they took up to seconds, in the service."""
    started = time.process_time()
    assert inspect("x", HEADERS[kind]).problem
    assert time.process_time() - started < 0.15


@pytest.mark.attack
async def test_headers_take_none_of_the_services_time(storage_settings: StorageSettings) -> None:
    """While somebody sends 24 MiB of them, calls of others are answered as fast as before, give or take the machine."""
    junk = [HEADERS["JPEG of markers"] + bytes([number]) for number in range(6)]

    async def latency(anna: Client) -> float:
        taken = []
        end = time.monotonic() + 2
        while time.monotonic() < end:
            started = time.perf_counter()
            await anna.missing(["0" * 64])
            taken.append(time.perf_counter() - started)
            await asyncio.sleep(0.01)
        return sorted(taken)[len(taken) // 2]

    async def messages(done: asyncio.Event) -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(header={"parent": LINE})
        for data in junk:
            yield blob_service_pb2.UploadPicturesRequest(batch={"pictures": [{"digest": sha256(data), "data": data}]})
        await done.wait()

    async with storage_apart(storage_settings) as (anna, _), open_channel(storage_settings, "anna") as channel:
        await anna.make_project(LINE)
        quiet, done = await latency(anna), asyncio.Event()
        answers = aiter(Client(channel).blobs.UploadPictures(messages(done)))
        sending: Any = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0.5)  # they are on their way
        loud = await latency(anna)
        done.set()
        await sending
    assert loud < 3 * quiet + 0.2


def items(pictures: Sequence[bytes]) -> list[dataset_pb2.DatasetItem]:
    return [
        dataset_pb2.DatasetItem(
            digest=sha256(each), label="ab"[number % 2], split=("SPLIT_TRAIN", "SPLIT_VALIDATION")[number // 2 % 2]
        )
        for number, each in enumerate(pictures)
    ]


class EndlessDecoders(Decoders):
    """Decoders for whom some files never end."""

    def _process(self, nice: int) -> DecoderProcess:
        return ActingProcess(nice)


@pytest.mark.attack
async def test_one_projects_bombs_delay_no_other_project(storage_settings: StorageSettings) -> None:
    """However many pictures of one project take all the time that there is, another one's version is made at once."""
    decoders = EndlessDecoders(1, quick_seconds=0.3, most_seconds=3)
    async with open_house(storage_settings, decoders=decoders) as house:
        anna, eve = house.client("anna"), house.client("eve")

        async def version(name: str, seeds: range) -> float:
            pictures = [jpeg(seed) for seed in seeds]
            await eve.upload(pictures, OTHER)
            dataset = await eve.make_dataset(name, OTHER)
            started = time.monotonic()
            await eve.make_version(dataset, items(pictures))
            return time.monotonic() - started

        await version("warm", range(100, 112))
        alone = await version("first", range(12))
        bombs = [PNG_HEAD + b"never ends" + bytes([number]) for number in range(40)]
        await anna.upload(bombs)
        beside = [await version(f"second-{number}", range(20 + 12 * number, 32 + 12 * number)) for number in range(3)]
        assert max(beside) < alone + 12  # one bomb's turn and its decoder's start on a busy machine; 40 take a minute
        assert sum(beside) < 3 * alone + 6


@pytest.mark.attack
async def test_a_picture_that_takes_too_long_is_left_out_with_a_reason(storage_settings: StorageSettings) -> None:
    """A version is made without it, and says why."""
    decoders = EndlessDecoders(1, quick_seconds=0.3, most_seconds=1)
    async with open_house(storage_settings, decoders=decoders) as house:
        anna = house.client("anna")
        pictures = [PNG_HEAD + b"never ends", *(jpeg(seed) for seed in range(12))]
        await anna.upload(pictures)
        made = await anna.make_version(await anna.make_dataset("some"), items(pictures))
        (verdict,) = made.verdicts
        assert verdict.problem == blob_service_pb2.PictureProblem.PICTURE_PROBLEM_BROKEN
        assert "takes more than 1 s" in verdict.message
        with pytest.raises(BadDataset, match="takes more than 1 s"):
            await anna.make_version(await anna.make_dataset("all"), items(pictures), strict=True)


@pytest.mark.attack
def test_an_honest_picture_of_64_megapixels_is_decoded_in_time() -> None:
    """Progressive JPEG, PNG of 16 bits, packed floats in TIFF: each takes a fraction of the 30 s that it may."""
    random = np.random.default_rng(1)
    grey = Image.fromarray(random.integers(0, 255, (100, 100), dtype=np.uint8)).resize((8000, 8000), 0)
    levels = np.asarray(grey)
    for image, kind, options in (
        (grey.convert("RGB"), "JPEG", {"progressive": True}),
        (Image.fromarray(levels.astype(np.uint16) * 16), "PNG", {"compress_level": 1}),
        (Image.fromarray(levels.astype(np.float32) / 255), "TIFF", {"compression": "tiff_adobe_deflate"}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        started = time.process_time()
        assert inspect("x", buffer.getvalue()).problem == ""
        assert time.process_time() - started < MOST_SECONDS / 3
