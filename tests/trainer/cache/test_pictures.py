"""Pictures as arrays: decoded once, shared, bounded."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.errors import BadDataset, ResourceExhausted
from loupe.letterbox import FILL
from services.trainer.attempts.events import Finished
from services.trainer.cache.decoders import BATCH, Decoders
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from tests.trainer.fakes import CountingSource, make_rig, picture


def cache(tmp_path: Path, decoders: Decoders, max_bytes: int = 1 << 24) -> PictureCache:
    return PictureCache(tmp_path / "arrays", PackCache(tmp_path / "packs", 1 << 24), decoders, max_bytes)


async def test_two_jobs_at_once_fetch_and_decode_once(tmp_path, decoders) -> None:
    """The second caller waits for the first; both get the same file, in the order of the version, read-only."""
    source = CountingSource([picture(colour) for colour in range(2 * BATCH + 20)])
    digests = [*source.digests, source.digests[0]]
    pictures = cache(tmp_path, decoders)
    decoded = 0
    original = decoders.decode

    async def counting(batch, *sides, **how):
        nonlocal decoded
        decoded += len(batch)
        return await original(batch, *sides, **how)

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


async def test_the_longest_unused_array_goes_but_none_that_a_job_holds(tmp_path, decoders) -> None:
    source = CountingSource([picture(colour) for colour in range(4)])
    pictures = cache(tmp_path, decoders, max_bytes=2 * 4096)
    for number, height in enumerate((8, 7)):
        await pictures.link(source.digests, height, 8, source, tmp_path / f"{number}.npy")
        os.utime(tmp_path / f"{number}.npy", (number, number))
    await pictures.link(source.digests, 8, 8, source, tmp_path / "again.npy")
    (tmp_path / "1.npy").unlink()
    await pictures.link(source.digests, 6, 8, source, tmp_path / "2.npy")
    kept = {path.stat().st_ino for path in (tmp_path / "arrays").glob("*.npy")}
    assert kept == {(tmp_path / name).stat().st_ino for name in ("0.npy", "2.npy")}
    with pytest.raises(ResourceExhausted, match="less what jobs are using"):
        await pictures.link(source.digests, 5, 8, source, tmp_path / "3.npy")
    assert {path.stat().st_ino for path in (tmp_path / "arrays").glob("*.npy")} == kept


async def test_what_is_being_made_counts_as_if_it_were_there(tmp_path, decoders) -> None:
    """Arrays that are made at the same time do not go over the bound together."""
    source = CountingSource([picture(colour) for colour in range(4)])
    pictures = cache(tmp_path, decoders, max_bytes=2 * 4096)
    sides = range(4, 10)
    made = await asyncio.gather(
        *(pictures.link(source.digests, side, 8, source, tmp_path / f"{side}.npy") for side in sides),
        return_exceptions=True,
    )
    assert [type(each) for each in made].count(ResourceExhausted) == len(sides) - 2, made
    assert len(list((tmp_path / "arrays").glob("*.npy"))) == 2
    assert not pictures._making and pictures._reserved == 0


async def test_letterboxed_pictures_are_another_array(tmp_path, decoders) -> None:
    """Each keeps its shape, at the top left, and the rest is grey; a stretched one of the same size is not taken."""
    source = CountingSource([picture(200, 16, 8), picture(100, 4, 16)])
    pictures = cache(tmp_path, decoders)
    await pictures.link(source.digests, 8, 8, source, tmp_path / "stretched.npy")
    await pictures.link(source.digests, 8, 8, source, tmp_path / "fitted.npy", fit="letterbox")
    stretched, fitted = (np.load(tmp_path / f"{name}.npy")[..., 0] for name in ("stretched", "fitted"))
    assert (stretched[0] == 200).all() and (stretched[1] == 100).all()
    assert (fitted[0, :4] == 200).all() and (fitted[0, 4:] == FILL).all()
    assert (fitted[1, :, :2] == 100).all() and (fitted[1, :, 2:] == FILL).all()
    assert (await pictures.sizes(source.digests, source)).tolist() == [[16, 8], [4, 16]]


async def test_a_decoder_that_lies_about_a_size_is_not_believed(tmp_path, decoders, monkeypatch) -> None:
    monkeypatch.setattr("services.trainer.cache.decoders.MAX_PIXELS", 15 * 8)
    source = CountingSource([picture(200, 16, 8)])
    with pytest.raises(BadDataset, match="died over it"):
        await cache(tmp_path, decoders).sizes(source.digests, source)


SIZES = """
from loupe.algorithm.host import Outcome, Result
from loupe.algorithm.pipe import HostRefused
def train(host):
    said = []
    for number in range(60):
        try:
            host.pictures({height}, {width})
        except HostRefused as error:
            said.append(str(error))
    host.finish(Result(Outcome.PLATEAU, {{}}, {{"refused": len(said), "said": said[0]}}))
"""


def on_disk(folder: Path) -> int:
    """Return what all arrays below a folder take, each once however many names it has."""
    sizes: dict[int, int] = {}
    for root, _, names in os.walk(folder):  # it passes over what goes meanwhile
        for name in names:
            if name.endswith(".npy"):
                with suppress(FileNotFoundError):
                    found = (Path(root) / name).stat()
                    sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        ("300 + number", "300", "a job may hold 4194304 on this trainer"),
        ("1", "1 + number", "would be the 33th size; a job may ask for 32"),
    ],
    ids=["large", "many"],
)
async def test_a_job_cannot_take_more_than_its_share_of_the_cache(bubblewrap, tmp_path, height, width, words) -> None:
    """Sixty sizes of the same pictures: what is too much is refused before it is decoded, and the job told why."""
    async with make_rig(bubblewrap, tmp_path) as rig:
        rig.pictures._max_bytes = 4 << 20
        biggest = 0
        spec = rig.spec(SIZES.format(height=height, width=width))
        rig.attempts.start(spec, 60)
        attempt = rig.attempts._attempts[spec.key]
        while attempt.live:
            biggest = max(biggest, on_disk(tmp_path))
            await asyncio.sleep(0.02)
        last = (await rig.events(spec.key))[-1].what
    assert isinstance(last, Finished), last
    report: dict[str, Any] = dict(last.report)
    assert words in report["said"] and report["refused"] >= 28
    # classes, splits and digests of the job are arrays, too.
    assert biggest <= (4 << 20) + 6 * 4096


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
