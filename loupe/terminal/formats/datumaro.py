"""Datumaro's own format: one JSON file for each subset, with items and their boxes, polygons and classes as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loupe.annotations import Annotation, BadAnnotation
from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED, Split
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.coco import has_keys, json_files, root_of
from loupe.terminal.formats.documents import corners_of, members, number, read_json, whole_number
from loupe.terminal.formats.drafts import draft_attributes, provenance_of
from loupe.terminal.formats.picture_index import PictureIndex
from loupe.terminal.formats.reading import Reading, label_of, require_few, split_of, text_of
from loupe.terminal.formats.writing import Writing, split_folder, write_text
from loupe.terminal.picture_source import SPLIT_WORDS, Collection, LabelledPicture

NAME = "datumaro"
VERSION = "1.0"
NOTHING_THERE = "loupe_nothing_there"

__all__ = ["NAME", "Writer", "detect", "read", "root_of"]


def detect(source: Path) -> str | None:
    """Return which file speaks for Datumaro; None where none does."""
    for path in _files_of(source):
        return f"{path.relative_to(source) if path != source else path.name} has items and categories"
    return None


def _files_of(source: Path) -> list[Path]:
    return [each for each in json_files(source) if has_keys(each, b'"items"', b'"categories"')]


def read(source: Path, index: PictureIndex) -> Collection:
    """Read a folder or a file. Raises BadDataset that tells every mistake."""
    reading = Reading(source, NAME, index, whole=source.is_dir())
    files = _files_of(source)
    if not files:
        raise BadDataset(f"{source} has no JSON file with items and categories", problem="datumaro")
    for path in files:
        _read_file(reading, path, split_of(path.stem) or SPLIT_UNSPECIFIED)
    return reading.finish()


def _read_file(reading: Reading, path: Path, split: Split) -> None:
    document = read_json(path)
    labels = _labels(path, document)
    seen: set[str] = set()
    for place, item in enumerate(members(document, "items", path), start=1):
        key = item.get("id")
        where = f"{path.name}, item {escaped(key, 120) if isinstance(key, str) else f'number {place}'}"
        if not isinstance(key, str) or key in seen:
            reading.mistakes.add(
                where, f"the id is {'there twice' if key in seen else 'no text'}; a text of its own, please"
            )
            continue
        seen.add(key)
        with reading.mistakes.at(where):
            _read_item(_Item(reading, path, labels, key, where), item, split)


def _labels(path: Path, document: Any) -> list[str]:
    found = document.get("categories") if isinstance(document, dict) else None
    entries = members(found.get("label") if isinstance(found, dict) else None, "labels", path) if found else []
    labels = [each.get("name") for each in entries]
    if len(set(map(str, labels))) != len(labels) or not all(isinstance(each, str) for each in labels):
        raise BadDataset(
            f"{path}: categories.label.labels has a class twice, or one without a name", problem="datumaro"
        )
    return [str(each) for each in labels]


class _Item:
    """What the parts of one item need to know of it."""

    def __init__(self, reading: Reading, path: Path, labels: Sequence[str], key: str, where: str) -> None:
        self.reading = reading
        self.where = where
        self._path = path
        self._labels = labels
        self._key = key

    def picture(self, image: object) -> str:
        """Return the key of the item's picture. Raises BadAnnotation."""
        index, subset = self.reading.index, self._path.stem
        folders = [f"images/{subset}", subset, "images", ""]
        name = image.get("path") if isinstance(image, dict) else None
        if name:
            return index.find(text_of(name, "the path of the image"), folders)
        if found := index.with_stem(self._key, folders):
            return found
        raise index.absent(self._key)

    def label(self, annotation: dict[str, Any]) -> str:
        """Return the class of an annotation. Raises BadAnnotation."""
        number_of = annotation.get("label_id")
        if isinstance(number_of, int) and not isinstance(number_of, bool) and 0 <= number_of < len(self._labels):
            return self._labels[number_of]
        raise BadAnnotation(f"the label_id is {str(number_of)[:40]}; 0 to {len(self._labels) - 1} would be right")


