"""Dividing whole classes into training, validation and test, so that none is in two of them: for few-shot learning."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from loupe.annotations import labels_of
from loupe.errors import BadDataset
from services.storage.datasets.counts import Counts
from services.storage.datasets.derivation import Derivation
from services.storage.datasets.history import History
from services.storage.datasets.splits import SPLITS, TEST, TRAIN, VALIDATION, Policy
from services.storage.datasets.store import ItemRow
from services.storage.pictures.admission import Problem, Verdict

_NAMED_AT_MOST = 5
_NAMES = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}


def class_of(item: ItemRow) -> str:
    """Return the one class that a picture shows; empty where nothing is to be seen in it, or nobody looked.

    Raises BadDataset where it shows several.
    """
    if not item.annotations:
        return item.label
    found = sorted({*labels_of(item.annotations), *filter(None, [item.label])})
    if len(found) > 1:
        called = item.filename or item.digest
        raise BadDataset(
            f"{called} shows {len(found)} classes, {found[0]!r} and {found[1]!r} among them: it cannot be split by "
            "class; split by picture, or leave such pictures out",
            problem="several_classes",
            file=called,
            digest=item.digest,
        )
    return found[0] if found else ""


def draw_classes(classes: Iterable[str], standing: Mapping[str, int], policy: Policy) -> dict[str, int]:
    """Return the split of each class: that where it stands, else one that the seed draws.

    The same classes give the same answer in whatever order they come. The first ones drawn go where no class is yet: to
    training, then to validation, then to test, as far as its fraction is above 0. Each other goes where most classes
    are missing to the fractions, of all classes. Raises BadDataset where there is one class in all.
    """
    new = set(classes) - standing.keys()
    total = len(standing) + len(new)
    if new and total < 2:
        raise BadDataset(
            f"{min(new)!r} is the only class: whole classes are split, one for training and one for validation at "
            "least; add pictures of another class, or split by picture",
            problem="too_few_classes",
            **{"class": min(new)},
        )
    share = dict(zip(SPLITS, policy.fractions, strict=True))
    wanted = [split for split in SPLITS if share[split] > 0]
    filled = Counter(standing.values())
    chosen = dict(standing)
    for label in sorted(new, key=lambda each: hashlib.sha256(f"{policy.seed}:{each}".encode()).digest()):
        empty = next((each for each in wanted if not filled[each]), 0)
        split = empty or max(wanted, key=lambda each: (share[each] * total - filled[each], -each))
        chosen[label] = split
        filled[split] += 1
    return chosen


@dataclass(frozen=True)
class ClassSplits:
    """Which class is in which split; what shows no class at all is in training."""

    of: Mapping[str, int]

    def split_of(self, item: ItemRow) -> int:
        """Return the split of a picture; 0 for an unlabelled one. Raises BadDataset where it shows several classes."""
        if item.unlabelled:
            return 0
        label = class_of(item)
        return self.of[label] if label else TRAIN


def divide_classes(
    items: Iterable[ItemRow], before: Iterable[ItemRow], test_classes: Collection[str], policy: Policy
) -> ClassSplits:
    """Say where the classes of a version are: in test where they ever were, else where they stand, else drawn.

    items: of the version. before: the items of the version that it follows, each in its split. Raises BadDataset for a
    picture that shows several classes, and as draw_classes does.
    """
    standing = {label: each.split for each in before if each.split and (label := class_of(each))}
    standing |= dict.fromkeys(test_classes, TEST)
    classes = {label for each in items if (label := class_of(each))}
    return ClassSplits(draw_classes(classes, standing, policy))


def divide_changes(made: Derivation, test_classes: Collection[str], policy: Policy) -> None:
    """Put what is added and what changes in a derived version where its class is, and what of its base is elsewhere.

    Raises BadDataset as divide_classes does, and where an addition carries another split than its class has.
    """
    given = {class_of(item): item.split for item in made.fresh if item.split}
    known = [item._replace(split=given[label]) for item in made.fresh if (label := class_of(item)) in given]
    divided = divide_classes(made.put, [*known, *made.base], test_classes, policy)
    for item in made.fresh:
        if item.split not in (0, divided.split_of(item)):
            raise _given_elsewhere(item, divided.split_of(item))
    made.fresh = [item._replace(split=divided.split_of(item)) for item in made.fresh]
    for position, item in made.changed.items():
        made.changed[position] = item._replace(split=divided.split_of(item))
    gone = set(made.gone)
    for position, item in enumerate(made.base):
        stays = position not in gone and position not in made.changed
        if stays and item.split != (split := divided.split_of(item)):
            made.changed[position] = item._replace(split=split)
            made.recalled += split == TEST


def _given_elsewhere(item: ItemRow, split: int) -> BadDataset:
    called = item.filename or item.digest
    return BadDataset(
        f"{called} is given for {_NAMES[item.split]}, and its class {class_of(item)!r} is in {_NAMES[split]}: the data "
        "set is split by class; leave the splits away",
        problem="class_in_two_splits",
        file=called,
        digest=item.digest,
    )


def near_test(clusters: Sequence[int], splits: Sequence[int], fresh: Sequence[bool]) -> list[int]:
    """Return the places of the new pictures that have a near-duplicate on the other side of test, and must stay out.

    A cluster of near-duplicates cannot go to one split, as it does where pictures are divided: the classes say where
    each belongs. What stands, stays, and the new picture is left out, whichever of the two is in test; of new ones
    those in test are kept. Likeness between training and validation is only told.
    """
    sides: defaultdict[int, set[tuple[bool, bool]]] = defaultdict(set)
    for cluster, split, new in zip(clusters, splits, fresh, strict=True):
        sides[cluster].add((split == TEST, new))
    out = []
    for place, (cluster, split, new) in enumerate(zip(clusters, splits, fresh, strict=True)):
        there = sides[cluster]
        trained, tested = (False, False) in there, (True, False) in there
        if new and (trained if split == TEST else tested or (not trained and (True, True) in there)):
            out.append(place)
    return out


def left_out(item: ItemRow) -> Verdict:
    """Say of a new picture that it is left out; see near_test. item: with the split of its class."""
    other = "a picture that is not in test" if item.split == TEST else "a test picture"
    message = (
        f"{item.filename or item.digest[:12]} is nearly the same as {other}, and its class {class_of(item)!r} is in "
        f"{_NAMES[item.split]}; the split is by class, so that it can be in neither"
    )
    return Verdict(item.digest, Problem.CONFLICTING_LABEL, message)


def moved(items: Iterable[ItemRow], last: Mapping[str, ItemRow]) -> list[str]:
    """Return a sentence over pictures that went to another split with their class; none for none."""
    both = ((item.split, last[item.digest].split) for item in items if item.digest in last)
    count = sum(now != before for now, before in both if now and before)
    if not count:
        return []
    return [f"{count} picture{'' if count == 1 else 's'} moved to another split, as the class is there"]


def remembered(
    test_classes: Collection[str], counts: Counts, *, by_class: bool, resplit: bool = False
) -> frozenset[str]:
    """Return the classes that are in test for good once a version is there; see DatasetRow.classes_in_test.

    by_class: its whole classes were divided. resplit: all of them anew.
    """
    kept = frozenset(test_classes) - (frozenset(counts.classes) if resplit else frozenset())
    return kept | {label for label, splits in counts.of_classes.items() if by_class and splits[TEST]}


def resplit_breaks(history: History, policy: Policy, counts: Counts) -> list[str]:
    """Return what a new split breaks beside the pictures that left test: whole classes, or the unit itself."""
    said = []
    before = history.policy or policy
    if before.unit != policy.unit:
        old, new = ("class", "picture") if before.by_class else ("picture", "class")
        said.append(
            f"the data set was split by {old} and is split by {new} now; figures of models before and after say "
            "different things"
        )
    left = [label for label in sorted(history.test_classes) if _trained(counts.of_classes.get(label, {}))]
    if left:
        more = f" and {len(left) - _NAMED_AT_MOST} more" if len(left) > _NAMED_AT_MOST else ""
        said.append(
            f"{len(left)} of the classes that were kept for test left it: "
            f"{', '.join(map(repr, left[:_NAMED_AT_MOST]))}{more}; models that are trained from now on have seen them"
        )
    return said


def _trained(splits: Mapping[int, int]) -> bool:
    return any(splits.get(split) for split in (TRAIN, VALIDATION))
