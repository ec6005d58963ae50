"""Pushing files: whole, once, on after every cut, and every file that cannot be pushed is named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loupe import errors
from loupe.terminal import blobs
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from loupe.terminal.progress import SendProgress
from tests.terminal.fake_mesh import FakeMesh

LINE_7 = "projects/line-7"
CHUNKS = 8
MANIFEST = """
name = "mine"
version = "1"
task = "classification"
entry = "main:train"
licence = "MIT"
summary = "An example."
[parameters.weights]
type = "file"
[parameters.handle]
type = "string"
default = ""
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1_000)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of eight chunks."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"".join(bytes([n]) * 1_000 for n in range(CHUNKS)))
    return file


def content(file: Path) -> bytes:
    return file.read_bytes()


def digest_of(file: Path) -> str:
    return hashlib.sha256(content(file)).hexdigest()


@pytest.fixture
def three(weights: Path, tmp_path: Path) -> list[Path]:
    """The file, a copy of it, and another one of five bytes."""
    (tmp_path / "copy").write_bytes(weights.read_bytes())
    (tmp_path / "other").write_bytes(b"other")
    return [weights, tmp_path / "copy", tmp_path / "other"]


async def test_a_file_is_sent_once(mesh: FakeMesh, store: ProfileStore, three: list[Path]) -> None:
    """A second name of the same bytes, and a second push, send nothing."""
    files, (weights, copy, other) = three, three
    shown: list[SendProgress] = []
    async with Terminal.connect(store) as loupe:
        first = await loupe.blobs.push(LINE_7, files, show=shown.append)
        second = await loupe.blobs.push(LINE_7, files)
    assert [(one.file, one.digest, one.size, one.sent) for one in first] == [
        (weights, digest_of(weights), 8_000, True),
        (copy, digest_of(weights), 8_000, False),
        (other, digest_of(other), 5, True),
    ]
    assert [one.digest for one in second] == [one.digest for one in first] and not any(one.sent for one in second)
    assert mesh.blobs == {digest_of(one): content(one) for one in files} and mesh.offsets == [0, 0]
    sent = [one.bytes for one in shown]
    assert sent == sorted(sent) and shown[-1] == SendProgress(8_005, 8_005)


@pytest.mark.parametrize("after", range(CHUNKS))
async def test_a_cut_at_every_chunk_is_gone_on_from(
    mesh: FakeMesh, store: ProfileStore, weights: Path, after: int
) -> None:
    mesh.cuts = [after]
    async with Terminal.connect(store) as loupe:
        (pushed,) = await loupe.blobs.push(LINE_7, [weights])
    assert mesh.blobs[pushed.digest] == content(weights)
    assert mesh.offsets == [0, 1_000 * after]


async def test_another_push_goes_on_where_one_was_stopped(mesh: FakeMesh, store: ProfileStore, weights: Path) -> None:
    """And what an earlier one left of a file that was different then is thrown away."""
    mesh.parts[digest_of(weights)] = content(weights)[:3_000]
    async with Terminal.connect(store) as loupe:
        await loupe.blobs.push(LINE_7, [weights])
        assert mesh.offsets == [3_000]
        mesh.blobs.clear()
        mesh.parts[digest_of(weights)] = b"x" * 3_000
        await loupe.blobs.push(LINE_7, [weights])
    assert mesh.offsets == [3_000, 3_000, 0] and mesh.blobs[digest_of(weights)] == content(weights)


async def test_storage_that_stays_away_is_told(
    mesh: FakeMesh, store: ProfileStore, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "TRANSFER_RETRY_SECONDS", 0.5)
    mesh.cuts = [0] * 1_000
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.Unavailable, match=r"storage (goes down|cannot be reached)"):
            await loupe.blobs.push(LINE_7, [weights])
    assert not mesh.blobs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "No such file or directory"),
        (lambda file: file.mkdir(), "this is a folder, a pipe or a device"),
        (os.mkfifo, "this is a folder, a pipe or a device"),
        (lambda file: file.touch(), "a file that is not empty"),
        (lambda file: file.symlink_to(file), "symbolic links"),
    ],
)
async def test_what_cannot_be_pushed_is_named_before_anything_is_sent(
    mesh: FakeMesh, store: ProfileStore, weights: Path, make: Callable[[Path], object], words: str
) -> None:
    bad = weights.with_name("bad")
    make(bad)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.InvalidArgument, match=words) as caught:
            await loupe.blobs.push(LINE_7, [weights, bad])
    assert str(bad) in str(caught.value) and caught.value.field == "path"
    assert not mesh.blobs and not mesh.offsets