def _read_item(item: _Item, document: dict[str, Any], split: Split) -> None:
    image = document.get("image") or document.get("media")
    key = item.picture(image)
    canvas = item.reading.canvas(key, item.where, _claimed(image))
    if canvas is None:
        return
    annotations = document.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise BadAnnotation("the annotations are no list of objects")
    require_few(annotations)
    whole = {label_of(item.label(each)) for each in annotations if each.get("type") == "label"}
    if len(whole) > 1:
        raise BadAnnotation(f"the picture has {len(whole)} classes as a whole; one would be right")
    made = [each for place, one in enumerate(annotations) for each in _region(item, one, canvas, place)]
    attributes = document.get("attr")
    said = isinstance(attributes, dict) and attributes.get(NOTHING_THERE) is True
    item.reading.take(key, item.where, split, made, label="".join(whole), nothing_there=said or not annotations)


def _claimed(image: object) -> Canvas | None:
    size = image.get("size") if isinstance(image, dict) else None
    if not size:
        return None
    if not isinstance(size, list) or len(size) != 2:
        raise BadAnnotation(f"the size is {str(size)[:40]}; height and width would be right")
    return Canvas(whole_number(size[1], "the width"), whole_number(size[0], "the height"))


def _region(item: _Item, entry: dict[str, Any], canvas: Canvas, place: int) -> Iterator[Annotation]:
    kind = entry.get("type")
    with item.reading.mistakes.at(f"{item.where}, annotation {str(entry.get('id', place))[:40]}"):
        if kind == "bbox":
            yield canvas.box(item.label(entry), corners_of(entry.get("bbox")), provenance_of(entry.get("attributes")))
        elif kind == "polygon":
            points = entry.get("points")
            if not isinstance(points, list):
                raise BadAnnotation("the points are no list")
            numbers = [number(each, "a coordinate") for each in points]
            yield canvas.polygon(item.label(entry), numbers, provenance_of(entry.get("attributes")))
        elif kind != "label":
            item.reading.leave_out(
                f"annotations of the type {escaped(kind, 40)} are left out; bbox, polygon and label are read"
            )


class Writer(Writing):
    """Writes annotations/SUBSET.json, and the pictures below images/SUBSET; the format can say everything."""

    says_classes = True

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        super().__init__(root, labels)
        self._items: dict[str, list[dict[str, Any]]] = {}

    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Note a picture that was written."""
        if picture.unlabelled:
            return
        annotations = [self._entry(each, canvas) for each in picture.annotations]
        if picture.label:
            annotations.append({"type": "label", "label_id": self.classes.of(picture.label)})
        subset = split_folder(SPLIT_WORDS.get(picture.split, ""))
        self._items.setdefault(subset, []).append(
            {
                "id": picture.path.stem,
                "annotations": [
                    {"id": number, "attributes": {}, "group": 0, **each} for number, each in enumerate(annotations)
                ],
                "attr": {NOTHING_THERE: True} if picture.nothing_there else {},
                "image": {
                    "path": picture.path.name,
                    **({"size": [canvas.height, canvas.width]} if canvas.width else {}),
                },
            }
        )

    def _entry(self, annotation: Annotation, canvas: Canvas) -> dict[str, Any]:
        region: dict[str, Any] = {"type": "polygon", "points": canvas.numbers(annotation)}
        if annotation.is_box:
            x_min, y_min, x_max, y_max = canvas.bounds(annotation)
            region = {"type": "bbox", "bbox": [x_min, y_min, round(x_max - x_min, 6), round(y_max - y_min, 6)]}
        number_of = self.classes.of(annotation.label)
        return {**region, "label_id": number_of, "z_order": 0, **draft_attributes(annotation.provenance)}

    def finish(self) -> Path:
        """Write the files, and return their folder."""
        folder = self.root / "annotations"
        labels = [{"name": label, "parent": "", "attributes": []} for label in self.classes]
        nothing: dict[str, list[dict[str, Any]]] = {"default": []}
        for subset, items in (self._items or nothing).items():
            document = {
                "dm_format_version": VERSION,
                "media_type": 2,
                "infos": {},
                "categories": {"label": {"labels": labels, "label_groups": [], "attributes": []}},
                "items": items,
            }
            write_text(folder / f"{subset}.json", json.dumps(document, ensure_ascii=False))
        return folder
