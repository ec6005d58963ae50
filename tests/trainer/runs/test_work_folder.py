"""What a run hands over, refused where it must be."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from services.trainer.runs.work_folder import BadFile, WorkFolder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    return work


def folder(work: Path) -> WorkFolder:
    return WorkFolder(os.open(work, os.O_RDONLY), os.geteuid())


def test_a_regular_file_is_copied_with_its_digest(work: Path, tmp_path: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "model.onnx").write_bytes(b"model")
    file = folder(work).collect(PurePosixPath("out/model.onnx"), "model.onnx", tmp_path / "staged", 100)
    assert (file.size, file.path.read_bytes()) == (5, b"model")
    assert file.digest == "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"


def _link(work: Path) -> None:
    (work / "x").symlink_to("/etc/hostname")


def _linked_folder(work: Path) -> None:
    (work / "a").symlink_to("/etc")


def _fifo(work: Path) -> None:
    os.mkfifo(work / "x")


def _folder(work: Path) -> None:
    (work / "x").mkdir()


def _large(work: Path) -> None:
    (work / "x").write_bytes(b"x" * 2000)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (_link, "x"),
        (_linked_folder, "a/hostname"),
        (_fifo, "x"),
        (_folder, "x"),
        (_large, "x"),
        (lambda work: None, "missing"),
    ],
)
def test_what_is_no_regular_file_of_its_own_is_refused(work: Path, tmp_path: Path, make, path: str) -> None:
    """Links at any step, pipes, folders, too large or missing files: none is followed, opened for ever, or copied."""
    make(work)
    with pytest.raises(BadFile):
        folder(work).collect(PurePosixPath(path), "x", tmp_path / "staged", 1000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else's")
def test_a_file_of_somebody_else_is_refused(work: Path, tmp_path: Path) -> None:
    (work / "x").write_text("x")
    with pytest.raises(BadFile, match="not a regular file of this run"):
        WorkFolder(os.open(work, os.O_RDONLY), 12345).collect(PurePosixPath("x"), "x", tmp_path / "staged", 1000)


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        (["state.json", "evil.pkl"], 1000),
        (["x.pt"], 1000),
        (["a.json", "b.json", "c.json"], 25),
        ([], 1000),
        ([f"{n}.json" for n in range(9)], 1000),
        (["bad\nname.json"], 1000),
    ],
)
def test_a_checkpoint_that_is_not_flat_safetensors_and_json_is_refused(
    work: Path, tmp_path: Path, names: list[str], limit: int
) -> None:
    (work / "c").mkdir()
    for name in names:
        (work / "c" / name).write_bytes(b"x" * 10)
    with pytest.raises(BadFile):
        folder(work).collect_folder(PurePosixPath("c"), tmp_path / "s", (".safetensors", ".json"), 8, limit)


def test_a_folder_in_a_checkpoint_is_refused(work: Path, tmp_path: Path) -> None:
    (work / "c" / "deep.json").mkdir(parents=True)
    with pytest.raises(BadFile):
        folder(work).collect_folder(PurePosixPath("c"), tmp_path / "s", (".json",), 8, 1000)
