"""From the items that a terminal names to the items of a version: what is left out, who goes where, what to warn of."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loupe.annotations import identity
from loupe.errors import BadDataset, invalid
from services.storage.datasets.class_splits import divide_classes, left_out, near_test
from services.storage.datasets.counts import NO_SPLIT, Counts, Strata, count
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


def select(
    items: Sequence[ItemRow],
    index: Mapping[str, IndexRow],
    policy: Policy,
    history: History = NOTHING_BEFORE,
) -> Selection:
    """Make a version's items of what was named, of what decoding the pictures told, and of the versions before.

    Pictures keep the split that history says; the others are divided by the policy, those with a near-duplicate in test
    to test; unlabelled ones are in no split. index: of the items' pictures, and of those that were tested as far as
    they are there. Items are ordered by label and digest, so that the order of upload changes nothing. Raises
    BadDataset when nothing can be trained on the labelled ones, InvalidArgument when only some of these say theirs.
    """
    given = split_is_given(items)
    selection = leave_out(items, index)
    selection.given = given
    named = count(selection.items)
    require_classes(named, selection.refused)
    strata = Strata(named.regions)
    kept = [item for item in selection.items if not item.unlabelled]
    absent = [] if given else _tested_elsewhere(kept, index, history)
    clusters = cluster([*kept, *absent], strata, index)
    cluster_of = clusters.of.tolist()
    if given:
        splits = [item.split for item in kept]
    elif policy.by_class:
        kept, cluster_of, splits = _divide_by_class(kept, cluster_of, policy, history, selection)
    else:
        splits = _divide(kept, cluster_of, strata, policy, history)
    crossing = crossing_clusters(cluster_of[: len(kept)], splits)
    selection.near_duplicate_clusters = near_duplicates(cluster_of[: len(kept)]) - crossing
    divided = [item._replace(split=split) for item, split in zip(kept, splits, strict=True)]
    unlabelled = [item for item in selection.items if item.unlabelled]
    selection.items = sorted([*divided, *unlabelled], key=lambda item: (item.label, item.digest))
    counts = count(selection.items)
    require_splits(counts)
    require_classes(counts, selection.refused)
    by_class = policy.by_class and not given
    selection.warnings += [*warnings(counts, by_class=by_class), *_likeness_warnings(clusters, crossing, given)]
    return selection


def _tested_elsewhere(kept: Sequence[ItemRow], index: Mapping[str, IndexRow], history: History) -> list[ItemRow]:
    """Return the pictures that were in test and are not divided in this version, as far as they are still there."""
    here = {item.digest for item in kept}
    return [
        item
        for digest, item in history.tested.items()
        if digest not in here and digest in index and index[digest].perceptual_hash
    ]


def _divide(
    kept: Sequence[ItemRow], cluster_of: Sequence[int], strata: Strata, policy: Policy, history: History
) -> list[int]:
    """Return the split of each item; cluster_of goes on with those of tested pictures beside them."""
    fixed = [history.split_of(item.digest) for item in kept]
    standing = [*fixed, *[TEST] * (len(cluster_of) - len(kept))]
    fast = [place for place, split in enumerate(standing) if split]
    fresh = [place for place, split in enumerate(fixed) if not split]
    chosen = assign_splits(
        [kept[place].digest for place in fresh],
        [strata.of(kept[place]) for place in fresh],
        [cluster_of[place] for place in fresh],
        policy.fractions,
        policy.seed,
        leading=leading_splits([cluster_of[place] for place in fast], [standing[place] for place in fast]),
        placed=strata.count(item._replace(split=split) for item, split in zip(kept, fixed, strict=True)),
    )
    for place, split in zip(fresh, chosen, strict=True):
        fixed[place] = split
    return fixed


def _divide_by_class(
    kept: Sequence[ItemRow], cluster_of: Sequence[int], policy: Policy, history: History, selection: Selection
) -> tuple[list[ItemRow], list[int], list[int]]:
    """Return the items that can be taken where whole classes are divided, their clusters and splits; see near_test.

    cluster_of: as of _divide. Those that are left out are added to what the selection refuses.
    """
    classes = divide_classes(kept, history.last.values(), history.test_classes, policy)
    splits = [classes.split_of(item) for item in kept]
    tested = [TEST] * (len(cluster_of) - len(kept))
    fresh = [not history.split_of(item.digest) for item in kept]
    out = set(near_test(cluster_of, [*splits, *tested], [*fresh, *[False] * len(tested)]))
    selection.refused += [left_out(kept[place]._replace(split=splits[place])) for place in sorted(out)]
    stays = [place for place in range(len(kept)) if place not in out]
    return [kept[each] for each in stays], [cluster_of[each] for each in stays], [splits[each] for each in stays]


def near_duplicates(cluster_of: Sequence[int]) -> int:
    """Count the clusters of more than one picture."""
    return sum(size > 1 for size in Counter(cluster_of).values())


def split_is_given(items: Sequence[ItemRow]) -> bool:
    """Return whether the items say their split. Raises InvalidArgument when only some of the labelled ones do."""
    labelled = [item for item in items if not item.unlabelled]
    said = [item for item in labelled if item.split]
    if said and len(said) != len(labelled):
        silent = next(item for item in labelled if not item.split)
        raise invalid(
            "split",
            silent.filename or silent.digest,
            f"a split for every item or for none; {len(said)} of {len(labelled)} items say theirs",
        )
    return bool(said)


def leave_out(items: Sequence[ItemRow], index: Mapping[str, IndexRow]) -> Selection:
    """Keep each picture once, and leave out those that cannot be decoded, or have two labels or other annotations.

    The split of an unlabelled picture is left out.
    """
    by_digest: defaultdict[str, list[ItemRow]] = defaultdict(list)
    for item in items:
        by_digest[item.digest].append(item)
    chosen = Selection([], [], [])
    parted = splitless = 0
    noted: list[tuple[str, str]] = []
    for digest, same in sorted(by_digest.items()):
        if message := _conflict(same):
            problem = Problem.CONFLICTING_LABEL
            chosen.refused += [Verdict(digest, problem, f"{message} ({_called(item)})") for item in same]
        elif index[digest].state == BROKEN:
            problem = Problem.BROKEN
            chosen.refused += [Verdict(digest, problem, f"{_called(item)}: {index[digest].problem}") for item in same]
        else:
            best = min(same, key=lambda item: (item.split, item.filename))
            parted += len({item.split for item in same}) > 1
            splitless += best.unlabelled and best.split != NO_SPLIT
            noted.append((_called(best), index[digest].problem))
            split = NO_SPLIT if best.unlabelled else best.split
            chosen.items.append(best._replace(size=index[digest].size, split=split))
            message = f"the very same file as {_called(best)}"
            chosen.repeated += [Verdict(digest, Problem.DUPLICATE, message)] * (len(same) - 1)
    chosen.warnings += summary(noted)
    if parted:
        chosen.warnings.append(
            f"{parted} files were given in more than one split; each is kept in the first of training, validation, test"
        )
    if splitless:
        chosen.warnings.append(
            f"{splitless} pictures have neither a class nor annotations: the split given for them is left out, and "
            "they are in none until they get one of these"
        )
    return chosen


def _conflict(same: Sequence[ItemRow]) -> str:
    """Say what one file is called otherwise in one place than in another; empty for nothing."""
    labels = sorted({item.label for item in same})
    if len(labels) > 1:
        return "the same file is labelled " + " and ".join(repr(label) for label in labels[:_NAMED_AT_MOST])
    if len({identity(item.annotations) for item in same}) > 1:
        return "the same file has other annotations in one place than in another"
    return ""


def _called(item: ItemRow) -> str:
    return item.filename or item.digest[:12]


def require_classes(counts: Counts, refused: Sequence[Verdict]) -> None:
    """Raise BadDataset unless there are pictures, and labelled ones are of at least one class."""
    left_out = f"; {len(refused)} were left out: {refused[0].message}" if refused else ""
    if not counts.total:
        raise BadDataset(f"no picture could be taken{left_out}", problem="empty")
    if not counts.labelled:
        return
    if not counts.classes:
        message = f"nothing is to be seen in all {counts.labelled} annotated pictures; one class at least is needed"
        raise BadDataset(message + left_out, problem="no_class")


def cluster(
    items: Sequence[ItemRow],
    strata: Strata,
    index: Mapping[str, IndexRow],
    class_sizes: Mapping[str, int] | None = None,
) -> Clusters:
    """Find near-duplicates among whole pictures; see find_clusters."""
    rows = [index[item.digest] for item in items]
    hashes = unpack_hashes(b"".join(row.perceptual_hash or b"" for row in rows))
    thumbnails = np.frombuffer(b"".join(row.thumbnail or b"" for row in rows), np.uint8).reshape(len(rows), 256)
    return find_clusters(hashes, thumbnails, [strata.of(item) for item in items], class_sizes)


def unpack_hashes(packed: bytes) -> np.ndarray:
    """Return perceptual hashes of 8 bytes each as uint64 [n]."""
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)


def require_splits(counts: Counts) -> None:
    """Raise BadDataset unless there are pictures for training and for validation, or none is labelled."""
    there = counts.splits
    for split in (TRAIN, VALIDATION):
        if counts.labelled and not there[split]:
            raise BadDataset(
                f"none of the {counts.labelled} labelled pictures is for {_NAMES[split]}; add pictures, or let Loupe "
                "make the split",
                problem="empty_split",
                split=_NAMES[split],
            )


def warnings(counts: Counts, *, by_class: bool = False) -> list[str]:
    """Return sentences over classes and splits that have too few pictures, and over classes that look like one.

    by_class: each class is to be in one split only.
    """
    if not counts.labelled:
        return [
            f"none of the {counts.total} pictures has a class or annotations; until some get one, all are in no split"
        ]
    said = []
    found = counts.of_classes
    if len(counts.classes) == 1 and not counts.annotated:
        said.append(
            f"all pictures are of {_listed(counts.classes)}: enough to learn good parts from, but a classifier needs "
            "at least two classes"
        )
    if alone := [label for label, each in found.items() if each.total() == 1]:
        lacking = "a class needs two for an episode" if by_class else "it can be learned from or tested on, not both"
        said.append(f"{_listed(alone)}: one picture only; {lacking}")
    there = counts.splits
    for split in SPLITS:
        without = [label for label, each in found.items() if not each[split] and each.total() > 1]
        if not there[split]:
            said.append(f"no picture is for {_NAMES[split]}")
        elif without and not by_class:
            said.append(f"{_listed(without)}: no picture for {_NAMES[split]}")
    return [*said, *_alike(counts.classes)]


def _alike(labels: Sequence[str]) -> list[str]:
    """Name the classes that a person would take for one: they differ by case or by the form of their characters."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())].append(label)
    alike = [each for each in groups.values() if len(each) > 1]
    more = (
        [f"{len(alike) - _NAMED_AT_MOST} more groups of classes differ only so"] if len(alike) > _NAMED_AT_MOST else []
    )
    return [
        f"{_listed(each)} differ only by case or by the form of their characters; relabel them if they are one class"
        for each in alike[:_NAMED_AT_MOST]
    ] + more


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
