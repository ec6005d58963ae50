"""What every writer does alike: places of pictures, numbers of classes, and a count of what a format cannot say."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import quote

from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.picture_source import SPLIT_WORDS, LabelledPicture

NO_CLASS = "pictures have a class as a whole, which this format cannot say: it is left out"
NO_POLYGON = "polygons cannot be said in this format: the box around each was written"
NO_DRAFT = "annotations were drafted by a model and nobody verified them, which this format cannot say"
UNLABELLED_FOLDER = "unlabelled"

LONGEST_PART = 120
RISKY = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]')


def safe_part(text: str) -> str:
    """Make one file-system name of a text that somebody else chose; letters of every script stay."""
    cleaned = RISKY.sub(lambda match: quote(match[0], safe=""), text).strip(". ")[:LONGEST_PART]
    return cleaned or "_"


def safe_suffix(suffix: str) -> str:
    """Keep an ordinary extension, drop any other."""
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", suffix) else ""


class ClassNumbers:
    """Gives each class its number, from 0."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._numbers = {label: number for number, label in enumerate(labels)}

    def of(self, label: str) -> int:
        """Return a class's number; one that was not known gets the next."""
        return self._numbers.setdefault(label, len(self._numbers))

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)


class Writing(ABC):
    """One export on its way into a folder.

    lost: what the format cannot say, with how often: the words that follow the number.
    """

    reserved: ClassVar[frozenset[str]] = frozenset()
    """Names in the folder that no picture may take."""
    says_classes: ClassVar[bool] = False
    """Whether the format can say the class of a picture as a whole."""

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        self.root = root
        self.classes = ClassNumbers(labels)
        self.lost: Counter[str] = Counter()
        self._taken: set[str] = set(self.reserved)

    def lose(self, what: str) -> None:
        """Count something that the format cannot say."""
        self.lost[what] += 1

    def folder(self, item: DatasetItem) -> PurePosixPath:
        """Return where a picture belongs, relative to root: by its split, when the annotation file names it."""
        named = item.annotations or item.nothing_there or (self.says_classes and item.label)
        split = split_folder(SPLIT_WORDS.get(item.split, ""))
        return PurePosixPath("images", split if named else UNLABELLED_FOLDER)

    def place(self, item: DatasetItem) -> PurePosixPath:
        """Return a picture's path relative to root; the same items in the same order have the same places."""
        name = PurePosixPath(item.filename or "picture")
        folder, stem, suffix = self.folder(item), safe_part(name.stem), safe_suffix(name.suffix)
        # Some file systems take upper and lower case for the same, and some formats know pictures without endings.
        if f"{folder}/{stem}".casefold() in self._taken:
            stem += f"-{item.digest[:16]}"
        self._taken.add(f"{folder}/{stem}".casefold())
        return folder / f"{stem}{suffix}"

    @abstractmethod
    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Note a picture that was written; its path is where it stands now."""

    @abstractmethod
    def finish(self) -> Path:
        """Write what describes the pictures, and return where it stands."""


def split_folder(split: str) -> str:
    """Return what other tools call a split's folder.

    >>> split_folder("validation"), split_folder("test")
    ('val', 'test')
    """
    return {"validation": "val"}.get(split, split or UNLABELLED_FOLDER)


def write_text(path: Path, text: str) -> None:
    """Write a text into a file that readers see whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
