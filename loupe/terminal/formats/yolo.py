"""YOLO: data.yaml or classes.txt, and beside each picture's folder a text file with a line for each box or polygon.

Numbers are parts of the upright picture. An empty text file says that nothing is there; without one a picture is
unlabelled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from loupe.annotations import Annotation, BadAnnotation, box
from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED, Split
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas, polygon_of, written
from loupe.terminal.formats.documents import MAX_YAML_BYTES, number, peek, read_text, read_yaml
from loupe.terminal.formats.mistakes import Mistakes
from loupe.terminal.formats.picture_index import PictureIndex, files_below, require_inside, spelled
from loupe.terminal.formats.reading import Reading, require_few, split_of
from loupe.terminal.formats.writing import NO_CLASS, NO_DRAFT, Writing, split_folder, write_text
from loupe.terminal.picture_source import SPLIT_WORDS, Collection, LabelledPicture

NAME = "yolo"
CLASSES = ("classes.txt", "obj.names")
"""Files with a class a line: beside labels, and as Darknet has it."""
_KEYS = ("train", "val", "valid", "validation", "test")
_MOST_CLASSES = 10_000


def detect(source: Path) -> str | None:
    """Return which file speaks for YOLO; None where none does."""
    if found := _yaml_files(source):
        return f"{found[0].name} has names"
    if source.is_dir() and (classes := _classes_file(source)) is not None:
        return f"{classes.relative_to(source)} names the classes"
    return None


def root_of(source: Path) -> Path:
    """Return the folder that holds the pictures."""
    return source if source.is_dir() else source.parent


def read(source: Path, index: PictureIndex) -> Collection:
    """Read a folder, or the one that a data.yaml is in. Raises BadDataset that tells every mistake."""
    root = root_of(source)
    reading = Reading(source, NAME, index, whole=source.is_dir())
    names, pictures = _classes_and_pictures(reading, root)
    files, outside = files_below(root, lambda path: path.suffix.lower() == ".txt")
    labels = _LabelFiles(root, files, outside)
    if index.elsewhere:
        for file in labels.all():
            with reading.mistakes.at(file.name):
                _read_picture(reading, file.picture_in(index), SPLIT_UNSPECIFIED, names, file)
        return reading.finish()
    for key, split in pictures.items():
        with reading.mistakes.at(escaped(key, 200)):
            if (found := labels.of(key)) is not None:
                _read_picture(reading, key, split, names, found)
    for left in labels.left():
        reading.mistakes.add(left.name, "there is no picture of this name")
    return reading.finish()


def _classes_and_pictures(reading: Reading, root: Path) -> tuple[dict[int, str], dict[str, Split]]:
    """Return the classes by their numbers, and the pictures that are here with their splits. Raises BadDataset."""
    if found := _yaml_files(reading.found.source):
        path = next((each for each in found if each.stem.lower() == "data"), found[0])
        if len(found) > 1 and path.stem.lower() != "data":
            raise BadDataset(f"{root} has {len(found)} YAML files with names; name the one to read", problem="yolo")
        document = read_yaml(path)
        names = _names(path, document)
        if reading.index.elsewhere:
            return names, {}
        listed = any(document.get(word) for word in _KEYS)
        return names, _by_yaml(reading, path, document) if listed else _by_folders(reading.index)
    if (classes := _classes_file(root)) is not None:
        return _class_lines(classes), {} if reading.index.elsewhere else _by_lists(reading, root)
    raise BadDataset(f"{root} has neither a data.yaml with names nor a {' or a '.join(CLASSES)}", problem="yolo")


def _yaml_files(source: Path) -> list[Path]:
    candidates = sorted([*source.glob("*.yaml"), *source.glob("*.yml")]) if source.is_dir() else [source]
    return [
        each for each in candidates if each.suffix.lower() in (".yaml", ".yml") and each.is_file() and _has_names(each)
    ]


def _has_names(path: Path) -> bool:
    return any(line.startswith((b"names", b'"names"')) for line in peek(path, MAX_YAML_BYTES).splitlines())


def _classes_file(root: Path) -> Path | None:
    folders = [root, root / "labels", *sorted(root.glob("labels/*"))]
    return next((path for folder in folders for name in CLASSES if (path := folder / name).is_file()), None)


def _names(path: Path, document: Any) -> dict[int, str]:
    """Return the classes by their numbers. Raises BadDataset."""
    given = document.get("names") if isinstance(document, dict) else None
    if isinstance(given, list):
        given = {str(place): name for place, name in enumerate(given)}
    mistakes = Mistakes(path)
    names: dict[int, str] = {}
    if not isinstance(given, dict) or len(given) > _MOST_CLASSES:
        raise BadDataset(f"{path}: names is no list of classes, and no number and class for each", problem="yolo")
    for key, name in given.items():
        if not _is_class_number(key) or not isinstance(name, str) or not name or int(key) in names:
            mistakes.add(str(path), f'names has "{key[:40]}: {str(name)[:80]}"; a number and a class would be right')
        else:
            names[int(key)] = name
    if "kpt_shape" in document:
        mistakes.add(str(path), "kpt_shape: poses are not read; boxes and polygons are")
    if (count := document.get("nc")) is not None and count != str(len(given)):
        mistakes.add(str(path), f"nc is {str(count)[:40]}, and names has {len(given)} classes")
    return _unique(mistakes, path, names)


def _is_class_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9


def _class_lines(path: Path) -> dict[int, str]:
    lines = [line.strip() for line in read_text(path, 1 << 20).splitlines()]
    return _unique(Mistakes(path), path, {number: name for number, name in enumerate(lines) if name})


def _unique(mistakes: Mistakes, path: Path, names: dict[int, str]) -> dict[int, str]:
    for name, times in Counter(names.values()).items():
        if times > 1:
            mistakes.add(str(path), f'the class "{name[:80]}" has {times} numbers; one would be right')
    mistakes.require_none()
    return names


def _by_yaml(reading: Reading, path: Path, document: dict[str, Any]) -> dict[str, Split]:
    """Return the pictures that the splits name. Notes mistakes."""
    found: dict[str, Split] = {}
    for word in _KEYS:
        value = document.get(word)
        for entry in value if isinstance(value, list) else [value]:
            split = split_of(word)
            if not isinstance(entry, str) or not entry.strip() or split is None:
                continue
            where = f"{path.name}, {word}"
            with reading.mistakes.at(where):
                keys = _pictures_of(reading.index, path.parent, document, entry.strip())
                if not keys and word == "test":
                    reading.found.warnings.append(f'{where}: there are no pictures in "{escaped(entry, 200)}"')
                elif not keys:
                    raise BadAnnotation(f'there are no pictures in "{escaped(entry, 200)}" of {path.parent}')
                for key in keys:
                    if found.setdefault(key, split) != split:
                        raise BadAnnotation(f'"{escaped(key, 200)}" is in {SPLIT_WORDS[found[key]]}, too')
    return found


def _pictures_of(index: PictureIndex, folder: Path, document: dict[str, Any], entry: str) -> list[str]:
    """Return the pictures in the folder, or the list, that a split is. Raises BadAnnotation."""
    prefix = document.get("path")
    inside = isinstance(prefix, str) and not prefix.startswith(("/", "..", "~"))
    # Some tools write ../train/images into a data.yaml that stands beside train.
    entry = spelled(entry).removeprefix("../")
    require_inside(entry)
    for place in [f"{prefix}/{entry}", entry] if inside else [entry]:
        if place.endswith(".txt"):
            listing = folder / place
            if listing.is_file() and listing.resolve().is_relative_to(folder.resolve()):
                base = str(PurePosixPath(place).parent)
                lines = (line.strip() for line in read_text(listing).splitlines())
                return [index.find(line, ("" if base == "." else base, "")) for line in lines if line]
            continue
        start = "" if spelled(place).strip("./") == "" else f"{spelled(place).rstrip('/')}/"
        if keys := [key for key in index if key.startswith(start)]:
            return keys
    return []


def _is_list(name: str) -> bool:
    return "/" not in name and split_of(name.removesuffix(".txt")) is not None


def _by_lists(reading: Reading, root: Path) -> dict[str, Split]:
    """Return the pictures that Darknet's train.txt, valid.txt and test.txt list; without these, all."""
    lists = [path for path in sorted(root.glob("*.txt")) if _is_list(path.name)]
    found: dict[str, Split] = {}
    for path in lists:
        split = split_of(path.stem) or SPLIT_UNSPECIFIED
        for place, line in enumerate(read_text(path).splitlines(), start=1):
            with reading.mistakes.at(f"{path.name}, line {place}"):
                # Darknet runs in a folder that has the data set as its folder data.
                if (name := line.strip()) and found.setdefault(
                    reading.index.find(name.removeprefix("data/")), split
                ) != split:
                    raise BadAnnotation(f'"{escaped(name, 200)}" is in several lists; one would be right')
    return found if lists else _by_folders(reading.index)


