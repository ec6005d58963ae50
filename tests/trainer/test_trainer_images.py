"""Algorithm images on the trainer: fetched once, checked, unpacked whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from loupe.algorithm import image
from loupe.errors import BadAlgorithm, BadParameter, DigestMismatch
from services.trainer.attempts.events import Failed
from services.trainer.cache.images import Images
from tests.trainer.fakes import MemoryStorage, Rig


class Source:
    """Source gives one packed image, and counts."""

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
        folder, manifest = await Images(tmp_path / "images").get(image.digest(packed), source)
    assert source.asked == 1 and manifest.name == "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["algorithm.toml", "main.py"]


async def test_another_image_than_asked_for_is_refused(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(DigestMismatch):
        await Images(tmp_path / "images").get("a" * 64, Source(packed))
    assert list((tmp_path / "images").iterdir()) == []


async def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAlgorithm):
        await Images(tmp_path / "images").get(image.digest(b"no tar"), Source(b"no tar"))
    assert list((tmp_path / "images").iterdir()) == []


async def test_only_so_many_images_are_kept(tmp_path: Path) -> None:
    storage = MemoryStorage()
    images = Images(tmp_path / "images", keep=2)
    for number in range(4):
        digest = storage.add_image(tmp_path / "source", f"NUMBER = {number}\n")
        await images.get(digest, Source(storage.images[digest]))
    kept = {path.name for path in (tmp_path / "images").iterdir()}
    assert len(kept) == 2 and digest in kept


@pytest.mark.parametrize("parameters", [{"rounds": "many"}, {"unknown": 1}])
async def test_a_parameter_that_the_manifest_does_not_allow_fails_the_attempt(plain_rig: Rig, parameters: dict) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters=parameters))[-1].what
    assert isinstance(last, Failed)
    assert (last.reason, last.retryable) == (BadParameter.reason_name(), False)


async def test_a_missing_file_fails_the_attempt(plain_rig: Rig) -> None:
    last = (await plain_rig.run("def train(host):\n    pass\n", parameters={"weights": "9" * 64}))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("NOT_FOUND", False)
