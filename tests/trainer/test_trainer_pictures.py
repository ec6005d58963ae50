"""The caches of pictures: fetched once, decoded once, shared, bounded, and never trusted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import BadDataset, DataLoss, ResourceExhausted
from services.trainer.cache.decoders import BATCH, Decoders
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from tests.trainer.fakes import eventually, picture


class Source:
    """Source gives pictures, and counts."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = {hashlib.sha256(data).hexdigest(): data for data in files}
        self.digests = list(self.files)
        self.fetched = 0

    async def fetch(self, digests) -> AsyncIterator[tuple[str, bytes]]:
        for digest in digests:
            self.fetched += 1
            await asyncio.sleep(0)
            yield digest, self.files[digest]


@pytest.fixture
async def decoders(plain, tmp_path) -> AsyncIterator[Decoders]:
    decoders = Decoders(plain, tmp_path / "decoders", 0, 2)
    yield decoders
    await decoders.close()


def cache(tmp_path: Path, decoders: Decoders, max_bytes: int = 1 << 24) -> PictureCache:
    return PictureCache(tmp_path / "arrays", PackCache(tmp_path / "packs", 1 << 24), decoders, max_bytes)


async def test_two_jobs_at_once_fetch_and_decode_once(tmp_path, decoders) -> None:
    """The second caller waits for the first; both get the same file, in the order of the version, read-only."""
    source = Source([picture(colour) for colour in range(2 * BATCH + 20)])
    digests = [*source.digests, source.digests[0]]
    pictures = cache(tmp_path, decoders)
    decoded = 0
    original = decoders.decode

    async def counting(batch, height, width):
        nonlocal decoded
        decoded += len(batch)
        return await original(batch, height, width)

    decoders.decode = counting
    targets = [tmp_path / f"job-{number}.npy" for number in range(3)]
    await asyncio.gather(*(pictures.link(digests, 4, 6, source, target) for target in targets))
    assert (source.fetched, decoded) == (len(source.digests), len(digests))
    array = np.load(targets[0], mmap_mode="r")
    assert array.shape == (len(digests), 4, 6, 3) and array.dtype == np.uint8
    assert array[:, 3, 5, 2].tolist() == [*range(len(source.digests)), 0]
    assert len({target.stat().st_ino for target in targets}) == 1
    assert targets[0].stat().st_mode & 0o222 == 0


async def test_another_size_decodes_again_but_fetches_nothing(tmp_path, decoders) -> None:
    """Picture files stay on the disk, also for the next process."""
    source = Source([picture(colour) for colour in range(5)])
    await cache(tmp_path, decoders).link(source.digests, 4, 4, source, tmp_path / "a.npy")
    await cache(tmp_path, decoders).link(source.digests, 8, 8, source, tmp_path / "b.npy")
    assert source.fetched == 5
    assert np.load(tmp_path / "b.npy").shape == (5, 8, 8, 3)


async def test_the_longest_unused_array_goes_and_its_job_keeps_it(tmp_path, decoders) -> None:
    source = Source([picture(colour) for colour in range(4)])
    size = 4 * 8 * 8 * 3 + 128
    pictures = cache(tmp_path, decoders, max_bytes=2 * size + 100)
    for number, height in enumerate((8, 7)):
        await pictures.link(source.digests, height, 8, source, tmp_path / f"{number}.npy")
        os.utime(tmp_path / f"{number}.npy", (number, number))
    await pictures.link(source.digests, 8, 8, source, tmp_path / "again.npy")
    oldest = (tmp_path / "1.npy").stat().st_ino
    await pictures.link(source.digests, 6, 8, source, tmp_path / "2.npy")
    kept = {path.stat().st_ino for path in (tmp_path / "arrays").glob("*.npy")}
    assert oldest not in kept and (tmp_path / "0.npy").stat().st_ino in kept
    assert np.load(tmp_path / "1.npy", mmap_mode="r").shape == (4, 7, 8, 3)


