"""COCO: one JSON file for each split with images, categories and annotations, boxes and polygons in pixels."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loupe.annotations import Annotation, BadAnnotation
from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED, Split
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.documents import corners_of, members, number, peek, read_json, whole_number
from loupe.terminal.formats.drafts import draft_attributes, provenance_of
from loupe.terminal.formats.picture_index import PictureIndex
from loupe.terminal.formats.reading import Reading, require_few, split_of, text_of
from loupe.terminal.formats.writing import NO_CLASS, Writing, split_folder, write_text
from loupe.terminal.picture_source import SPLIT_WORDS, Collection, LabelledPicture

NAME = "coco"
_WINDOW = 256 << 10
_SKIPPED = "annotations are run-length masks or crowds, which are not read: they are left out"
_PARTS = "annotations have several parts: each part became a polygon of its own"


def detect(source: Path) -> str | None:
    """Return which file speaks for COCO; None where none does."""
    for path in sorted(files_of(source), key=lambda each: split_of_file(each) is None):
        return f"{path.relative_to(source) if path != source else path.name} has images and categories"
    return None


def files_of(source: Path) -> list[Path]:
    """Return the COCO files of a folder, of its folder annotations, or of its splits' folders; or the file itself."""
    return [each for each in json_files(source) if has_keys(each, b'"images"', b'"categories"')]


def json_files(source: Path) -> list[Path]:
    """Return the JSON files in a folder and one below it, or the file itself. Raises OSError."""
    if source.is_dir():
        return sorted(each for each in [*source.glob("*.json"), *source.glob("*/*.json")] if each.is_file())
    return [source] if source.suffix.lower() == ".json" else []


def has_keys(path: Path, *keys: bytes) -> bool:
    """Tell whether all of the keys stand near the beginning or the end of a file."""
    text = peek(path, _WINDOW)
    return all(key in text for key in keys)