def _by_folders(index: PictureIndex) -> dict[str, Split]:
    """Return all pictures with the splits that their folders are called by, if all are."""
    splits = {
        key: next((found for part in PurePosixPath(key).parts[:-1] if (found := split_of(part)) is not None), None)
        for key in index
    }
    whole = all(split is not None for split in splits.values())
    return {key: split if whole and split is not None else SPLIT_UNSPECIFIED for key, split in splits.items()}


class _LabelFile(NamedTuple):
    """A text file with the lines of one picture. name: its path relative to the root."""

    name: str
    path: Path

    def picture_in(self, index: PictureIndex) -> str:
        """Return the key of its picture by its name. Raises BadAnnotation."""
        parts = PurePosixPath(self.name).with_suffix("").parts
        own = [part for part in parts[:-1] if part != "labels" and split_of(part) is None]
        stem = str(PurePosixPath(*own, parts[-1]))
        if (found := index.with_stem(stem, [""])) is None:
            raise index.absent(stem)
        return found


class _LabelFiles:
    """The text files of a folder, and which of them belong to pictures."""

    def __init__(self, root: Path, paths: Sequence[Path], outside: Sequence[str]) -> None:
        names = [spelled(path.relative_to(root).as_posix()) for path in paths]
        self._files = {name: _LabelFile(name, path) for name, path in zip(names, paths, strict=True)}
        self._outside = {spelled(each) for each in outside}
        self._used: set[str] = set()
        self._folders: set[str] = set()

    def of(self, picture: str) -> _LabelFile | None:
        """Return a picture's file: in labels for images, else beside it. Raises BadAnnotation for a link outside."""
        path = PurePosixPath(picture)
        parts = list(path.parent.parts)
        places = [path.parent]
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            places.insert(0, PurePosixPath(*parts[:last], "labels", *parts[last + 1 :]))
        for place in places:
            self._folders.add(str(place))
            name = str(place / f"{path.stem}.txt")
            if name in self._outside:
                raise BadAnnotation(f"{name} is a link that leaves the folder; a file would be right")
            if name in self._files:
                self._used.add(name)
                return self._files[name]
        return None

    def all(self) -> list[_LabelFile]:
        """Return the files that may belong to pictures: those below a folder labels, or, without one, all."""
        found = [each for each in self._files.values() if each.path.name not in CLASSES and not _is_list(each.name)]
        return [each for each in found if "labels" in PurePosixPath(each.name).parts] or found

    def left(self) -> list[_LabelFile]:
        """Return the files that lie where those of pictures do, and belong to none."""
        return [
            each
            for each in self.all()
            if each.name not in self._used
            and str(PurePosixPath(each.name).parent) in self._folders
            and "labels" in PurePosixPath(each.name).parts
        ]


