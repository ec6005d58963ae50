"""CSV with boxes: a row for each box or polygon, in pixels of the upright picture, and one for a picture without.

Columns: path, label; if you like split, x_min, y_min, x_max, y_max, polygon (x and y of each corner, with spaces
between), state ("nothing there" or "unlabelled"), model and confidence of what a model drafted. A row without region is
the class of the picture as a whole; one without class, too, says that nothing is there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from loupe.annotations import Annotation, BadAnnotation
from loupe.errors import BadDataset
from loupe.picture_folders import SPLIT_NAMES
from loupe.storage.v1.dataset_pb2 import DatasetItem, Split
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas, written
from loupe.terminal.formats.documents import number, peek
from loupe.terminal.formats.drafts import draft
from loupe.terminal.formats.picture_index import PictureIndex
from loupe.terminal.formats.reading import Reading, label_of
from loupe.terminal.formats.writing import Writing, safe_part, write_text
from loupe.terminal.picture_source import SPLIT_WORDS, SPLITS, Collection, LabelledPicture, csv_text, table_rows

NAME = "csv"
LISTING = "splits.csv"
SIDES = ("x_min", "y_min", "x_max", "y_max")
NOTHING_THERE, UNLABELLED = "nothing there", "unlabelled"
_OPTIONAL = ("polygon", "state", "model", "confidence")
_HEAD = 4 << 10

Row = dict[str, str | None]


def detect(source: Path) -> str | None:
    """Return which file speaks for CSV: one that is a table, or that has boxes where a folder is given; else None."""
    if source.is_dir():
        found = _tables(source)
        return f"{found[0].name} has the columns {', '.join(SIDES)}" if found else None
    return f"{source.name} is a table" if source.suffix.lower() in (".csv", ".tsv") else None


def table_of(source: Path) -> Path:
    """Return the table of a folder, or the file itself. Raises BadDataset."""
    if not source.is_dir():
        return source
    found = _tables(source) or sorted(source.glob("*.csv"))
    if len(found) != 1:
        raise BadDataset(f"{source} has {len(found)} tables; name the .csv file to read", problem="csv")
    return found[0]


def _tables(folder: Path) -> list[Path]:
    return [each for each in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]) if has_boxes(each)]


def has_boxes(file: Path) -> bool:
    """Tell by its header whether a table has regions."""
    head = peek(file, _HEAD)[:_HEAD].replace(b"\0", b"").lower()
    return any(each in head for each in (b"x_min", b"polygon"))


def read(source: Path, index: PictureIndex) -> Collection:
    """Read a table with regions. Raises BadDataset that tells every mistake."""
    file = table_of(source)
    reading = Reading(file, NAME, index, whole=False)
    pictures: dict[str, _Picture] = {}
    try:
        for line, row in table_rows(file, csv_text(file)):
            with reading.mistakes.at(f"{file}, line {line} ({escaped(row.get('path'), 120)})"):
                key = index.find((row.get("path") or "").strip())
                if key not in pictures:
                    pictures[key] = _Picture(f"{file}, line {line} ({escaped(key, 120)})")
                pictures[key].rows.append((line, row))
    except csv.Error as error:
        raise BadDataset(f"{file} is not CSV ({error})", problem="csv") from error
    for key, picture in pictures.items():
        canvas = reading.canvas(key, picture.where)
        if canvas is not None:
            _take(reading, key, picture, canvas)
    return reading.finish()


@dataclass
class _Picture:
    """The rows of one picture, and where the first of them stands."""

    where: str
    rows: list[tuple[int, Row]] = field(default_factory=list)


def _take(reading: Reading, key: str, picture: _Picture, canvas: Canvas) -> None:
    made: list[Annotation] = []
    labels: set[str] = set()
    states: set[str] = set()
    splits: set[Split] = set()
    for line, row in picture.rows:
        with reading.mistakes.at(f"{reading.found.source}, line {line} ({escaped(key, 120)})"):
            splits.add(_split(_cell(row, "split")))
            region = _region(row, canvas)
            if region is not None:
                made.append(region)
                continue
            label, state = row.get("label") or "", _cell(row, "state").lower()
            if state not in ("", NOTHING_THERE, UNLABELLED):
                raise BadAnnotation(f'the state is "{state[:40]}"; "{NOTHING_THERE}" or "{UNLABELLED}" would be right')
            if label:
                labels.add(label_of(label))
            states.add(state if state or label else NOTHING_THERE)
    with reading.mistakes.at(picture.where):
        if len(labels) > 1 or len(splits) > 1:
            raise BadAnnotation("the rows of the picture say several classes as a whole, or splits; one would be right")
        said = NOTHING_THERE in states
        if said and made:
            raise BadAnnotation("a row says that nothing is there, and another one has a region")
        split = next(iter(splits), SPLITS[""])
        reading.take(key, picture.where, split, made, label="".join(labels), nothing_there=said)


def _region(row: Row, canvas: Canvas) -> Annotation | None:
    """Return the region of a row; None where it has none. Raises BadAnnotation."""
    sides, corners = [_cell(row, side) for side in SIDES], _cell(row, "polygon")
    if not any(sides) and not corners:
        return None
    if corners and any(sides):
        raise BadAnnotation("the row has a box and a polygon; one of them would be right")
    model, label = _cell(row, "model"), row.get("label") or ""
    made = [draft(model, _cell(row, "confidence") or 0)] if model else []
    if corners:
        return canvas.polygon(label, [number(each, "a coordinate") for each in corners.split()], *made)
    return canvas.box(label, [number(value, side) for value, side in zip(sides, SIDES, strict=True)], *made)


def _split(word: str) -> Split:
    if word and word.lower() not in SPLIT_NAMES:
        raise BadAnnotation(f'the split is "{word[:40]}"; expected train, validation or test')
    return SPLITS[SPLIT_NAMES.get(word.lower(), "")]


def _cell(row: Row, column: str) -> str:
    return (row.get(column) or "").strip()


class Writer(Writing):
    """Writes splits.csv, and the pictures into the folder images."""

    reserved = frozenset({Path(LISTING).stem})

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        super().__init__(root, labels)
        self._rows: list[dict[str, str]] = []
        self._regions = False

    def folder(self, item: DatasetItem) -> PurePosixPath:
        """Return the one folder for all pictures."""
        return PurePosixPath("images")

    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Note a picture that was written."""
        path = picture.path.relative_to(self.root).as_posix()
        split = SPLIT_WORDS.get(picture.split, "")
        self._regions = self._regions or not picture.label or picture.annotated
        rows = [_row_of(each, canvas) for each in picture.annotations]
        if picture.label or not rows:
            state = NOTHING_THERE if picture.nothing_there else UNLABELLED if picture.unlabelled else ""
            rows.insert(0, {"label": picture.label, "state": state})
        self._rows += [{"path": path, "split": split, **row} for row in rows]

    def finish(self) -> Path:
        """Write the table, and return it."""
        columns = ["path", "label", "split", *(SIDES if self._regions else ())]
        columns += [column for column in _OPTIONAL if any(row.get(column) for row in self._rows)]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(self._rows)
        write_text(self.root / LISTING, text.getvalue())
        return self.root / LISTING


def _row_of(annotation: Annotation, canvas: Canvas) -> dict[str, str]:
    numbers = [written(value) for value in canvas.numbers(annotation)]
    row = dict(zip(SIDES, numbers, strict=True)) if annotation.is_box else {"polygon": " ".join(numbers)}
    made = annotation.provenance
    drafted = {"model": made.model, "confidence": repr(made.confidence)} if made.open else {}
    return {"label": annotation.label, **row, **drafted}


class FolderWriter(Writer):
    """Writes a folder per class, and splits.csv, which says splits, annotations and what has no class, too."""

    def folder(self, item: DatasetItem) -> PurePosixPath:
        """Return the folder of a picture's class."""
        folder = safe_part(item.label)
        return PurePosixPath(f"{folder}_" if folder.casefold() == LISTING else folder)

    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Note a picture that was written."""
        super().add(picture, canvas)
        if picture.annotated or picture.unlabelled:
            self.lose(f"pictures have annotations or no class, which folders do not say: push {LISTING} instead")
