"""Finding the pictures that an annotation file names: inside of one folder, whatever their names are spelled like."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from loupe import picture
from loupe.annotations import BadAnnotation
from loupe.errors import invalid
from loupe.picture_folders import SUFFIXES
from loupe.terminal.escapes import escaped
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.picture_source import looks_like_picture

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def spelled(name: str) -> str:
    """Return a name as it is looked up: with one spelling of composed letters, and slashes."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def require_inside(name: str) -> None:
    """Raise BadAnnotation for a path that leaves the folder that it is relative to."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith(("/", "\\")) or _DRIVE.match(name) or "\0" in name:
        raise BadAnnotation(f'the path "{escaped(name, 200)}" leaves the folder; one below it would be right')


class PictureIndex:
    """The pictures of a folder by their paths relative to it, each with its size.

    root: what paths are relative to. elsewhere: whether the files are not here, but in a version.
    """

    elsewhere = False

    def __init__(self, root: Path, paths: Iterable[Path], outside: Iterable[str] = ()) -> None:
        self.root = root
        self._paths: dict[str, list[Path]] = {}
        self._outside = {spelled(each) for each in outside}
        for path in paths:
            self._paths.setdefault(spelled(path.relative_to(root).as_posix()), []).append(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, name: str, folders: Sequence[str] = ("",)) -> str:
        """Return the key of the picture that a file calls `name`, relative to the first of the folders that has it.

        Raises BadAnnotation for none, for two that differ in the spelling of their names alone, and for a path that
        leaves the folder, itself or by a link.
        """
        require_inside(name)
        for folder in folders:
            key = spelled(f"{folder}/{name}" if folder else name)
            if key in self._outside:
                raise BadAnnotation(f'"{escaped(name, 200)}" is a link that leaves the folder; a file would be right')
            if len(found := self._paths.get(key, ())) == 1:
                return key
            if found:
                raise BadAnnotation(f'"{escaped(name, 200)}" is {len(found)} files whose names are spelled otherwise')
        raise self.absent(name)

    def with_stem(self, stem: str, folders: Sequence[str]) -> str | None:
        """Return the key of the picture that has a name but for its ending; None where none has.

        Raises BadAnnotation where several have.
        """
        for folder in folders:
            found = self._stems.get(spelled(f"{folder}/{stem}" if folder else stem), [])
            if len(found) > 1:
                raise BadAnnotation(f'"{escaped(stem, 200)}" is {len(found)} pictures with other endings')
            if found:
                return found[0]
        return None

    @functools.cached_property
    def _stems(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for key in self._paths:
            stems.setdefault(str(PurePosixPath(key).with_suffix("")), []).append(key)
        return stems

    def absent(self, name: str) -> BadAnnotation:
        """Make the error for a picture that is not there."""
        return BadAnnotation(f'there is no picture "{escaped(name, 200)}" in {self.root}')

    def path(self, key: str) -> Path:
        """Return where a picture is."""
        return self._paths[key][0]

    def size(self, key: str, _claimed: Canvas | None = None) -> Canvas:
        """Return the size of the upright picture, as its own file says. Raises BadPicture, OSError."""
        with self.path(key).open("rb") as file:
            return Canvas(*picture.upright_size(file.read(picture.MAX_BYTES + 1)))


def index_folder(root: Path) -> PictureIndex:
    """Look for the pictures below a folder, by their names' endings or, without one, their first bytes.

    Links to folders are not followed. Raises InvalidArgument.
    """
    paths, outside = files_below(root, _is_picture)
    return PictureIndex(root, paths, outside)


def files_below(root: Path, wanted: Callable[[Path], bool]) -> tuple[list[Path], list[str]]:
    """Return the files below a folder that are wanted and not hidden, in order, and the links that lead out of it.

    Raises InvalidArgument.
    """
    paths: list[Path] = []
    outside: list[str] = []
    whole = root.resolve()

    def unreadable(error: OSError) -> None:
        raise invalid("source", error.filename, f"a folder that can be read ({error.strerror})") from error

    for place, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for path in (Path(place, name) for name in sorted(files) if not name.startswith(".")):
            if path.is_symlink() and not path.resolve().is_relative_to(whole):
                outside.append(path.relative_to(root).as_posix())
            elif wanted(path):
                paths.append(path)
    return paths, outside


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix:
        return suffix in SUFFIXES
    try:
        return path.is_file() and looks_like_picture(path)
    except OSError:  # whoever needs it will say that it is not there
        return False