def _read_picture(reading: Reading, key: str, split: Split, names: dict[int, str], file: _LabelFile) -> None:
    made: list[Annotation] = []
    lines = read_text(file.path).splitlines()
    require_few(lines)
    for place, line in enumerate(lines, start=1):
        if fields := line.split():
            with reading.mistakes.at(f"{file.name}, line {place} ({escaped(key, 120)})"):
                made += _region(fields, names)
    reading.take(key, file.name, split, made, nothing_there=not any(map(str.strip, lines)))


def _region(fields: Sequence[str], names: dict[int, str]) -> Iterator[Annotation]:
    if not _is_class_number(fields[0]) or int(fields[0]) not in names:
        known = f"{min(names, default=0)} to {max(names, default=0)}"
        raise BadAnnotation(f"the class is {fields[0][:40]}; a number of a class, {known}, would be right")
    label = names[int(fields[0])]
    numbers = [number(field, "a coordinate") for field in fields[1:]]
    if len(numbers) == 4:
        x, y, width, height = numbers
        yield box(label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        yield polygon_of(label, numbers)
    else:
        raise BadAnnotation(
            f"{len(fields)} fields; a class and x, y, width and height, or x and y of 3 corners or more, would be right"
        )


class Writer(Writing):
    """Writes data.yaml, the pictures below images/SPLIT and a text file for each below labels/SPLIT."""

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        super().__init__(root, labels)
        self._splits: set[str] = set()

    def add(self, picture: LabelledPicture, _canvas: Canvas) -> None:
        """Write the lines of a picture that was written."""
        if picture.label:
            self.lose(NO_CLASS)
        if not picture.annotated:
            return
        split = split_folder(SPLIT_WORDS.get(picture.split, ""))
        self._splits.add(split)
        for each in picture.annotations:
            if each.provenance.open:
                self.lose(NO_DRAFT)
        path = self.root / "labels" / split / f"{picture.path.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(map(self._line, picture.annotations)), encoding="utf-8", newline="")

    def _line(self, annotation: Annotation) -> str:
        if annotation.is_box:
            x_min, y_min, x_max, y_max = annotation.bounds
            numbers = [(x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min]
        else:
            numbers = [value for point in annotation.points for value in point]
        return " ".join([str(self.classes.of(annotation.label)), *map(written, numbers)]) + "\n"

    def finish(self) -> Path:
        """Write data.yaml, and return it."""
        splits = [f"{split}: images/{split}" for split in ("train", "val", "test") if split in self._splits]
        # Texts of JSON are texts of YAML.
        names = [f"  {number}: {json.dumps(label, ensure_ascii=False)}" for number, label in enumerate(self.classes)]
        path = self.root / "data.yaml"
        write_text(path, "\n".join([*splits, f"nc: {len(names)}", "names:" if names else "names: []", *names, ""]))
        return path
