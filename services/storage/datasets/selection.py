"""From the items that a terminal names to the items of a version: what is left out, who goes where, what to warn of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loupe.errors import BadDataset, invalid
from services.storage.datasets.history import NOTHING_BEFORE, History
from services.storage.datasets.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Policy,
    assign_splits,
    crossing_clusters,
    leading_splits,
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


def select(
    items: Sequence[ItemRow],
    index: Mapping[str, IndexRow],
    policy: Policy,
    history: History = NOTHING_BEFORE,
) -> Selection:
    """Make a version's items of what was named, of what decoding the pictures told, and of the versions before.

    Pictures keep the split that history says; the others are divided by the policy, those with a near-duplicate in test
    to test. index: of the items' pictures, and of those that were tested as far as they are there. Items are ordered
    by label and digest, so that the order of upload changes nothing. Raises BadDataset when nothing can be trained on
    them, InvalidArgument when only some items say their split.
    """
    given = split_is_given(items)
    selection = leave_out(items, index)
    selection.given = given
    require_classes({item.label for item in selection.items}, len(selection.items), selection.refused)
    kept = selection.items
    absent = {} if given else _tested_elsewhere(kept, index, history)
    clusters = cluster(
        [*(item.digest for item in kept), *absent], [*(item.label for item in kept), *absent.values()], index
    )
    cluster_of = clusters.of.tolist()
    splits = [item.split for item in kept] if given else _divide(kept, cluster_of, policy, history)
    crossing = crossing_clusters(cluster_of[: len(kept)], splits)
    selection.near_duplicate_clusters = near_duplicates(cluster_of[: len(kept)]) - crossing
    selection.items = sorted(
        (replace(item, split=split) for item, split in zip(kept, splits, strict=True)),
        key=lambda item: (item.label, item.digest),
    )
    counts = label_counts(selection.items)
    require_splits(counts)
    selection.warnings += [*warnings(counts), *_likeness_warnings(clusters, crossing, given)]
    return selection


def _tested_elsewhere(kept: Sequence[ItemRow], index: Mapping[str, IndexRow], history: History) -> dict[str, str]:
    """Return the labels of pictures that were in test and are not in this version, as far as they are still there."""
    here = {item.digest for item in kept}
    return {
        digest: label
        for digest, label in history.tested.items()
        if digest not in here and digest in index and index[digest].perceptual_hash
    }


def _divide(kept: Sequence[ItemRow], cluster_of: Sequence[int], policy: Policy, history: History) -> list[int]:
    """Return the split of each item; cluster_of goes on with those of tested pictures beside them."""
    fixed = [history.split_of(item.digest) for item in kept]
    standing = [*fixed, *[TEST] * (len(cluster_of) - len(kept))]
    fast = [place for place, split in enumerate(standing) if split]
    fresh = [place for place, split in enumerate(fixed) if not split]
    chosen = assign_splits(
        [kept[place].digest for place in fresh],
        [kept[place].label for place in fresh],
        [cluster_of[place] for place in fresh],
        policy.fractions,
        policy.seed,
        leading=leading_splits([cluster_of[place] for place in fast], [standing[place] for place in fast]),
        placed=label_counts([replace(item, split=split) for item, split in zip(kept, fixed, strict=True) if split]),
    )
    for place, split in zip(fresh, chosen, strict=True):
        fixed[place] = split
    return fixed


def near_duplicates(cluster_of: Sequence[int]) -> int:
    """Count the clusters of more than one picture."""
    return sum(size > 1 for size in Counter(cluster_of).values())


def split_is_given(items: Sequence[ItemRow]) -> bool:
    """Return whether the items say their split. Raises InvalidArgument when only some do."""
    said = [item for item in items if item.split]
    if said and len(said) != len(items):
        silent = next(item for item in items if not item.split)
        raise invalid(
            "split",
            silent.filename or silent.digest,
            f"a split for every item or for none; {len(said)} of {len(items)} items say theirs",
        )
    return bool(said)


def leave_out(items: Sequence[ItemRow], index: Mapping[str, IndexRow]) -> Selection:
    """Keep each picture once, and leave out those that cannot be decoded or have two labels."""
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


def require_classes(labels: Collection[str], count: int, refused: Sequence[Verdict]) -> None:
    """Raise BadDataset unless `count` pictures are of at least two classes."""
    left_out = f"; {len(refused)} were left out: {refused[0].message}" if refused else ""
    if not labels:
        raise BadDataset(f"no picture could be taken{left_out}", problem="empty")
    if len(labels) == 1:
        only = next(iter(labels))
        message = f"all {count} pictures are of the class {only!r}; at least two classes are needed"
        raise BadDataset(message + left_out, problem="one_class", **{"class": only})


def cluster(
    digests: Sequence[str],
    labels: Sequence[str],
    index: Mapping[str, IndexRow],
    class_sizes: Mapping[str, int] | None = None,
) -> Clusters:
    """Find near-duplicates among whole pictures; see find_clusters."""
    rows = [index[digest] for digest in digests]
    hashes = unpack_hashes(b"".join(row.perceptual_hash or b"" for row in rows))
    thumbnails = np.frombuffer(b"".join(row.thumbnail or b"" for row in rows), np.uint8).reshape(len(rows), 256)
    return find_clusters(hashes, thumbnails, labels, class_sizes)


def unpack_hashes(packed: bytes) -> np.ndarray:
    """Return perceptual hashes of 8 bytes each as uint64 [n]."""
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)


def require_splits(counts: Mapping[str, Mapping[int, int]]) -> None:
    """Raise BadDataset unless there are pictures for training and for validation; counts as of label_counts."""
    there = {split for each in counts.values() for split in SPLITS if each.get(split)}
    count = sum(sum(each.values()) for each in counts.values())
    for split in (TRAIN, VALIDATION):
        if split not in there:
            raise BadDataset(
                f"none of the {count} pictures is for {_NAMES[split]}; add pictures, or let Loupe make the split",
                problem="empty_split",
                split=_NAMES[split],
            )


def warnings(counts: Mapping[str, Mapping[int, int]]) -> list[str]:
    """Return sentences over classes and splits that have too few pictures; counts as of label_counts."""
    said = []
    totals = {label: sum(each.values()) for label, each in counts.items()}
    if alone := sorted(label for label, total in totals.items() if total == 1):
        said.append(f"{_listed(alone)}: one picture only; it can be learned from or tested on, not both")
    there = {split for each in counts.values() for split in SPLITS if each.get(split)}
    for split in SPLITS:
        without = sorted(label for label, each in counts.items() if not each.get(split) and totals[label] > 1)
        if split not in there:
            said.append(f"no picture is for {_NAMES[split]}")
        elif without:
            said.append(f"{_listed(without)}: no picture for {_NAMES[split]}")
    return said


def _likeness_warnings(clusters: Clusters, crossing: int, given: bool) -> list[str]:
    said = []
    if crossing:
        which = "the given split" if given else "the split, where pictures keep the one that they had"
        said.append(
            f"{crossing} groups of nearly the same pictures stand on both sides of {which}; "
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
