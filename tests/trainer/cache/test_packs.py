"""Picture files: fetched once, bounded, and never trusted."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.errors import DataLoss
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from tests.trainer.fakes import CountingSource, picture


async def test_bytes_that_are_not_what_was_asked_for_are_refused(tmp_path) -> None:
    """Wrong bytes, a foreign digest, or too few: nothing of it stays."""
    source = CountingSource([picture(1), picture(2)])
    packs = PackCache(tmp_path, 1 << 20)
    honest = dict(source.files)
    source.files[source.digests[1]] = b"something else"
    with pytest.raises(DataLoss, match=source.digests[1]):
        await packs.ensure(source.digests, source)
    source.files = honest

    class Silent(CountingSource):
        async def fetch(self, digests):
            yield digests[0], self.files[digests[0]]

    silent = Silent(list(honest.values()))
    with pytest.raises(DataLoss, match="left out 1"):
        await packs.ensure(silent.digests, silent)
    assert list(tmp_path.iterdir()) == []
    assert await packs.ensure(source.digests, source) == 2


async def test_a_damaged_pack_is_noticed_and_fetched_again(tmp_path, decoders) -> None:
    """A flipped bit on this trainer's disk never becomes a pixel."""
    source = CountingSource([picture(colour) for colour in range(3)])
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
    sources = [CountingSource([picture(10 * number + step) for step in range(2)]) for number in range(3)]
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
