"""Labelled pictures on disk: a folder per class, folders of splits, or a CSV file, read into one list."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loupe.annotations import Annotation
from loupe.errors import BadDataset, invalid
from loupe.labels import RULE, normalise_label
from loupe.picture_folders import SPLIT_NAMES, SUFFIXES, LeftOut, class_folders, walk_class
from loupe.storage.v1.dataset_pb2 import SPLIT_TEST, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION, Split
from loupe.terminal.escapes import decoded, escaped

SPLITS = {"train": SPLIT_TRAIN, "validation": SPLIT_VALIDATION, "test": SPLIT_TEST, "": SPLIT_UNSPECIFIED}
SPLIT_WORDS = {SPLIT_TRAIN: "train", SPLIT_VALIDATION: "validation", SPLIT_TEST: "test"}
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
LONGEST_FILENAME = 1024
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
SHOWN_ROWS = 20


@dataclass(frozen=True)
class LabelledPicture:
    """A file, its class, its split (0: storage decides), and the name that people know it under.

    label: empty where the picture as a whole has none. nothing_there: somebody looked, and found nothing to annotate.
    """

    path: Path
    label: str
    split: Split
    filename: str
    annotations: tuple[Annotation, ...] = ()
    nothing_there: bool = False

    @property
    def annotated(self) -> bool:
        """Whether somebody looked for regions in it."""
        return bool(self.annotations) or self.nothing_there

    @property
    def unlabelled(self) -> bool:
        """Whether it has neither a class nor annotations."""
        return not self.label and not self.annotated

    @property
    def classes(self) -> set[str]:
        """The classes that it shows, as a whole or in a region."""
        return {each.label for each in self.annotations} | ({self.label} if self.label else set())


@dataclass(frozen=True)
class Skipped:
    """A file that is not sent, and why."""

    filename: str
    reason: str


@dataclass
class Collection:
    """What was found, in a stable order.

    skipped: what is no picture of a class. unreadable: what may be one, and cannot be read here. format, explanation:
    in which format it was read, and what spoke for that. warnings: what could not be taken, for a person.
    """

    source: Path
    pictures: list[LabelledPicture] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unreadable: list[Skipped] = field(default_factory=list)
    format: str = "folders"
    explanation: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def given(self) -> bool:
        """Whether the pictures carry their own split."""
        return any(picture.split != SPLIT_UNSPECIFIED for picture in self.pictures)

    @property
    def annotated(self) -> bool:
        """Whether regions were looked for in any of the pictures."""
        return any(picture.annotated for picture in self.pictures)

    @property
    def classes(self) -> Counter[str]:
        """The number of pictures of each class."""
        return Counter(label for picture in self.pictures for label in picture.classes)


def read_pictures(source: Path) -> Collection:
    """Read a folder or a CSV file; `read_folder` and `read_csv` say how.

    Raises InvalidArgument for a source that is neither, BadDataset when it holds no pictures, or of fewer classes.
    """
    try:
        if source.is_dir():
            return read_folder(source)
        if source.is_file() and source.suffix.lower() in (".csv", ".tsv"):
            return read_csv(source)
    except OSError as error:
        raise invalid("source", str(source), f"a folder or a .csv file that can be read ({error.strerror})") from error
    raise invalid("source", str(source), "a folder with a folder of pictures per class, or a .csv file")


def read_folder(folder: Path) -> Collection:
    """Read a folder per class, or folders of splits that hold these; `loupe.picture_folders` has the rule."""
    found = Collection(folder)
    try:
        classes, beside = class_folders(folder)
    except OSError as error:
        raise invalid("source", str(folder), f"a folder that can be read ({error.strerror})") from error
    for one in beside:
        _leave_out(found, one)
    for one_class in classes:
        _read_class(found, one_class.path, SPLITS[one_class.split])
    return checked(found)


def _leave_out(found: Collection, one: LeftOut) -> None:
    into = found.unreadable if one.unreadable else found.skipped
    into.append(Skipped(_filename(one.path, found.source), one.reason))


def _filename(path: Path, source: Path) -> str:
    """Return the name that people know a file under, as text that storage takes."""
    text = escaped(decoded(path.relative_to(source).as_posix()), 4 * LONGEST_FILENAME)
    half = LONGEST_FILENAME // 2
    return text if len(text) <= LONGEST_FILENAME else f"{text[: half - 1]}…{text[-half:]}"


def _read_class(found: Collection, folder: Path, split: Split) -> None:
    label = check_label(decoded(folder.name), f"folder {folder}")
    empty = True
    for one in walk_class(folder):
        empty = False
        left_out = one if isinstance(one, LeftOut) else _no_picture(one)
        if left_out is not None:
            _leave_out(found, left_out)
        elif isinstance(one, Path):
            found.pictures.append(LabelledPicture(one, label, split, _filename(one, found.source)))
    if empty:
        found.skipped.append(Skipped(_filename(folder, found.source), "an empty folder"))


def _no_picture(path: Path) -> LeftOut | None:
    """Return why a file is not sent; None for a picture."""
    # A link may lead anywhere: what is no picture behind one is not sent, whatever its name says.
    if path.suffix.lower() in SUFFIXES and not path.is_symlink():
        return None
    try:
        if looks_like_picture(path):
            return None
    except OSError as error:
        return LeftOut(path, f"cannot be read: {(error.strerror or str(error)).lower()}", unreadable=True)
    expected = "neither its name nor its first bytes are those of PNG, JPEG, WebP, BMP or TIFF"
    return LeftOut(path, f"not a picture: {expected}")


def looks_like_picture(path: Path) -> bool:
    """Tell by a file's first bytes whether it is a picture of a format that is taken. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def read_csv(file: Path) -> Collection:
    """Read a table with the columns path and label, and split if there is one; further columns are left alone.

    The header may be in any case, the separator a comma, a semicolon or a tab, the text UTF-8 or, as some spreadsheets
    write it, UTF-16. Paths are relative to the file's own folder. Every row says its split (train, validation, test),
    or none does. Raises BadDataset that names every row with a mistake; a file that is not there is left out.
    """
    found = Collection(file)
    try:
        text = csv_text(file)
        mistakes = _read_rows(found, file, text)
    except OSError as error:
        raise invalid("source", str(file), f"a file that can be read ({error.strerror})") from error
    except csv.Error as error:
        raise BadDataset(
            f"{file} is not CSV ({error}); expected path,label or path,label,split", problem="csv"
        ) from error
    if mistakes:
        raise _bad_rows(file, mistakes)
    unsplit = sum(picture.split == SPLIT_UNSPECIFIED for picture in found.pictures)
    if unsplit not in (0, len(found.pictures)):
        raise BadDataset(
            f"{file}: {unsplit} of {len(found.pictures)} rows have no split; expected a split in every row, or in none",
            problem="csv_split",
        )
    return checked(found)


