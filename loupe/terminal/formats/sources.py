"""Reading labelled and annotated pictures in whichever format they are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from loupe.errors import BadDataset, invalid
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED
from loupe.terminal.formats import coco, csv_table, datumaro, voc, yolo
from loupe.terminal.formats.picture_index import PictureIndex, index_folder
from loupe.terminal.picture_source import SPLIT_WORDS, Collection, checked, read_csv, read_folder

AUTO, FOLDERS = "auto", "folders"


class _Reader(Protocol):
    def detect(self, source: Path) -> str | None: ...
    def read(self, source: Path, index: PictureIndex) -> Collection: ...


_READERS: dict[str, _Reader] = {each.NAME: each for each in (csv_table, coco, voc, yolo, datumaro)}
FORMATS = (FOLDERS, *_READERS)
TITLES = {
    "folders": "folders",
    "csv": "CSV",
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "datumaro": "Datumaro",
}


def read_source(source: Path, format: str = AUTO) -> Collection:
    """Read pictures of a folder or a file; "auto" finds out the format by what is in it.

    Raises InvalidArgument for what is neither, BadDataset that tells every mistake with its place, or the formats where
    several could be meant.
    """
    try:
        chosen, explanation = detect(source) if format == AUTO else (format, "it was asked for")
        found = _read(source, chosen)
    except OSError as error:
        raise invalid("source", str(source), f"a folder or a file that can be read ({error.strerror})") from error
    found.format, found.explanation = chosen, explanation
    return found


def read_annotations(source: Path, format: str = AUTO, index: PictureIndex | None = None) -> Collection:
    """Read annotations of pictures that are elsewhere, in an index, or below the folder of the source if it is None.

    Raises InvalidArgument and BadDataset as read_source.
    """
    chosen, explanation = detect(source) if format == AUTO else (format, "it was asked for")
    if chosen == FOLDERS:
        raise BadDataset(
            f"{source} has no annotations, only folders; expected one of {', '.join(_READERS)}", problem="format"
        )
    found = _READERS[chosen].read(source, index or index_of(source, chosen))
    found.format, found.explanation = chosen, explanation
    return found


def forget_single_split(found: Collection) -> None:
    """Leave the split to storage where the names of files put all pictures into one: that is a part, not a division.

    Tables and folders say it on purpose.
    """
    splits = {each.split for each in found.pictures if not each.unlabelled}
    if found.format in (FOLDERS, csv_table.NAME) or len(splits) != 1 or SPLIT_UNSPECIFIED in splits:
        return
    word = SPLIT_WORDS[splits.pop()]
    found.pictures = [replace(each, split=SPLIT_UNSPECIFIED) for each in found.pictures]
    found.warnings.append(f"all pictures are for {word} by the names of the files; the mesh divides them instead")


def index_of(source: Path, format: str) -> PictureIndex:
    """Look for the pictures that a source of a format is about. Raises InvalidArgument."""
    return index_folder(coco.root_of(source) if format in (coco.NAME, datumaro.NAME) else _folder(source))


def detect(source: Path) -> tuple[str, str]:
    """Return the format of a source, and what speaks for it. Raises BadDataset where several could be meant."""
    if not source.exists():
        raise invalid(
            "source", str(source), "a folder with a folder of pictures per class, or a file of a known format"
        )
    found = {name: said for name, reader in _READERS.items() if (said := reader.detect(source)) is not None}
    if len(found) > 1:
        told = "; ".join(f"{TITLES[name]}, since {said}" for name, said in found.items())
        choices = " or ".join(f"--format {name}" for name in found)
        raise BadDataset(f"{source} may be {told}; say {choices}", problem="format")
    if found:
        return next(iter(found.items()))
    if source.is_dir():
        return FOLDERS, "its folders are the classes"
    raise invalid(
        "source",
        str(source),
        "a folder with a folder of pictures per class, or a .csv file, or a .json or .yaml file of a known format",
    )


def _read(source: Path, format: str) -> Collection:
    if format == FOLDERS:
        return read_folder(source)
    if format not in _READERS:
        raise invalid("format", format, f"one of {AUTO}, {', '.join(FORMATS)}")
    if format == csv_table.NAME and not csv_table.has_boxes(table := csv_table.table_of(source)):
        return read_csv(table)
    return checked(_READERS[format].read(source, index_of(source, format)))


def _folder(source: Path) -> Path:
    return source if source.is_dir() else source.parent
