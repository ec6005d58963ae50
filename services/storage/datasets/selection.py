"""From the items that a terminal names to the items of a version: what is left out, who goes where, what to warn of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loupe.errors import BadDataset, invalid
from services.storage.datasets.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Fractions,
    assign_splits,
    crossing_clusters,
)
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import Problem, Verdict
from services.storage.pictures.near_duplicates import Clusters, find_clusters
from services.storage.pictures.notes import summary
from services.storage.pictures.store import BROKEN, IndexRow

_NAMES = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}
_NAMED_AT_MOST = 5


@dataclass
class Selection:
    """A version in the making: its items in their final order, and what is to be said about the rest.

    refused are verdicts over pictures that cannot be taken; repeated are those over files that were named twice.
    """

    items: list[ItemRow]
    refused: list[Verdict]
    repeated: list[Verdict]
    given: bool = False
    near_duplicate_clusters: int = 0
    warnings: list[str] = field(default_factory=list)


def label_counts(items: Sequence[ItemRow]) -> dict[str, Counter[int]]:
    """Count the pictures of each class in each split; the classes are sorted."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for item in items:
        counts[item.label][item.split] += 1
    return dict(sorted(counts.items()))


def select(items: Sequence[ItemRow], index: Mapping[str, IndexRow], fractions: Fractions, seed: int) -> Selection:
    """Make a version's items of what was named and of what decoding the pictures told.

    Items are ordered by label and digest, so that the order of upload changes nothing. Raises BadDataset when nothing
    can be trained on them, InvalidArgument when only some items say their split.
    """
    given = _split_is_given(items)
    selection = _leave_out(items, index)
    selection.given = given
    _require_classes(selection)
    kept = selection.items
    digests, labels = [item.digest for item in kept], [item.label for item in kept]
    clusters = _clusters(digests, labels, index)
    cluster_of = clusters.of.tolist()
    splits = [item.split for item in kept] if given else assign_splits(digests, labels, cluster_of, fractions, seed)
    crossing = crossing_clusters(cluster_of, splits)
    selection.near_duplicate_clusters = clusters.count() - crossing
    selection.items = sorted(
        (replace(item, split=split) for item, split in zip(kept, splits, strict=True)),
        key=lambda item: (item.label, item.digest),
    )
    _require_splits(selection.items)
    selection.warnings += _warnings(selection.items, clusters, crossing)
    return selection


def _split_is_given(items: Sequence[ItemRow]) -> bool:
    said = [item for item in items if item.split]
    if said and len(said) != len(items):
        silent = next(item for item in items if not item.split)
        raise invalid(
            "split",
            silent.filename or silent.digest,
            f"a split for every item or for none; {len(said)} of {len(items)} items say theirs",
        )
    return bool(said)


def _leave_out(items: Sequence[ItemRow], index: Mapping[str, IndexRow]) -> Selection:
    by_digest: defaultdict[str, list[ItemRow]] = defaultdict(list)
    for item in items:
        by_digest[item.digest].append(item)
    chosen = Selection([], [], [])
    parted = 0
    noted: list[tuple[str, str]] = []
    for digest, same in sorted(by_digest.items()):
        labels = sorted({item.label for item in same})
        if len(labels) > 1:
            message = "the same file is labelled " + " and ".join(repr(label) for label in labels[:_NAMED_AT_MOST])
            problem = Problem.CONFLICTING_LABEL
            chosen.refused += [Verdict(digest, problem, f"{message} ({_called(item)})") for item in same]
        elif index[digest].state == BROKEN:
            problem = Problem.BROKEN
            chosen.refused += [Verdict(digest, problem, f"{_called(item)}: {index[digest].problem}") for item in same]
        else:
            best = min(same, key=lambda item: (item.split, item.filename))
            parted += len({item.split for item in same}) > 1
            noted.append((_called(best), index[digest].problem))
            chosen.items.append(replace(best, size=index[digest].size))
            message = f"the very same file as {_called(best)}"
            chosen.repeated += [Verdict(digest, Problem.DUPLICATE, message)] * (len(same) - 1)
    chosen.warnings += summary(noted)
    if parted:
        chosen.warnings.append(
            f"{parted} files were given in more than one split; each is kept in the first of training, validation, test"
        )
    return chosen


def _called(item: ItemRow) -> str:
    return item.filename or item.digest[:12]


def _require_classes(selection: Selection) -> None:
    labels = {item.label for item in selection.items}
    left_out = f"; {len(selection.refused)} were left out: {selection.refused[0].message}" if selection.refused else ""
    if not labels:
        raise BadDataset(f"no picture could be taken{left_out}", problem="empty")
    if len(labels) == 1:
        only = next(iter(labels))
        message = f"all {len(selection.items)} pictures are of the class {only!r}; at least two classes are needed"
        raise BadDataset(message + left_out, problem="one_class", **{"class": only})


def _clusters(digests: Sequence[str], labels: Sequence[str], index: Mapping[str, IndexRow]) -> Clusters:
    rows = [index[digest] for digest in digests]
    hashes = np.frombuffer(b"".join(row.perceptual_hash or b"" for row in rows), dtype=">u8").astype(np.uint64)
    thumbnails = np.frombuffer(b"".join(row.thumbnail or b"" for row in rows), np.uint8).reshape(len(rows), -1)
    return find_clusters(hashes, thumbnails, labels)


def _require_splits(items: Sequence[ItemRow]) -> None:
    there = {item.split for item in items}
    for split in (TRAIN, VALIDATION):
        if split not in there:
            raise BadDataset(
                f"none of the {len(items)} pictures is for {_NAMES[split]}; add pictures, or let Loupe make the split",
                problem="empty_split",
                split=_NAMES[split],
            )


def _warnings(items: Sequence[ItemRow], clusters: Clusters, crossing: int) -> list[str]:
    said = []
    counts = label_counts(items)
    totals = {label: sum(each.values()) for label, each in counts.items()}
    if alone := sorted(label for label, total in totals.items() if total == 1):
        said.append(f"{_listed(alone)}: one picture only; it can be learned from or tested on, not both")
    there = {item.split for item in items}
    for split in SPLITS:
        without = sorted(label for label, each in counts.items() if not each[split] and totals[label] > 1)
        if split not in there:
            said.append(f"no picture is for {_NAMES[split]}")
        elif without:
            said.append(f"{_listed(without)}: no picture for {_NAMES[split]}")
    if crossing:
        said.append(
            f"{crossing} groups of nearly the same pictures stand on both sides of the given split; "
            "measured accuracy will be too good"
        )
    if clusters.dissolved:
        said.append(
            f"{clusters.dissolved} pictures look so much alike that likeness was not used to keep them together; "
            "if several show the same part, give the split yourself"
        )
    return said


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:_NAMED_AT_MOST])
    more = f" and {len(labels) - _NAMED_AT_MOST} more" if len(labels) > _NAMED_AT_MOST else ""
    return ("classes " if len(labels) > 1 else "class ") + shown + more