def csv_text(file: Path) -> str:
    """Return the text of a table in UTF-8 or UTF-16. Raises BadDataset, OSError."""
    data = file.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadDataset(f"{file} is not UTF-8 text; save it as CSV UTF-8", problem="csv_encoding") from error


def _read_rows(found: Collection, file: Path, text: str) -> list[BadDataset]:
    """Add the rows to the collection and return what is wrong with others. Raises csv.Error, BadDataset."""
    mistakes = []
    for line, row in table_rows(file, text):
        try:
            _add_row(found, file, line, row)
        except BadDataset as mistake:
            mistakes.append(mistake)
    return mistakes


def table_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the line and the cells, by column in lower case, of each row of a table. Raises csv.Error, BadDataset."""
    head, _, rest = text.partition("\n")
    before = 0
    if head.lower().startswith("sep="):  # a note of spreadsheets to themselves
        before, text = 1, rest
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=_separator(file, text), strict=True)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or []]
    for row in rows:
        yield rows.line_num + before, row


def _separator(file: Path, text: str) -> str:
    """Return what separates the columns. Raises BadDataset for a header that no separator makes sense of."""
    head = text.partition("\n")[0].strip()
    for separator in SEPARATORS:
        names = {name.strip().strip('"').lower() for name in head.split(separator)}
        if {"path", "label"} <= names:
            return separator
    message = f'{file}, line 1: the header is "{head[:200]}"'
    if other := re.fullmatch(r"\W*path\W*?(\W)\W*label\b.*", head, re.IGNORECASE):
        message += f', its separator "{other[1]}"'
    known = ", ".join(SEPARATORS.values())
    raise BadDataset(
        f"{message}; expected path,label or path,label,split, separated by one of {known}", problem="csv_header"
    )


def _bad_rows(file: Path, mistakes: Sequence[BadDataset]) -> BadDataset:
    if len(mistakes) == 1:
        return mistakes[0]
    lines = [mistake.message for mistake in mistakes[:SHOWN_ROWS]]
    if len(mistakes) > len(lines):
        lines.append(f"and {len(mistakes) - len(lines)} more")
    told = "\n  ".join([f"{file}: {len(mistakes)} rows cannot be taken", *lines])
    return BadDataset(told, **mistakes[0].metadata)


def _add_row(found: Collection, file: Path, line: int, row: dict[str, str | None]) -> None:
    where = f"{file}, line {line}"
    filename = (row["path"] or "").strip()
    word = (row.get("split") or "").strip()
    if word and word.lower() not in SPLIT_NAMES:
        raise BadDataset(f'{where}: the split is "{word}"; expected train, validation or test', problem="csv_split")
    label = check_label(row["label"] or "", where)
    path = file.parent / os.fsdecode(filename.encode())
    if not filename or not _is_file(path):
        shown = escaped(filename, LONGEST_FILENAME)
        reason = f'line {line}: there is no file "{shown}"; expected a path relative to {file.parent}'
        found.unreadable.append(Skipped(shown or f"line {line}", reason))
    else:
        split = SPLITS[SPLIT_NAMES.get(word.lower(), "")]
        found.pictures.append(LabelledPicture(path, label, split, escaped(filename, LONGEST_FILENAME)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered, a name that is too long
        return False


def check_label(label: str, where: str) -> str:
    """Return a class name in Unicode's composed form, or raise BadDataset that says where it stands."""
    try:
        return normalise_label(label)
    except ValueError as error:
        raise BadDataset(f"{where}: the class {label[:150]!a} {error}; expected {RULE}", problem="label") from error


def checked(found: Collection) -> Collection:
    """Return the collection. Raises BadDataset where it has no pictures."""
    if not found.pictures:
        left_out = [*found.unreadable, *found.skipped]
        note = f" ({len(left_out)} files were skipped, the first: " if left_out else ""
        note += f"{left_out[0].filename}: {left_out[0].reason})" if left_out else ""
        raise BadDataset(
            f"{found.source} has no pictures{note}; expected a folder per class with PNG, JPEG, WebP, BMP or TIFF",
            problem="empty",
        )
    return found