async def test_what_can_never_fit_is_refused(tmp_path, decoders) -> None:
    source = Source([picture(1)])
    with pytest.raises(ResourceExhausted, match="the cache holds 100"):
        await cache(tmp_path, decoders, max_bytes=100).link(source.digests, 64, 64, source, tmp_path / "x.npy")
    assert source.fetched == 0


@pytest.mark.parametrize("bad", [b"no picture", picture(3, size=64)[:-40]])
async def test_a_broken_picture_is_named_and_leaves_nothing(tmp_path, decoders, bad: bytes) -> None:
    """One picture that cannot be decoded fails the call, by its digest; the decoders go on."""
    source = Source([picture(1), bad, picture(2)])
    pictures = cache(tmp_path, decoders)
    with pytest.raises(BaseException) as caught:
        await pictures.link(source.digests, 4, 4, source, tmp_path / "x.npy")
    assert isinstance(caught.value, BadDataset), caught.value
    assert caught.value.metadata == {"problem": "broken_picture", "digest": source.digests[1]}
    assert list((tmp_path / "arrays").iterdir()) == [] and not (tmp_path / "x.npy").exists()
    good = Source([picture(1)])
    await pictures.link(good.digests, 4, 4, good, tmp_path / "y.npy")


async def test_a_picture_that_kills_the_decoder_is_found_out(tmp_path, decoders) -> None:
    """A decoder that dies over a batch takes nothing with it: the batch is tried one by one."""
    source = Source([picture(colour) for colour in range(6)])
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


async def test_bytes_that_are_not_what_was_asked_for_are_refused(tmp_path) -> None:
    """Wrong bytes, a foreign digest, or too few: nothing of it stays."""
    source = Source([picture(1), picture(2)])
    packs = PackCache(tmp_path, 1 << 20)
    honest = dict(source.files)
    source.files[source.digests[1]] = b"something else"
    with pytest.raises(DataLoss, match=source.digests[1]):
        await packs.ensure(source.digests, source)
    source.files = honest

    class Silent(Source):
        async def fetch(self, digests):
            yield digests[0], self.files[digests[0]]

    silent = Silent(list(honest.values()))
    with pytest.raises(DataLoss, match="left out 1"):
        await packs.ensure(silent.digests, silent)
    assert list(tmp_path.iterdir()) == []
    assert await packs.ensure(source.digests, source) == 2


async def test_a_damaged_pack_is_noticed_and_fetched_again(tmp_path, decoders) -> None:
    """A flipped bit on this trainer's disk never becomes a pixel."""
    source = Source([picture(colour) for colour in range(3)])
    packs = PackCache(tmp_path / "packs", 1 << 24)
    await packs.ensure(source.digests, source)
    (pack,) = (tmp_path / "packs").glob("*.pack")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DataLoss, match="damaged"):
        packs.read(source.digests)
    pictures = PictureCache(tmp_path / "arrays", PackCache(tmp_path / "packs", 1 << 24), decoders, 1 << 24)
    await pictures.link(source.digests, 4, 4, source, tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy")[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert source.fetched == 4


async def test_packs_are_bounded_and_an_unfinished_one_does_not_count(tmp_path) -> None:
    packs = PackCache(tmp_path, 100)
    sources = [Source([picture(10 * number + step) for step in range(2)]) for number in range(3)]
    for source in sources:
        await packs.ensure(source.digests, source)
    assert len(list(tmp_path.glob("*.pack"))) == 1
    assert len(packs.read(sources[2].digests)) == 2
    with pytest.raises(DataLoss, match="no longer in the cache"):
        packs.read(sources[0].digests)
    (tmp_path / "half.pack").write_bytes(b"x")
    again = PackCache(tmp_path, 100)
    assert not (tmp_path / "half.pack").exists()
    assert len(again.read(sources[2].digests)) == 2


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
