"""Decoders: a file that breaks one breaks nothing else."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image

from loupe.errors import BadDataset
from services.trainer.cache.decoders import Decoders
from tests.trainer.fakes import CountingSource, eventually, picture


async def test_a_picture_that_kills_the_decoder_is_found_out(tmp_path, decoders) -> None:
    """A decoder that dies over a batch takes nothing with it: the batch is tried one by one."""
    source = CountingSource([picture(colour) for colour in range(6)])
    victim = source.digests[3]
    original = decoders._decode

    async def deadly(batch, *how):
        if victim in [digest for digest, _ in batch]:
            async with decoders._decoder() as decoder:
                decoder._process.process.kill()
                await decoder.decode([source.files[victim]], 4, 4)
        return await original(batch, *how)

    decoders._decode = deadly
    with pytest.raises(BadDataset) as caught:
        await decoders.decode(list(source.files.items()), 4, 4)
    assert caught.value.metadata["digest"] == victim
    decoders._decode = original
    assert (await decoders.decode(list(source.files.items()), 4, 4)).pixels.shape == (6, 4, 4, 3)


async def test_a_pixel_flood_is_refused_before_it_is_decoded(decoders) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    with pytest.raises(BadDataset, match="pixels"):
        await decoders.decode([("a" * 64, buffer.getvalue())], 4, 4)


async def test_decoders_run_in_the_sandbox(bubblewrap, tmp_path) -> None:
    """Pillow meets the bytes of strangers as another user, without network; the pixels are the same."""
    decoders = Decoders(bubblewrap, tmp_path / "decoders", 0, 1)
    pixels = (await decoders.decode([("a" * 64, picture(77))], 4, 4)).pixels
    (decoder,) = decoders._live.values()
    inner = decoder._process.tree()[-1]
    assert inner.uids().real != 0
    assert os.readlink(f"/proc/{inner.pid}/ns/net") != os.readlink("/proc/self/ns/net")  # noqa: PTH115
    await decoders.close()
    await eventually(lambda: not inner.is_running())
    assert (pixels == 77).all()


def scan_bomb(side: int, scans: int) -> bytes:
    """Return a small progressive JPEG with many scans, each of which costs a pass over all coefficients."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    segments: list[tuple[int, bytes]] = []
    at = 2
    while data[at + 1] != 0xD9:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        while marker == 0xDA and not (data[end] == 0xFF and data[end + 1] != 0 and not 0xD0 <= data[end + 1] <= 0xD7):
            end += 1
        segments.append((marker, data[at:end]))
        at = end
    last = max(index for index, (marker, _) in enumerate(segments) if marker == 0xDA)
    first = last
    while segments[first - 1][0] == 0xC4:
        first -= 1
    again = b"".join(segment for _, segment in segments[first : last + 1])
    return b"\xff\xd8" + b"".join(segment for _, segment in segments) + again * scans + b"\xff\xd9"


async def test_a_picture_has_a_budget_of_cpu_time(bubblewrap, tmp_path) -> None:
    """A scan bomb is ended in its decoder and named; the pictures around it, and those of others, are decoded."""
    decoders = Decoders(bubblewrap, tmp_path / "decoders", 0, 1, cpu_seconds=1)
    good = [(f"{number:064x}", picture(number)) for number in range(6)]
    bomb = ("b" * 64, scan_bomb(4000, 600))
    assert len(bomb[1]) < 1 << 20
    before = os.times().children_user
    with pytest.raises(BadDataset) as caught:
        await decoders.decode([*good[:3], bomb, *good[3:]], 4, 4)
    pixels = (await decoders.decode(good, 4, 4)).pixels
    await decoders.close()
    assert caught.value.metadata["digest"] == bomb[0]
    assert pixels[:, 0, 0, 0].tolist() == list(range(6))
    # Twice, since a decoder may die of something else; starting three of them is in it.
    assert os.times().children_user - before < 8
