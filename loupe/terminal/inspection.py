"""What a push looks at on this machine before anything is made at the mesh: can these pictures become a data set?"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loupe import picture
from loupe.errors import BadDataset
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1.dataset_pb2 import SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VALIDATION
from loupe.terminal.hashing import cannot_be_read
from loupe.terminal.picture_source import SPLIT_WORDS, LabelledPicture

SIDE = 16

Addressed = tuple[LabelledPicture, str]
"""A picture and the sha256 of its file, hex."""

KINDS = {
    "not_a_picture": blobs.PICTURE_PROBLEM_NOT_A_PICTURE,
    "unsupported_format": blobs.PICTURE_PROBLEM_UNSUPPORTED_FORMAT,
    "too_large": blobs.PICTURE_PROBLEM_TOO_LARGE,
    "broken": blobs.PICTURE_PROBLEM_BROKEN,
}


def inspect_picture(path: Path, digest: str) -> blobs.PictureVerdict | None:
    """Return what storage would say of a file, from its header to its last pixel; None where it is fine."""
    try:
        with path.open("rb") as file:
            # One byte more than is taken lets the decoder refuse a file that is too large, whatever its size.
            picture.decode(file.read(picture.MAX_BYTES + 1), SIDE, SIDE)
    except picture.BadPicture as error:
        return blobs.PictureVerdict(digest=digest, problem=KINDS[error.kind], message=str(error))
    except OSError as error:
        return blobs.PictureVerdict(digest=digest, problem=blobs.PICTURE_PROBLEM_BROKEN, message=cannot_be_read(error))
    return None


def inspect_pictures(
    pictures: Sequence[Addressed], show: Callable[[int], None] = lambda count: None
) -> list[blobs.PictureVerdict]:
    """Return a verdict for every picture that storage would not take, also for one that is in two classes."""
    conflicts = conflicting(pictures)
    paths = {digest: one.path for one, digest in pictures if digest not in conflicts}
    found = [
        blobs.PictureVerdict(
            digest=digest,
            problem=blobs.PICTURE_PROBLEM_CONFLICTING_LABEL,
            message=_conflict(labels),
        )
        for digest, labels in conflicts.items()
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        verdicts = pool.map(inspect_picture, paths.values(), paths)
        for count, verdict in enumerate(verdicts, start=1):
            found += [verdict] if verdict is not None else []
            show(count)
    return found


def conflicting(pictures: Iterable[Addressed]) -> dict[str, list[str]]:
    """Return the labels of each file that is in more than one class, or annotated in more than one way, by digest."""
    said: defaultdict[str, set[tuple[object, ...]]] = defaultdict(set)
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for one, digest in pictures:
        said[digest].add((one.label, one.annotations, one.nothing_there))
        labels[digest].add(one.label)
    return {digest: sorted(labels[digest]) for digest, found in said.items() if len(found) > 1}


def _conflict(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return "the same file is annotated in several ways"
    return f"the same file is labelled {' and '.join(repr(label) if label else 'not at all' for label in labels)}"


def require_trainable(source: Path, pictures: Sequence[Addressed], left_out: int) -> None:
    """Raise BadDataset unless a class, and where splits are given both training and validation, hold a picture.

    Where all are unlabelled none needs to. A picture counts when it can be decoded; no more are looked at than it takes
    to know. What is refused here would be refused by storage when the data set is made already, and stay there empty.
    """
    if pictures and all(one.unlabelled for one, _ in pictures):
        return
    good: Counter[str] = Counter()
    splits: set[int] = set()
    for one, digest in pictures:
        if one.unlabelled or (all(good[label] for label in one.classes) and one.split in splits):
            continue
        if inspect_picture(one.path, digest) is None:
            good.update(one.classes)
            splits.add(one.split)
    note = f" when {left_out} pictures that cannot be taken are left out" if left_out else ""
    if not +good:
        raise BadDataset(f"of {source} no class is left{note}; expected at least one", problem="no_class")
    if SPLIT_UNSPECIFIED in splits:
        return
    for split in (SPLIT_TRAIN, SPLIT_VALIDATION):
        if split not in splits:
            word = SPLIT_WORDS[split]
            raise BadDataset(
                f"of {source} no picture is for {word}{note}; add some, or let Loupe make the split",
                problem="empty_split",
                split=word,
            )
