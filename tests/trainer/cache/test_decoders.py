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

    async def deadly(batch, height, width):
        if victim in [digest for digest, _ in batch]:
            async with decoders._decoder() as decoder:
                decoder._process.process.kill()
                await decoder.decode([source.files[victim]], height, width)
        return await original(batch, height, width)

    decoders._decode = deadly
    with pytest.raises(BadDataset) as caught:
        await decoders.decode(list(source.files.items()), 4, 4)
    assert caught.value.metadata["digest"] == victim
    decoders._decode = original
    assert (await decoders.decode(list(source.files.items()), 4, 4)).shape == (6, 4, 4, 3)


async def test_a_pixel_flood_is_refused_before_it_is_decoded(decoders) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    with pytest.raises(BadDataset, match="pixels"):
        await decoders.decode([("a" * 64, buffer.getvalue())], 4, 4)


async def test_decoders_run_in_the_sandbox(bubblewrap, tmp_path) -> None:
    """Pillow meets the bytes of strangers as another user, without network; the pixels are the same."""
    decoders = Decoders(bubblewrap, tmp_path / "decoders", 0, 1)
    pixels = await decoders.decode([("a" * 64, picture(77))], 4, 4)
    (decoder,) = decoders._live.values()
    inner = decoder._process.tree()[-1]
    assert inner.uids().real != 0
    assert os.readlink(f"/proc/{inner.pid}/ns/net") != os.readlink("/proc/self/ns/net")  # noqa: PTH115
    await decoders.close()
    await eventually(lambda: not inner.is_running())
    assert (pixels == 77).all()
