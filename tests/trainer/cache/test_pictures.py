"""Pictures as arrays: decoded once, shared, bounded."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import BadDataset, ResourceExhausted
from services.trainer.cache.decoders import BATCH, Decoders
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from tests.trainer.fakes import CountingSource, picture


def cache(tmp_path: Path, decoders: Decoders, max_bytes: int = 1 << 24) -> PictureCache:
    return PictureCache(tmp_path / "arrays", PackCache(tmp_path / "packs", 1 << 24), decoders, max_bytes)


async def test_two_jobs_at_once_fetch_and_decode_once(tmp_path, decoders) -> None:
    """The second caller waits for the first; both get the same file, in the order of the version, read-only."""
    source = CountingSource([picture(colour) for colour in range(2 * BATCH + 20)])
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
    source = CountingSource([picture(colour) for colour in range(5)])
    await cache(tmp_path, decoders).link(source.digests, 4, 4, source, tmp_path / "a.npy")
    await cache(tmp_path, decoders).link(source.digests, 8, 8, source, tmp_path / "b.npy")
    assert source.fetched == 5
    assert np.load(tmp_path / "b.npy").shape == (5, 8, 8, 3)


async def test_the_longest_unused_array_goes_and_its_job_keeps_it(tmp_path, decoders) -> None:
    source = CountingSource([picture(colour) for colour in range(4)])
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
    source = CountingSource([picture(1)])
    with pytest.raises(ResourceExhausted, match="the cache holds 100"):
        await cache(tmp_path, decoders, max_bytes=100).link(source.digests, 64, 64, source, tmp_path / "x.npy")
    assert source.fetched == 0


@pytest.mark.parametrize("bad", [b"no picture", picture(3, size=64)[:-40]])
async def test_a_broken_picture_is_named_and_leaves_nothing(tmp_path, decoders, bad: bytes) -> None:
    """One picture that cannot be decoded fails the call, by its digest; the decoders go on."""
    source = CountingSource([picture(1), bad, picture(2)])
    pictures = cache(tmp_path, decoders)
    with pytest.raises(BaseException) as caught:
        await pictures.link(source.digests, 4, 4, source, tmp_path / "x.npy")
    assert isinstance(caught.value, BadDataset), caught.value
    assert caught.value.metadata == {"problem": "broken_picture", "digest": source.digests[1]}
    assert list((tmp_path / "arrays").iterdir()) == [] and not (tmp_path / "x.npy").exists()
    good = CountingSource([picture(1)])
    await pictures.link(good.digests, 4, 4, good, tmp_path / "y.npy")
