"""Algorithm images on the trainer: fetched once, checked, unpacked whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from loupe.algorithm import image
from loupe.errors import BadAlgorithm, DigestMismatch
from services.trainer.cache.images import Images
from tests.trainer.fakes import MemoryStorage


class Source:
    """Gives one packed image, and counts."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self.asked = 0

    async def image(self) -> bytes:
        self.asked += 1
        return self.packed


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    storage = MemoryStorage()
    return storage.images[storage.add_image(tmp_path / "source", "def train(host):\n    pass\n")]


async def test_an_image_is_fetched_and_unpacked_once(tmp_path: Path, packed: bytes) -> None:
    source = Source(packed)
    for _ in range(2):
        folder, manifest = await Images(tmp_path / "images").get(image.digest(packed), source.image)
    assert source.asked == 1 and manifest.name == "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["algorithm.toml", "main.py"]


async def test_another_image_than_asked_for_is_refused(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(DigestMismatch):
        await Images(tmp_path / "images").get("a" * 64, Source(packed).image)
    assert list((tmp_path / "images").iterdir()) == []


async def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAlgorithm):
        await Images(tmp_path / "images").get(image.digest(b"no tar"), Source(b"no tar").image)
    assert list((tmp_path / "images").iterdir()) == []


async def test_only_so_many_images_are_kept(tmp_path: Path) -> None:
    storage = MemoryStorage()
    images = Images(tmp_path / "images", keep=2)
    for number in range(4):
        digest = storage.add_image(tmp_path / "source", f"NUMBER = {number}\n")
        await images.get(digest, Source(storage.images[digest]).image)
    kept = {path.name for path in (tmp_path / "images").iterdir()}
    assert len(kept) == 2 and digest in kept
