"""Labelled pictures on disk: a folder per class, folders of splits, or a CSV file, read into one list."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loupe.errors import BadDataset, invalid
from loupe.labels import RULE, normalise_label
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION, Split

SPLITS = {
    "train": SPLIT_TRAIN,
    "training": SPLIT_TRAIN,
    "validation": SPLIT_VALIDATION,
    "valid": SPLIT_VALIDATION,
    "val": SPLIT_VALIDATION,
    "test": SPLIT_TEST,
}
SPLIT_WORDS = {SPLIT_TRAIN: "train", SPLIT_VALIDATION: "validation", SPLIT_TEST: "test"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")


@dataclass(frozen=True)
class LabelledPicture:
    """A file, its class, its split (0: storage decides), and the name that people know it under."""

    path: Path
    label: str
    split: Split
    filename: str


@dataclass(frozen=True)
class Skipped:
    """A file that is not sent, and why."""

    filename: str
    reason: str


@dataclass
class Collection:
    """What was found, in a stable order. given: the pictures carry their own split."""

    source: Path
    pictures: list[LabelledPicture] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def given(self) -> bool:
        """Whether the pictures carry their own split."""
        return bool(self.pictures) and self.pictures[0].split != SPLIT_UNSPECIFIED

    @property
    def classes(self) -> Counter[str]:
        """The number of pictures of each class."""
        return Counter(picture.label for picture in self.pictures)


def read_pictures(source: Path) -> Collection:
    """Read a folder or a CSV file; `read_folder` and `read_csv` say how.

    Raises InvalidArgument for a source that is neither, BadDataset when it holds nothing to train on.
    """
    if source.is_dir():
        return read_folder(source)
    if source.is_file() and source.suffix.lower() == ".csv":
        return read_csv(source)
    raise invalid("source", str(source), "a folder with a folder of pictures per class, or a .csv file")


def read_folder(folder: Path) -> Collection:
    """Take each first-level folder for a class, with all pictures below it, however deep.

    When the first level holds only folders named train, validation (val, valid) and test, these are the user's own
    split, and the classes stand one level deeper.
    """
    found = Collection(folder)
    tops = [entry for entry in sorted(folder.iterdir()) if _is_class(entry)]
    by_split = _are_splits(tops)
    for entry in sorted(folder.iterdir()):
        if entry not in tops:
            found.skipped.append(Skipped(entry.name, _outside(entry)))
    for top in tops:
        if not by_split:
            _read_class(found, top, SPLIT_UNSPECIFIED)
            continue
        for entry in sorted(top.iterdir()):
            if _is_class(entry):
                _read_class(found, entry, SPLITS[top.name.lower()])
            else:
                found.skipped.append(Skipped(entry.relative_to(folder).as_posix(), _outside(entry)))
    return _checked(found)


def _are_splits(tops: list[Path]) -> bool:
    """Tell folders of splits from classes that happen to be called so: splits hold folders of classes."""
    words = {SPLITS.get(top.name.lower()) for top in tops}
    return SPLIT_TRAIN in words and None not in words and all(any(_is_class(e) for e in t.iterdir()) for t in tops)


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _outside(entry: Path) -> str:
    return "hidden" if entry.name.startswith(".") else "not inside a folder that names its class"


def _read_class(found: Collection, folder: Path, split: Split) -> None:
    label = check_label(folder.name, f"folder {folder}")
    before = len(found.pictures) + len(found.skipped)
    for path in _walk(folder):
        filename = path.relative_to(found.source).as_posix()
        if reason := _skip_reason(path, folder):
            found.skipped.append(Skipped(filename, reason))
        else:
            found.pictures.append(LabelledPicture(path, label, split, filename))
    if len(found.pictures) + len(found.skipped) == before:
        found.skipped.append(Skipped(folder.relative_to(found.source).as_posix(), "an empty folder"))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _walk(entry)
        else:
            yield entry


def _skip_reason(path: Path, folder: Path) -> str:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return "hidden"
    if path.is_dir():
        return "a link to another folder"
    if not path.is_file():
        return "not a file (a broken link, a pipe or a device)"
    if path.suffix.lower() not in SUFFIXES and not _looks_like_picture(path):
        return "not a picture: neither its name nor its first bytes are those of PNG, JPEG, WebP, BMP or TIFF"
    return ""


def _looks_like_picture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def read_csv(file: Path) -> Collection:
    """Read UTF-8 with the header `path,label` or `path,label,split`; further columns are left alone.

    Paths are relative to the file's own folder. Every row says its split (train, validation, test), or none does.
    """
    found = Collection(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            found.pictures += _csv_rows(file, text)
    except UnicodeDecodeError as error:
        raise BadDataset(f"{file} is not UTF-8 text; save it as CSV UTF-8", problem="csv_encoding") from error
    except csv.Error as error:
        raise BadDataset(
            f"{file} is not CSV ({error}); expected path,label or path,label,split", problem="csv"
        ) from error
    unsplit = sum(picture.split == SPLIT_UNSPECIFIED for picture in found.pictures)
    if unsplit not in (0, len(found.pictures)):
        raise BadDataset(
            f"{file}: {unsplit} of {len(found.pictures)} rows have no split; expected a split in every row, or in none",
            problem="csv_split",
        )
    return _checked(found)


def _csv_rows(file: Path, text: Iterable[str]) -> Iterator[LabelledPicture]:
    rows = csv.DictReader(text)
    columns = [name.strip() for name in rows.fieldnames or []]
    if not {"path", "label"} <= set(columns):
        raise BadDataset(
            f'{file}, line 1: the header is "{",".join(columns)}"; expected path,label or path,label,split',
            problem="csv_header",
        )
    rows.fieldnames = columns
    for row in rows:
        yield _csv_row(file, rows.line_num, row)


def _csv_row(file: Path, line: int, row: dict[str, str | None]) -> LabelledPicture:
    where = f"{file}, line {line}"
    filename = (row["path"] or "").strip()
    path = file.parent / filename
    if not filename or not path.is_file():
        raise BadDataset(
            f'{where}: there is no file "{filename}"; expected a path relative to {file.parent}', problem="csv_path"
        )
    word = (row.get("split") or "").strip()
    if word and word.lower() not in SPLITS:
        raise BadDataset(f'{where}: the split is "{word}"; expected train, validation or test', problem="csv_split")
    label = check_label(row["label"] or "", where)
    return LabelledPicture(path, label, SPLITS.get(word.lower(), SPLIT_UNSPECIFIED), filename)


def check_label(label: str, where: str) -> str:
    """Return a class name in Unicode's composed form, or raise BadDataset that says where it stands."""
    try:
        return normalise_label(label)
    except ValueError as error:
        raise BadDataset(f"{where}: the class {label[:150]!a} {error}; expected {RULE}", problem="label") from error


def _checked(found: Collection) -> Collection:
    if not found.pictures:
        note = f" ({len(found.skipped)} files were skipped, the first: " if found.skipped else ""
        note += f"{found.skipped[0].filename}: {found.skipped[0].reason})" if found.skipped else ""
        raise BadDataset(
            f"{found.source} has no pictures{note}; expected a folder per class with PNG, JPEG, WebP, BMP or TIFF",
            problem="empty",
        )
    if len(found.classes) == 1:
        (only,) = found.classes
        raise BadDataset(
            f'{found.source} has one class only, "{only}"; expected at least two, each in a folder of its own',
            problem="one_class",
            **{"class": only},
        )
    return found
