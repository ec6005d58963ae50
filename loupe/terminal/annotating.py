"""Which pictures of a version get which annotations: as a file of another tool says, or a person of some pictures."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from loupe.annotations import Annotation, BadAnnotation
from loupe.errors import BadDataset, InvalidArgument
from loupe.names import DatasetVersionName
from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.datasets import Datasets
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.picture_index import PictureIndex, spelled
from loupe.terminal.formats.sources import AUTO, detect, index_of, read_annotations
from loupe.terminal.hashing import hash_files
from loupe.terminal.named_pictures import find_pictures
from loupe.terminal.picture_source import LabelledPicture

SHOWN = 10
_NAMED = Path("/")


@dataclass
class FoundAnnotations:
    """What each picture is to be annotated with, by digest: nothing there is (), and None clears it."""

    annotated: dict[str, tuple[Annotation, ...] | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


async def find_annotations(
    datasets: Datasets,
    version: DatasetVersionName,
    source: Path | None,
    format: str = AUTO,
    *,
    nothing_there: Sequence[str] = (),
    clear: Sequence[str] = (),
) -> FoundAnnotations:
    """Return what pictures of a version are to be annotated with.

    nothing_there, clear: pictures, named as for find_pictures. Raises BadDataset that names what is wrong in the file,
    and pictures that the version does not have or that are named twice; InvalidArgument where nothing is said at all.
    """
    if source is None and not nothing_there and not clear:
        raise InvalidArgument(
            "nothing is to be changed; name a file or folder of annotations, --nothing-there or --clear", field="source"
        )
    found = FoundAnnotations()
    if source is not None:
        items = [item async for item in datasets.items(str(version))]
        await _add_source(found, source, format, items, str(version))
    named: list[tuple[str, tuple[Annotation, ...] | None]] = []
    if nothing_there:
        named += [(digest, ()) for digest in await find_pictures(datasets, version, nothing_there)]
    if clear:
        named += [(digest, None) for digest in await find_pictures(datasets, version, clear)]
    for digest, state in named:
        if digest in found.annotated:
            raise BadDataset(f"the picture {digest} is annotated twice by this command; say it once", digest=digest)
        found.annotated[digest] = state
    return found


async def _add_source(
    found: FoundAnnotations, source: Path, format: str, items: Sequence[DatasetItem], version: str
) -> None:
    local = await asyncio.to_thread(_local_index, source, format)
    index = local if len(local) else VersionIndex(items)
    collection = await asyncio.to_thread(read_annotations, source, format, index)
    found.warnings += collection.warnings
    pictures = [each for each in collection.pictures if each.annotated]
    if not pictures:
        raise BadDataset(f"{source} annotates no picture; expected boxes, polygons or pictures in which is nothing")
    if labelled := sum(bool(each.label) for each in collection.pictures):
        found.warnings.append(f"{labelled} pictures have a class as a whole, which stays as it is: relabel changes it")
    digests = await _digests(pictures, local, items)
    there = {item.digest for item in items}
    missing = [one.filename for one, digest in zip(pictures, digests, strict=True) if digest not in there]
    if missing or collection.unreadable:
        lacking = [*missing, *(each.filename for each in collection.unreadable)]
        raise BadDataset(
            f"{len(lacking)} pictures of {source} are not in {version}: {', '.join(lacking[:SHOWN])}; push or add them",
            problem="picture_name",
            count=len(lacking),
        )
    for one, digest in zip(pictures, digests, strict=True):
        if found.annotated.setdefault(digest, one.annotations) != one.annotations:
            raise BadDataset(
                f"{one.filename}: the same picture is annotated otherwise under another name", digest=digest
            )


def _local_index(source: Path, format: str) -> PictureIndex:
    return index_of(source, detect(source)[0] if format == AUTO else format)


async def _digests(
    pictures: Sequence[LabelledPicture], local: PictureIndex, items: Sequence[DatasetItem]
) -> Sequence[str]:
    if len(local):
        return [each.digest for each in await hash_files([each.path for each in pictures], lambda progress: None)]
    names: Mapping[Path, str] = {_NAMED / item.filename: item.digest for item in items}
    return [names[each.path] for each in pictures]


class VersionIndex(PictureIndex):
    """The pictures of a version by their names there; also by the last parts of these, if one alone has them."""

    def __init__(self, items: Sequence[DatasetItem]) -> None:
        super().__init__(_NAMED, [_NAMED / item.filename for item in items if item.filename])
        self._sizes = {_NAMED / item.filename: Canvas(item.width, item.height) for item in items}

    def find(self, name: str, folders: Sequence[str] = ("",)) -> str:
        """Return the key of a picture by its whole name, or the end of it. Raises BadAnnotation."""
        try:
            return super().find(name, folders)
        except BadAnnotation:
            if found := self._ending(spelled(name), self._by_last_part):
                return found
            raise

    def with_stem(self, stem: str, folders: Sequence[str]) -> str | None:
        """Return the key of the picture that has a name but for its ending. Raises BadAnnotation where several have."""
        return super().with_stem(stem, folders) or self._ending(stem, self._by_last_stem)

    def _ending(self, name: str, by_last_part: Mapping[str, Sequence[str]]) -> str | None:
        """Return the one picture whose name ends as this one does, or the other way round."""
        parts = PurePosixPath(name).parts
        found = [
            key
            for key in by_last_part.get(parts[-1] if parts else "", ())
            if _agree(PurePosixPath(key).parts[:-1], parts[:-1])
        ]
        if len(found) > 1 or (found and len(self._paths[found[0]]) > 1):
            raise BadAnnotation(f'"{name[:200]}" is several pictures of the version; name the whole path')
        return found[0] if found else None

    @functools.cached_property
    def _by_last_part(self) -> Mapping[str, Sequence[str]]:
        return _grouped(self, lambda path: path.name)

    @functools.cached_property
    def _by_last_stem(self) -> Mapping[str, Sequence[str]]:
        return _grouped(self, lambda path: path.stem)

    elsewhere = True

    def absent(self, name: str) -> BadAnnotation:
        """Make the error for a picture that the version does not have."""
        return BadAnnotation(f'the version has no picture "{name[:200]}"')

    def size(self, key: str, claimed: Canvas | None = None) -> Canvas:
        """Return the size that the version knows, else the one that the annotation file says. Raises BadAnnotation."""
        known = self._sizes[self.path(key)]
        if known.width and known.height:
            return known
        if claimed is None:
            raise BadAnnotation(
                "its size is known neither here nor in the version; put the pictures beside the annotations"
            )
        return claimed


def _agree(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether the last folders of two paths are the same, as far as the shorter one goes."""
    return all(a == b for a, b in zip(reversed(one), reversed(other), strict=False))


def _grouped(keys: Iterable[str], last: Callable[[PurePosixPath], str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(last(PurePosixPath(key)), []).append(key)
    return found