def root_of(source: Path) -> Path:
    """Return the folder that holds the pictures: the source, or what a file is in, above a folder annotations."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name.lower() == "annotations" else source.parent


def read(source: Path, index: PictureIndex) -> Collection:
    """Read a folder or a file. Raises BadDataset that tells every mistake."""
    reading = Reading(source, NAME, index, whole=source.is_dir())
    for path, split in _chosen(reading, files_of(source) or json_files(source)):
        _File(reading, path, split).read()
    return reading.finish()


def _chosen(reading: Reading, files: Sequence[Path]) -> list[tuple[Path, Split]]:
    """Return the files to be read with their splits; of several those that name one, and of these the instances."""
    if not files:
        raise BadDataset(f"{reading.found.source} has no JSON file with images and categories", problem="coco")
    splits = {path: split_of_file(path) for path in files}
    instances = [path for path in files if path.stem.lower().startswith("instances")] or files
    named = [path for path in instances if splits[path] is not None] or instances
    left = [path.name for path in files if path not in named]
    if left:
        told = ", ".join(escaped(each, 80) for each in left[:5])
        reading.found.warnings.append(f"of {len(files)} files {len(named)} are read, which name a split; not: {told}")
    return [(path, splits[path] or SPLIT_UNSPECIFIED) for path in named]


def split_of_file(path: Path) -> Split | None:
    """Return the split that a file's name has a word for, or the name of its folder; None for none, or several.

    >>> split_of_file(Path("annotations/instances_val2017.json")), split_of_file(Path("valid/_annotations.coco.json"))
    (2, 2)
    """
    for text in (path.stem, path.parent.name):
        found = {split for word in re.split(r"[^A-Za-z]+", text) if (split := split_of(word)) is not None}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


class _File:
    """One file: its categories and images by id, its annotations by image."""

    def __init__(self, reading: Reading, path: Path, split: Split) -> None:
        self._reading = reading
        self._path = path
        self._split = split
        root = reading.index.root
        self._name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        tail = path.stem.removeprefix("instances_")
        place = path.parent.relative_to(root).as_posix() if path.parent.is_relative_to(root) else ""
        place = "" if place == "." else place
        self._folders = list(
            dict.fromkeys((f"images/{tail}", tail, place, f"{place}/images".lstrip("/"), "images", ""))
        )
        self._labels: dict[Any, str] = {}

    def read(self) -> None:
        """Add the file's pictures to the reading."""
        document = read_json(self._path)
        self._read_categories(members(document, "categories", self._path))
        images = self._by_id("image", members(document, "images", self._path))
        regions: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
        # Their own ids name nothing, and some tools write one twice.
        for entry in members(document, "annotations", self._path):
            image = entry.get("image_id")
            if isinstance(image, int | str) and image in regions:
                regions[image].append(entry)
            else:
                self._add(f"annotation {str(entry.get('id'))[:40]}", f"there is no image of the id {str(image)[:40]}")
        for key, entry in images.items():
            self._read_image(key, entry, regions[key])

    def _read_categories(self, entries: Sequence[dict[str, Any]]) -> None:
        for key, entry in self._by_id("category", entries).items():
            with self._reading.mistakes.at(f"{self._name}, category {key}"):
                self._labels[key] = text_of(entry.get("name"), "the name")
        for label, count in Counter(self._labels.values()).items():
            if count > 1:
                self._add(f'category "{label[:80]}"', f"the name belongs to {count} ids; one would be right")

    def _read_image(self, key: Any, entry: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> None:
        reading, name = self._reading, entry.get("file_name")
        where = f"{self._name}, image {key} ({escaped(name, 120)})"
        with reading.mistakes.at(where):
            found = reading.index.find(text_of(name, "the file_name"), self._folders)
            canvas = reading.canvas(found, where, claimed_size(entry))
            require_few(annotations)
            if canvas is not None:
                shown = escaped(name, 120)
                made = [each for one in annotations for each in self._regions(one, canvas, shown)]
                # What could not be read is something: nobody said that nothing is there.
                reading.take(found, where, self._split, made, nothing_there=not annotations)

    def _regions(self, entry: dict[str, Any], canvas: Canvas, picture: str) -> Iterator[Annotation]:
        reading = self._reading
        with reading.mistakes.at(f"{self._name}, annotation {str(entry.get('id'))[:40]} ({picture})"):
            label = self._label(entry.get("category_id"))
            segmentation = entry.get("segmentation")
            if isinstance(segmentation, dict) or entry.get("iscrowd") not in (None, 0, False):
                reading.leave_out(_SKIPPED)
                return
            made = provenance_of(entry.get("attributes"))
            if not segmentation:
                yield canvas.box(label, corners_of(entry.get("bbox")), made)
                return
            if not isinstance(segmentation, list) or not all(isinstance(each, list) for each in segmentation):
                raise BadAnnotation("the segmentation is not a list of polygons")
            if len(segmentation) > 1:
                reading.leave_out(_PARTS)
            for part in segmentation:
                yield canvas.polygon(label, [number(each, "a coordinate") for each in part], made)

    def _label(self, category: object) -> str:
        if isinstance(category, int | str) and category in self._labels:
            return self._labels[category]
        raise BadAnnotation(f"there is no category of the id {str(category)[:40]}")

    def _by_id(self, kind: str, entries: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
        """Return entries by their ids, in their order; note those whose id is missing, or taken."""
        found: dict[Any, dict[str, Any]] = {}
        for place, entry in enumerate(entries, start=1):
            key = entry.get("id")
            if isinstance(key, bool) or not isinstance(key, int | str):
                self._add(f"{kind} number {place}", f"the id is {str(key)[:40]!r}; a whole number would be right")
            elif key in found:
                self._add(f"{kind} {str(key)[:40]}", f"the id is there twice, again as {kind} number {place}")
            else:
                found[key] = entry
        return found

    def _add(self, where: str, what: str) -> None:
        self._reading.mistakes.add(f"{self._name}, {where}", what)


def claimed_size(entry: dict[str, Any]) -> Canvas | None:
    """Return the size that a file says; None where it says none."""
    if not entry.get("width") or not entry.get("height"):
        return None
    return Canvas(whole_number(entry["width"], "the width"), whole_number(entry["height"], "the height"))


class Writer(Writing):
    """Writes annotations/instances_SPLIT.json, and the pictures below images/SPLIT."""

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        super().__init__(root, labels)
        self._documents: dict[str, dict[str, list[Any]]] = {}
        self._regions = 0

    def add(self, picture: LabelledPicture, canvas: Canvas) -> None:
        """Note a picture that was written."""
        if picture.label:
            self.lose(NO_CLASS)
        if not picture.annotated:
            return
        document = self._documents.setdefault(
            split_folder(SPLIT_WORDS[picture.split]),
            {"images": [], "annotations": []},
        )
        images = document["images"]
        images.append(
            {
                "id": len(images) + 1,
                "file_name": picture.path.name,
                "width": canvas.width,
                "height": canvas.height,
            }
        )
        for each in picture.annotations:
            self._regions += 1
            document["annotations"].append(self._entry(each, canvas, len(images)))

    def _entry(self, annotation: Annotation, canvas: Canvas, image: int) -> dict[str, Any]:
        x_min, y_min, x_max, y_max = canvas.bounds(annotation)
        numbers = canvas.numbers(annotation)
        return {
            "id": self._regions,
            "image_id": image,
            "category_id": self.classes.of(annotation.label) + 1,
            "bbox": [x_min, y_min, _rounded(x_max - x_min), _rounded(y_max - y_min)],
            "segmentation": [] if annotation.is_box else [numbers],
            "area": _area(numbers),
            "iscrowd": 0,
            **draft_attributes(annotation.provenance),
        }

    def finish(self) -> Path:
        """Write the files, and return their folder."""
        categories = [
            {"id": number + 1, "name": label, "supercategory": ""} for number, label in enumerate(self.classes)
        ]
        folder = self.root / "annotations"
        nothing: dict[str, dict[str, list[Any]]] = {"default": {"images": [], "annotations": []}}
        for split, lists in (self._documents or nothing).items():
            document = {"info": {"description": split}, "licenses": [], "categories": categories, **lists}
            write_text(folder / f"instances_{split}.json", json.dumps(document, ensure_ascii=False))
        return folder


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 6)


def _area(numbers: Sequence[float]) -> float:
    xs, ys = numbers[::2], numbers[1::2]
    if len(xs) == 2:
        return _rounded((xs[1] - xs[0]) * (ys[1] - ys[0]))
    doubled = sum(xs[k - 1] * ys[k] - xs[k] * ys[k - 1] for k in range(len(xs)))
    return round(abs(doubled) / 2, 6)
