"""What every reader does alike: sizes held against the pictures, each picture once, the rest unlabelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import replace
from pathlib import Path

from loupe.annotations import MAX_REGIONS, Annotation, BadAnnotation, normalise
from loupe.errors import BadDataset
from loupe.labels import RULE, normalise_label
from loupe.picture import BadPicture
from loupe.picture_folders import SPLIT_NAMES
from loupe.storage.v1.dataset_pb2 import SPLIT_UNSPECIFIED, Split
from loupe.terminal.escapes import decoded, escaped
from loupe.terminal.formats.canvas import Canvas
from loupe.terminal.formats.mistakes import Mistakes
from loupe.terminal.formats.picture_index import PictureIndex
from loupe.terminal.hashing import cannot_be_read
from loupe.terminal.picture_source import LONGEST_FILENAME, SPLITS, Collection, LabelledPicture, Skipped


class Reading:
    """One source on its way to a collection.

    whole: whether the source is a folder, of which the pictures that are not named are unlabelled ones.
    """

    def __init__(self, source: Path, format: str, index: PictureIndex, *, whole: bool) -> None:
        self.found = Collection(source, format=format)
        self.mistakes = Mistakes(source)
        self.index = index
        self._whole = whole
        self._where: dict[str, str] = {}
        self._left_out: Counter[str] = Counter()

    def canvas(self, key: str, where: str, claimed: Canvas | None = None) -> Canvas | None:
        """Return a picture's size; None where it cannot be read, which is noted, or where the file says another one.

        claimed: what the annotation file says, if it does.
        """
        try:
            actual = self.index.size(key, claimed)
        except (BadPicture, OSError) as error:
            reason = cannot_be_read(error) if isinstance(error, OSError) else str(error)
            self._where[key] = where
            self.found.unreadable.append(Skipped(self._filename(key), reason))
            return None
        if claimed is not None and claimed != actual:
            turned = claimed == (actual.height, actual.width)
            self.mistakes.add(
                where,
                f"the size is {claimed.width}x{claimed.height}, but the picture has {actual.width}x{actual.height}"
                " when it is held as its EXIF says"
                + (
                    "; a tool that does not look at EXIF changes width and height over"
                    if turned
                    else "; it may be another picture"
                ),
            )
            return None
        return actual

    def take(
        self,
        key: str,
        where: str,
        split: Split,
        annotations: Iterable[Annotation] = (),
        *,
        label: str = "",
        nothing_there: bool = False,
    ) -> None:
        """Take a picture. Notes a mistake where it was taken before."""
        if (before := self._where.setdefault(key, where)) != where:
            self.mistakes.add(where, f"the picture was named before, {before}; once would be right")
            return
        with self.mistakes.at(where):
            given = list(annotations)
            kept = normalise(given)
            self.leave_out(
                "annotations say the same as another one of the picture: each is kept once", len(given) - len(kept)
            )
            made = LabelledPicture(
                self.index.path(key), label, split, self._filename(key), kept, nothing_there and not kept
            )
            self.found.pictures.append(made)

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count something that is not taken, for a warning. what: the words that follow the number."""
        self._left_out[what] += count

    def finish(self) -> Collection:
        """Return all pictures by name. Raises BadDataset that tells every mistake."""
        self.mistakes.require_none()
        found = self.found
        rest = [key for key in self.index if key not in self._where]
        if self._whole:
            found.pictures += [
                LabelledPicture(self.index.path(key), "", SPLIT_UNSPECIFIED, self._filename(key)) for key in rest
            ]
        found.pictures = [
            replace(each, split=SPLIT_UNSPECIFIED) if each.unlabelled else each
            for each in sorted(found.pictures, key=lambda each: each.filename)
        ]
        unsplit = [each for each in found.pictures if not each.unlabelled and each.split == SPLIT_UNSPECIFIED]
        if found.given and unsplit:
            raise BadDataset(
                f"{found.source}: {len(unsplit)} pictures have no split and others have, the first:"
                f" {unsplit[0].filename}; expected a split of every picture that is labelled, or of none",
                problem="split",
            )
        found.warnings += [f"{count} {what}" for what, count in self._left_out.items() if count]
        return found

    def _filename(self, key: str) -> str:
        return escaped(decoded(self.index.path(key).relative_to(self.index.root).as_posix()), LONGEST_FILENAME)


def require_few(regions: Sized) -> None:
    """Raise BadAnnotation for more regions than a picture may have, before each of them is looked at."""
    if len(regions) > MAX_REGIONS:
        raise BadAnnotation(f"{len(regions)} annotations of one picture; at most {MAX_REGIONS} are taken")


def split_of(word: str) -> Split | None:
    """Return the split that a word names in any case, None where it names none.

    >>> split_of("Val"), split_of("holdout")
    (2, None)
    """
    name = SPLIT_NAMES.get(word.lower())
    return SPLITS[name] if name else None


def text_of(value: object, what: str) -> str:
    """Return a text of a document. Raises BadAnnotation for what is none, or has nothing in it."""
    if not isinstance(value, str) or not value:
        raise BadAnnotation(f"{what} is {str(value)[:80]!r}; a text would be right")
    return value


def label_of(text: str) -> str:
    """Return a class of a picture as a whole. Raises BadAnnotation for what cannot be one."""
    try:
        return normalise_label(text)
    except ValueError as error:
        raise BadAnnotation(f"the class {text[:150]!a} {error}; expected {RULE}") from error