async def test_an_unreadable_file_is_named(
    mesh: FakeMesh, store: ProfileStore, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, size: int) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("loupe.terminal.hashing._hash_file", refuse)
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.InvalidArgument, match=r"weights\.safetensors.*permission denied"):
            await loupe.blobs.push(LINE_7, [weights])
    assert not mesh.offsets


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"short"),
        lambda file: file.write_bytes(b"x" * 8_000),
        lambda file: file.open("ab").write(b"more"),
        lambda file: file.unlink(),
    ],
)
async def test_a_file_that_changes_while_it_is_sent_is_told(
    mesh: FakeMesh, store: ProfileStore, weights: Path, change: Callable[[Path], object]
) -> None:
    """Shorter, other, longer or gone: an error with its name, and no digest of a file that is not there."""

    def once() -> None:
        mesh.on_chunk = lambda: None
        change(weights)

    mesh.on_chunk = once
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.InvalidArgument, match=r"weights\.safetensors"):
            await loupe.blobs.push(LINE_7, [weights])


async def test_a_file_that_is_too_large_is_refused_with_the_limit(
    mesh: FakeMesh, store: ProfileStore, weights: Path
) -> None:
    mesh.most_bytes = 7_999
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.ResourceExhausted, match="8000 bytes; at most 7999 are taken") as caught:
            await loupe.blobs.push(LINE_7, [weights])
    assert caught.value.limit == "max_blob_bytes"


async def test_who_may_not_write_is_told(mesh: FakeMesh, store: ProfileStore, weights: Path) -> None:
    mesh.denied = errors.PermissionDenied("blobs.write needs 20", action="blobs.write")
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.PermissionDenied):
            await loupe.blobs.push(LINE_7, [weights])


def test_the_command_prints_whole_digests(
    command_line: Callable[..., Any], mesh: FakeMesh, weights: Path, tmp_path: Path
) -> None:
    result = command_line("blob", "push", weights, COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert digest_of(weights) in result.stdout and "sent" in result.stdout
    again = command_line("blob", "push", weights, "--json")
    assert json.loads(again.stdout)["blobs"] == [
        {"file": str(weights), "digest": digest_of(weights), "size": 8_000, "sent": False}
    ]
    missing = command_line("blob", "push", tmp_path / "nothing")
    assert missing.exit_code == 6 and "nothing" in missing.stderr and "Traceback" not in missing.output


def test_train_pushes_the_files_that_parameters_name(
    command_line: Callable[..., Any], mesh: FakeMesh, weights: Path
) -> None:
    """Only for a parameter that is a file; other texts may begin with the same letter."""
    mesh.manifest = MANIFEST
    words = ("train", "screws", "-t", "0.9", "--algorithm", "mine", "--param", f"weights=@{weights}")
    result = command_line(*words, "--param", "handle=@anna")
    assert result.exit_code == 0, result.output
    sent = mesh.jobs[f"{LINE_7}/jobs/j1"]
    assert dict(sent.parameters) == {"weights": digest_of(weights), "handle": "@anna"}
    assert mesh.blobs[digest_of(weights)] == content(weights)
    assert mesh.asked_algorithms == ["algorithms/mine/versions/latest"]
    mesh.jobs.clear()
    gone = command_line("train", "screws", "-t", "0.9", "--param", "weights=@nothing")
    assert gone.exit_code == 6 and "nothing" in gone.stderr and not mesh.jobs


def test_rerun_pushes_them_by_the_old_jobs_algorithm(
    command_line: Callable[..., Any], mesh: FakeMesh, weights: Path
) -> None:
    mesh.manifest = MANIFEST
    assert command_line("train", "screws", "-t", "0.9", "--algorithm", "mine/versions/3").exit_code == 0
    result = command_line("job", "rerun", "j1", "--param", f"weights=@{weights}")
    assert result.exit_code == 0, result.output
    assert dict(mesh.reruns[0].training_job.parameters) == {"weights": digest_of(weights)}
    assert mesh.asked_algorithms == ["algorithms/mine/versions/3"]
