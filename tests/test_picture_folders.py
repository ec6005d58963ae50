"""One rule for folders of pictures: terminals and authors of algorithms read the same classes and splits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from loupe.algorithm.host import Split
from loupe.algorithm.local import read_folder as read_locally
from loupe.picture_folders import LeftOut, class_folders, walk_class
from loupe.terminal.picture_source import SPLIT_WORDS, read_folder
from tests.terminal.conftest import picture_bytes

WORDS = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}


def fill(root: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        for index in range(3):
            place = root / folder / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture_bytes(10 * number + index))
    return root


@pytest.mark.parametrize(
    "folders",
    [
        ("train/ok", "train/bad", "validation/ok", "test/bad"),
        ("Training/ok", "VAL/bad", "valid/bad/deeper", "test/ok"),
        ("ok", "bad", "scratch/deeper"),
        ("train", "test"),
        ("train/x", "test/y", "spare/z"),
    ],
)
def test_terminal_and_local_runs_agree(tmp_path: Path, folders: tuple[str, ...]) -> None:
    root = fill(tmp_path / "pictures", *folders)
    found, local = read_folder(root), read_locally(root)
    assert sorted(found.classes) == list(local.labels)
    given = {one.path: (one.label, SPLIT_WORDS.get(one.split)) for one in found.pictures}
    for path, number, split in zip(local.paths, local.classes, local.splits, strict=True):
        label, word = given[path]
        assert label == local.labels[number]
        assert word in (None, WORDS[Split(split)])


def test_the_tours_surfaces_are_three_classes_and_not_three_splits(tmp_path: Path) -> None:
    folders = [
        f"{split}/{label}" for split in ("train", "validation", "test") for label in ("brick", "grass", "gravel")
    ]
    local = read_locally(fill(tmp_path, *folders))
    assert list(local.labels) == ["brick", "grass", "gravel"]
    assert {int((local.splits == split).sum()) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)} == {9}


def test_links_to_folders_are_neither_classes_nor_walked(tmp_path: Path) -> None:
    root = fill(tmp_path / "a", "ok", "bad")
    (root / "up").symlink_to("..")
    (root / "ok" / "again").symlink_to("..")
    classes, beside = class_folders(root)
    assert [one.path.name for one in classes] == ["bad", "ok"]
    assert [(one.path.name, one.reason) for one in beside] == [("up", "a link to another folder")]
    assert len([one for one in walk_class(root / "ok") if isinstance(one, Path)]) == 3


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path, "ok", "bad", "shut", "ok/inner")
    listed, shut = Path.iterdir, {root / "shut", root / "ok" / "inner"}

    def iterdir(self: Path) -> object:
        if self in shut:
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = read_folder(root)
    assert {(one.filename, one.reason) for one in found.unreadable} == {
        ("shut", "cannot be read: permission denied"),
        ("ok/inner", "cannot be read: permission denied"),
    }
    assert len(found.pictures) == 6


def test_a_tree_deeper_than_the_stack_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = "c"
    for _ in range(1200):
        os.mkdir(place)  # noqa: PTH102 - pathlib makes parents by recursion
        place += "/d"
    try:
        Path(place).write_bytes(b"x")
        assert [one for one in walk_class(Path("c")) if not isinstance(one, LeftOut)] == [Path(place)]
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "c")], check=True)  # shutil's recursion ends sooner
