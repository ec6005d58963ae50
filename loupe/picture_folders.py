"""How labelled pictures lie in folders, for whoever reads them: a folder per class, or folders of splits with these.

Terminals (`loupe dataset push`) and authors of algorithms (`python -m loupe.algorithm run`) read a folder by this one
rule. It imports nothing, as a sandbox has no protobuf.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".dib", ".tif", ".tiff"})
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
"""What people call the splits, in lower case."""


class ClassFolder(NamedTuple):
    """A folder that names a class; split is "train", "validation", "test", or "" where none is given."""

    path: Path
    split: str


class LeftOut(NamedTuple):
    """What is not read, and why. unreadable: it may hold pictures, and this account may not see them."""

    path: Path
    reason: str
    unreadable: bool = False


def class_folders(root: Path) -> tuple[list[ClassFolder], list[LeftOut]]:
    """Return the folders that name classes, and what lies beside them. Raises OSError when root cannot be read.

    Each first-level folder is a class. When the first level holds only folders named train, validation (val, valid)
    and test, and these hold folders, they are the user's own split, and the classes stand one level deeper. A link to
    a folder is no class: nothing outside of root is read, and nothing twice.
    """
    tops, left_out = _folders(root)
    inner = [(top, *_inside(top)) for top in tops]
    splits = {SPLIT_NAMES.get(top.name.lower()) for top in tops}
    if "train" not in splits or None in splits or not all(folders for _, folders, _ in inner):
        return [ClassFolder(top, "") for top in tops], left_out
    classes = [ClassFolder(one, SPLIT_NAMES[top.name.lower()]) for top, folders, _ in inner for one in folders]
    return classes, left_out + [one for _, _, beside in inner for one in beside]


def walk_class(folder: Path) -> Iterator[Path | LeftOut]:
    """Yield the files below a class's folder, however deep, in the order of their paths, and what is left out there."""
    # Not by recursion: a tree may be deeper than Python's stack.
    pending: list[Path | LeftOut] = [folder]
    while pending:
        entry = pending.pop()
        kind = "folder" if entry is folder else entry if isinstance(entry, LeftOut) else _kind(entry)
        if isinstance(kind, LeftOut):
            yield kind
        elif isinstance(entry, Path) and kind == "folder":
            pending += reversed(_entries(entry))
        elif isinstance(entry, Path):
            yield entry


def _inside(top: Path) -> tuple[list[Path], list[LeftOut]]:
    try:
        return _folders(top)
    except OSError as error:
        return [], [_unreadable(top, error)]


def _folders(root: Path) -> tuple[list[Path], list[LeftOut]]:
    folders: list[Path] = []
    left_out: list[LeftOut] = []
    for entry in sorted(root.iterdir()):
        kind = _kind(entry)
        if kind == "folder":
            folders.append(entry)
        else:
            outside = LeftOut(entry, "not inside a folder that names its class")
            left_out.append(kind if isinstance(kind, LeftOut) else outside)
    return folders, left_out


def _entries(folder: Path) -> list[Path | LeftOut]:
    try:
        return [*sorted(folder.iterdir())]
    except OSError as error:
        return [_unreadable(folder, error)]


def _kind(entry: Path) -> str | LeftOut:
    """Return "folder" or "file", or why an entry is neither."""
    if entry.name.startswith("."):
        return LeftOut(entry, "hidden")
    try:
        mode = os.lstat(entry).st_mode
        if stat.S_ISLNK(mode):
            mode = os.stat(entry).st_mode  # noqa: PTH116 - as lstat above
            if stat.S_ISDIR(mode):
                return LeftOut(entry, "a link to another folder")
    except FileNotFoundError:
        return LeftOut(entry, "not a file (a broken link)")
    except OSError as error:
        return _unreadable(entry, error)
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else LeftOut(entry, "not a file (a pipe or a device)")


def _unreadable(entry: Path, error: OSError) -> LeftOut:
    return LeftOut(entry, f"cannot be read: {(error.strerror or str(error)).lower()}", unreadable=True)
