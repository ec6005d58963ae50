"""Near-duplicates: copies are found, pictures that only have the same texture are not."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from services.storage.pictures.inspection import inspect
from services.storage.pictures.near_duplicates import Clusters, find_clusters
from tests.storage.photographs import encode, photograph, sha256


def clusters_of(files: Sequence[bytes], labels: Sequence[str] | None = None) -> Clusters:
    inspected = [inspect(sha256(each), each) for each in files]
    hashes = np.array([int.from_bytes(each.perceptual_hash or b"") for each in inspected], np.uint64)
    thumbnails = np.stack([np.frombuffer(each.thumbnail or b"", np.uint8) for each in inspected])
    return find_clusters(hashes, thumbnails, labels or ["a"] * len(files))


def altered(pixels: np.ndarray, how: str) -> bytes:
    image = Image.fromarray(pixels)
    if how == "recompressed":
        return encode(pixels, "JPEG", quality=40)
    if how == "smaller":
        small = np.asarray(image.resize((80, 80), Image.Resampling.BILINEAR))
        return encode(small, "PNG")
    if how == "brighter":
        return encode((pixels.astype(np.int16) + 12).clip(0, 255).astype(np.uint8), "PNG")
    grain = np.random.default_rng(1).integers(-10, 11, pixels.shape)
    return encode((pixels.astype(np.int16) + grain).clip(0, 255).astype(np.uint8), "PNG")


@pytest.mark.parametrize("how", ["recompressed", "smaller", "brighter", "noisier"])
def test_an_altered_copy_is_found(how: str) -> None:
    """A copy that was recompressed, made smaller, brighter or noisier stands in its original's cluster."""
    originals = [photograph(seed, 128) for seed in range(40)]
    files = [encode(each, "JPEG", quality=92) for each in originals] + [altered(originals[5], how)]
    clusters = clusters_of(files)
    assert clusters.of[-1] == 5
    assert clusters.count() == 1


def grain(seed: int) -> bytes:
    """A surface: grain around one grey, like brushed metal."""
    random = np.random.default_rng(seed)
    lines = random.normal(0, 14, (128, 1)) + random.normal(0, 9, (128, 128))
    return encode((128 + lines).clip(0, 255).astype(np.uint8), "PNG")


def test_surfaces_of_one_texture_are_not_duplicates() -> None:
    """300 different pieces of one texture are 300 clusters: likeness of texture does not chain them together."""
    assert clusters_of([grain(seed) for seed in range(300)]).count() == 0


def test_a_camera_that_always_sees_the_same_part_does_not_make_one_cluster() -> None:
    """Where nearly all pictures of a class look alike, likeness is given up, and it is said for how many."""
    scene = photograph(1, 128)
    random = np.random.default_rng(2)
    files = []
    for _ in range(60):
        pixels = (scene.astype(np.int16) + random.integers(-6, 7, scene.shape)).clip(0, 255).astype(np.uint8)
        x, y = random.integers(0, 118, 2)
        pixels[x : x + 10, y : y + 3] = 255
        files.append(encode(pixels, "PNG"))
    clusters = clusters_of(files)
    assert clusters.dissolved == 60
    assert len(set(clusters.of.tolist())) > 30


def test_bursts_stay_together() -> None:
    """Ten shots each of twelve parts are twelve clusters."""
    random = np.random.default_rng(3)
    files = []
    for part in range(12):
        scene = photograph(part, 96).astype(np.int16)
        for _ in range(10):
            files.append(encode((scene + random.integers(-5, 6, scene.shape)).clip(0, 255).astype(np.uint8), "PNG"))
    clusters = clusters_of(files)
    assert clusters.dissolved == 0
    assert [len(set(clusters.of[start : start + 10].tolist())) for start in range(0, 120, 10)] == [1] * 12


def test_a_hash_alone_joins_nothing() -> None:
    """Pictures of one hash whose thumbnails differ stay apart; with like thumbnails they are joined."""
    random = np.random.default_rng(8)
    hashes = np.full(4, 12345, np.uint64)
    thumbnails = random.integers(0, 256, (4, 256), dtype=np.uint8)
    thumbnails[3] = thumbnails[0]
    assert find_clusters(hashes, thumbnails, ["a"] * 4).of.tolist() == [0, 1, 2, 0]


def test_no_pictures_have_no_clusters() -> None:
    """An empty list is fine."""
    nothing = find_clusters(np.empty(0, np.uint64), np.empty((0, 256), np.uint8), [])
    assert nothing.count() == 0


@pytest.mark.parametrize("alike", [False, True])
def test_many_pictures_take_seconds(alike: bool) -> None:
    """Work does not grow with the square of the pictures, also not when half of them are all alike."""
    count = 30_000
    random = np.random.default_rng(4)
    hashes = random.integers(0, 1 << 63, count, dtype=np.uint64)
    thumbnails = random.integers(0, 256, (count, 256), dtype=np.uint8)
    if alike:
        flips = np.uint64(1) << random.integers(0, 64, (count // 2, 3)).astype(np.uint64)
        hashes[: count // 2] = hashes[0] ^ flips[:, 0] ^ flips[:, 1] ^ flips[:, 2]
    started = time.process_time()
    find_clusters(hashes, thumbnails, ["a", "b"] * (count // 2))
    assert time.process_time() - started < 15


def test_sixteen_bit_and_transparent_pictures_are_inspected() -> None:
    """What a camera of 16 bits or a drawing program writes has a hash too."""
    deep = io.BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 65535, (40, 40), dtype=np.uint16)).save(deep, "PNG")
    clear = io.BytesIO()
    Image.fromarray(photograph(6, 40)).convert("RGBA").save(clear, "PNG")
    for file in (deep.getvalue(), clear.getvalue()):
        assert inspect(sha256(file), file).problem == ""
