"""The memory of digests: a file that is as it was is not read again, one that changed is."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from loupe.terminal import hashing
from loupe.terminal.digests import DigestCache, FileState

HOUR_NS = 3600 * 10**9


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    """A cache of its own; files count as settled at once, for a test cannot turn back their change time."""
    monkeypatch.setattr("loupe.terminal.digests.SETTLED_NS", -HOUR_NS)
    return DigestCache(tmp_path / "cache" / "digests.db")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    return path


def digest_of(path: Path, cache: DigestCache) -> str:
    return asyncio.run(hashing.hash_files([path], lambda progress: None, cache))[0].digest


def test_an_unchanged_file_is_not_read_again(
    picture: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digest_of(picture, cache)
    monkeypatch.setattr(hashing, "_hash_file", lambda path, size: pytest.fail("it was read again"))
    assert digest_of(picture, cache) == first == hashlib.sha256(b"first").hexdigest()


def test_a_file_with_other_bytes_of_the_same_size_and_time_is_read_again(picture: Path, cache: DigestCache) -> None:
    digest_of(picture, cache)
    before = picture.stat()
    picture.write_bytes(b"other")
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(picture, cache) == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_was_just_changed_is_not_remembered(picture: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.db")
    digest_of(picture, cache)
    assert cache.known([FileState.of(picture)]) == [None]


def test_a_damaged_memory_costs_time_only(picture: Path, cache: DigestCache, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "digests.db"
    file.parent.mkdir()
    file.write_bytes(b"this is no database" * 100)
    assert digest_of(picture, cache) == hashlib.sha256(b"first").hexdigest()
    digest_of(picture, cache)
    assert cache.known([FileState.of(picture)]) == [hashlib.sha256(b"first").hexdigest()]


def test_files_of_one_folder_and_of_others_are_told_apart(
    cache: DigestCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name in two folders, remembered one after the other, and looked up by a relative path."""
    paths = [tmp_path / folder / name for folder in ("x", "y") for name in ("a.png", "b.png")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
        digest_of(path, cache)
    monkeypatch.chdir(tmp_path)
    states = [FileState.of(path.relative_to(tmp_path)) for path in paths]
    assert cache.known(states) == [hashlib.sha256(str(path).encode()).hexdigest() for path in paths]
    monkeypatch.chdir(tmp_path / "x")
    assert cache.known([FileState.of(Path("a.png"))]) == cache.known(states[:1])
