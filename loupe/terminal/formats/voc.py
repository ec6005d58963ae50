"""Pascal VOC: an XML file for each picture, and lists of pictures for each split in ImageSets/Main.

Pixels are counted from 1, and both edges of a box belong to it, as the format's authors do: a box over the whole of a
picture goes from 1, 1 to width, height. Some tools write it from 0, 0: where any box of a source begins below 1, all
are read so. Boxes that end one pixel beyond the picture are put on its edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from loupe.annotations import Annotation, BadAnnotation
from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED, DatasetItem, Split
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas, written
from loupe.terminal.formats.documents import number, peek, read_text, read_xml, whole_number
from loupe.terminal.formats.picture_index import PictureIndex, files_below, require_inside, spelled
from loupe.terminal.formats.reading import Reading, split_of, text_of
from loupe.terminal.formats.writing import NO_CLASS, NO_DRAFT, NO_POLYGON, Writing, split_folder, write_text
from loupe.terminal.picture_source import SPLIT_WORDS, Collection, LabelledPicture

NAME = "voc"
ANNOTATIONS, PICTURES, SETS = "Annotations", "JPEGImages", Path("ImageSets", "Main")
_HEAD = 4 << 10
_LAID_ON = "boxes reached one pixel beyond the picture: they were put on its edge"
_BY_NAME = "pictures are not called what <filename> says: they were found by the names of the XML files"


def detect(source: Path) -> str | None:
    """Return which file speaks for VOC; None where none does."""
    if not source.is_dir():
        return None
    places = [source / ANNOTATIONS] if (source / ANNOTATIONS).is_dir() else [source, *_folders(source)]
    for path in (each for place in places for each in sorted(place.glob("*.xml"))[:1]):
        if b"<annotation" in peek(path, _HEAD):
            return f"{path.relative_to(source)} is an annotation of a picture"
    return None


def root_of(source: Path) -> Path:
    """Return the folder that holds the pictures."""
    return source


def read(source: Path, index: PictureIndex) -> Collection:
    """Read a folder. Raises BadDataset that tells every mistake."""
    if not source.is_dir():
        raise BadDataset(f"{source} is not a folder with XML files", problem="voc")
    reading = Reading(source, NAME, index, whole=True)
    base = source / ANNOTATIONS if (source / ANNOTATIONS).is_dir() else source
    paths, outside = files_below(base, lambda path: path.suffix.lower() == ".xml")
    for link in outside:
        reading.mistakes.add(escaped(link, 200), "a link that leaves the folder; a file would be right")
    if not paths:
        raise BadDataset(f"{base} has no XML files", problem="voc")
    places = {spelled(path.relative_to(base).with_suffix("").as_posix()): path for path in paths}
    splits = _listed(reading, source / SETS, places)
    if splits is None:
        splits = _by_folder(places)
    documents = dict(_documents(reading, places))
    first = _first_pixel(documents)
    if not first:
        reading.found.warnings.append("boxes begin at 0 where Pascal VOC counts pixels from 1: all are read as from 0")
    for place, document in documents.items():
        split = splits.get(place, SPLIT_UNSPECIFIED)
        _read_document(reading, document, _Place(places[place], place, split, first))
    return reading.finish()


class _Place(NamedTuple):
    """Where an annotation stands: its file, its name without ending; its split, and the number of the first pixel."""

    path: Path
    name: str
    split: Split
    first: int


def _documents(reading: Reading, places: dict[str, Path]) -> Iterator[tuple[str, Element]]:
    for place, path in places.items():
        try:
            yield place, read_xml(path)
        except BadDataset as error:
            reading.mistakes.add(place, error.message)


def _first_pixel(documents: dict[str, Element]) -> int:
    """Return 0 where a box begins before the first pixel of those who count from 1."""
    for document in documents.values():
        for side in (*document.iter("xmin"), *document.iter("ymin")):
            try:
                if number(side.text, "a side") < 1:
                    return 0
            except BadAnnotation:
                continue  # it is told, with its place, when the box is made
    return 1


def _folders(source: Path) -> list[Path]:
    return sorted(each for each in source.iterdir() if each.is_dir() and not each.is_symlink())


def _listed(reading: Reading, folder: Path, places: dict[str, Path]) -> dict[str, Split] | None:
    """Return the splits that lists say; None where there are none. Lists of one class repeat what others say."""
    files = [(path, split_of(path.stem)) for path in sorted(folder.glob("*.txt"))] if folder.is_dir() else []
    lists = [(path, split) for path, split in files if split is not None]
    found: dict[str, Split] = {}
    for path, split in lists:
        for line, text in enumerate(read_text(path).splitlines(), start=1):
            name = spelled(text.strip())
            where = f"{SETS / path.name}, line {line} ({escaped(name, 120)})"
            if name and name not in places:
                with reading.mistakes.at(where):
                    # Without an annotation it is unlabelled, but it has to be there.
                    _picture(reading.index, "", name, [])
            elif name and found.setdefault(name, split) != split:
                reading.mistakes.add(where, f"the picture is in {SPLIT_WORDS[found[name]]}, too")
    return found if lists else None


def _by_folder(places: dict[str, Path]) -> dict[str, Split]:
    """Return the splits by the folders that the files are in, if all of these name one."""
    splits = {place: split_of(path.parent.name) for place, path in places.items()}
    found = {place: split for place, split in splits.items() if split is not None}
    return found if len(found) == len(splits) else {}


def _read_document(reading: Reading, document: Element, place: _Place) -> None:
    where = escaped(place.path.relative_to(reading.found.source).as_posix(), 200)
    with reading.mistakes.at(where):
        name = (document.findtext("filename") or "").strip()
        base = place.path.parent.relative_to(reading.found.source).as_posix()
        key = _picture(reading.index, name, place.name, [base] if base != "." else [])
        if name and PurePosixPath(key).name != PurePosixPath(spelled(name)).name:
            reading.leave_out(_BY_NAME)
        canvas = reading.canvas(key, where, _claimed(document))
        if canvas is None:
            return
        objects = document.findall("object")
        made = [
            each
            for count, entry in enumerate(objects, start=1)
            for each in _region(reading, entry, canvas, place.first, f"{where}, object {count} ({escaped(key, 120)})")
        ]
        reading.take(key, where, place.split, made, nothing_there=not objects)


def _picture(index: PictureIndex, name: str, place: str, more: Sequence[str]) -> str:
    """Return the key of the picture by its name, or by that of its annotation. Raises BadAnnotation."""
    within = str(PurePosixPath(place).parent)
    folders = [f"{PICTURES}/{within}", PICTURES, "images", *more, ""]
    if name:
        require_inside(name)
        try:
            return index.find(name, folders)
        except BadAnnotation:
            if not (found := index.with_stem(place, folders)):
                raise
            return found
    if found := index.with_stem(place, folders):
        return found
    raise index.absent(place)


def _claimed(document: Element) -> Canvas | None:
    width, height = document.findtext("size/width"), document.findtext("size/height")
    if not width or not height or (width.strip(), height.strip()) == ("0", "0"):
        return None
    return Canvas(whole_number(width, "the width"), whole_number(height, "the height"))


def _region(reading: Reading, entry: Element, canvas: Canvas, first: int, where: str) -> Iterator[Annotation]:
    with reading.mistakes.at(where):
        label = text_of((entry.findtext("name") or "").strip(), "the name")
        if (bounds := entry.find("bndbox")) is None:
            raise BadAnnotation("there is no bndbox")
        x_min, y_min, x_max, y_max = (
            number(bounds.findtext(side) or "", side) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        for part in ("polygon", "part"):
            if entry.find(part) is not None:
                reading.leave_out(f"objects have a <{part}>, which is not read: their boxes are")
        beyond = [high < value <= high + 1 for value, high in zip((x_max, y_max), canvas, strict=True)]
        if any(beyond):
            reading.leave_out(_LAID_ON)
        x_max, y_max = (
            high if over else value for value, high, over in zip((x_max, y_max), canvas, beyond, strict=True)
        )
        yield canvas.box(label, (x_min - first, y_min - first, x_max, y_max))


class Writer(Writing):
    """Writes Annotations/NAME.xml, JPEGImages/NAME and ImageSets/Main/SPLIT.txt."""

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        super().__init__(root, labels)
        self._lists: dict[str, list[str]] = {}

    def folder(self, item: DatasetItem) -> PurePosixPath:
        """Return the one folder for all pictures."""
        return PurePosixPath(PICTURES)

    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Write the XML file of a picture that was written."""
        if picture.label:
            self.lose(NO_CLASS)
        if not picture.annotated:
            return
        split = split_folder(SPLIT_WORDS.get(picture.split, ""))
        self._lists.setdefault(split, []).append(picture.path.stem)
        document = Element("annotation")
        _add(document, "folder", PICTURES)
        _add(document, "filename", picture.path.name)
        size = SubElement(document, "size")
        for side, value in (("width", canvas.width), ("height", canvas.height), ("depth", 3)):
            _add(size, side, str(value))
        _add(document, "segmented", "0")
        for each in picture.annotations:
            document.append(self._object(each, canvas))
        indent(document)
        path = self.root / ANNOTATIONS / f"{picture.path.stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tostring(document, encoding="utf-8"))

    def _object(self, annotation: Annotation, canvas: Canvas) -> Element:
        if not annotation.is_box:
            self.lose(NO_POLYGON)
        if annotation.provenance.open:
            self.lose(NO_DRAFT)
        entry = Element("object")
        for name, text in (("name", annotation.label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            _add(entry, name, text)
        bounds = SubElement(entry, "bndbox")
        x_min, y_min, x_max, y_max = canvas.bounds(annotation)
        for side, value in (("xmin", x_min + 1), ("ymin", y_min + 1), ("xmax", x_max), ("ymax", y_max)):
            _add(bounds, side, written(value))
        return entry

    def finish(self) -> Path:
        """Write the lists, and return the folder of the XML files."""
        for split, names in self._lists.items():
            write_text(self.root / SETS / f"{split}.txt", "".join(f"{name}\n" for name in names))
        return self.root / ANNOTATIONS


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text
