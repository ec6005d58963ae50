"""What a version has, counted: pictures by class and split, and the regions that are annotated in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loupe.annotations import NOTHING_THERE, labels_of, mark_of
from services.storage.datasets.store import ItemRow

NO_SPLIT = 0
_FEW_CLASSES = 32

SplitCounts = Mapping[str, Mapping[int, int]]
"""Of each class, how many are in which split."""


@dataclass(frozen=True)
class Counts:
    """What a version has.

    pictures: of each class how many pictures are in which split; those without a class count as of "", and those that
    are in no split as in NO_SPLIT. regions: of each class how many boxes and polygons are in pictures of which split.
    nothing_there: how many pictures were looked at, with nothing to be annotated. unlabelled: how many have neither a
    class nor annotations.
    """

    pictures: SplitCounts = field(default_factory=dict)
    regions: SplitCounts = field(default_factory=dict)
    nothing_there: int = 0
    unlabelled: int = 0

    @property
    def classes(self) -> list[str]:
        """The classes of pictures and of regions, sorted."""
        return sorted((self.pictures.keys() | self.regions.keys()) - {""})

    @property
    def total(self) -> int:
        """How many pictures there are."""
        return sum(sum(each.values()) for each in self.pictures.values())

    @property
    def labelled(self) -> int:
        """How many pictures have a class or annotations."""
        return self.total - self.unlabelled

    @property
    def annotated(self) -> bool:
        """Whether somebody annotated a picture, or said that there is nothing to annotate in it."""
        return bool(self.regions or self.nothing_there)

    @property
    def of_classes(self) -> dict[str, Counter[int]]:
        """How many pictures and regions of each class are in which split, sorted by class."""
        return {
            label: Counter(self.pictures.get(label, {})) + Counter(self.regions.get(label, {}))
            for label in self.classes
        }

    @property
    def splits(self) -> Counter[int]:
        """How many pictures are in which split."""
        found: Counter[int] = Counter()
        for each in self.pictures.values():
            found.update({split: count for split, count in each.items() if split != NO_SPLIT})
        return found


def count(items: Iterable[ItemRow]) -> Counts:
    """Count the items of a version; the classes are sorted."""
    return recount(Counts(), (), items)


def recount(before: Counts, gone: Iterable[ItemRow], put: Iterable[ItemRow]) -> Counts:
    """Return what a version has of which these items go, and to which those come; the classes are sorted."""
    pictures, regions = _counters(before.pictures), _counters(before.regions)
    nothing_there, unlabelled = before.nothing_there, before.unlabelled
    for items, sign in ((gone, -1), (put, 1)):
        for item in items:
            pictures[item.label][item.split] += sign
            nothing_there += sign * (item.annotations == NOTHING_THERE)
            unlabelled += sign * item.unlabelled
            for label in labels_of(item.annotations):
                regions[label][item.split] += sign
    return Counts(_present(pictures), _present(regions), nothing_there, unlabelled)


def _counters(counts: SplitCounts) -> defaultdict[str, Counter[int]]:
    return defaultdict(Counter, {label: Counter(each) for label, each in counts.items()})


def _present(counts: Mapping[str, Counter[int]]) -> dict[str, Counter[int]]:
    return {label: +each for label, each in sorted(counts.items()) if (+each).total()}


class Strata:
    """Says by which class each picture is divided: by its own, or by the rarest one among its annotations.

    regions: of each class, how many regions a version has in which split.
    """

    def __init__(self, regions: SplitCounts) -> None:
        self._totals = {label: sum(each.values()) for label, each in regions.items()}
        rarest = sorted(self._totals, key=lambda label: (self._totals[label], label))
        # To look for a few classes in annotations takes a fraction of the time of taking them apart.
        self._marks = [(label, mark_of(label)) for label in rarest] if len(rarest) <= _FEW_CLASSES else []

    def of(self, item: ItemRow) -> str:
        """Return the class; empty for a picture in which nothing is to be seen, and for an unlabelled one."""
        if item.label or not item.annotations:
            return item.label
        found = set(labels_of(item.annotations))
        return min(found, key=lambda label: (self._totals.get(label, 0), label), default="")

    def count(self, items: Iterable[ItemRow]) -> dict[str, Counter[int]]:
        """Count the pictures that each class divides, in each split, leaving out those that are in none yet.

        items: of the version whose regions these are.
        """
        found: defaultdict[str, Counter[int]] = defaultdict(Counter)
        pairs = Counter((self._of_counted(item), item.split) for item in items if item.split != NO_SPLIT)
        for (label, split), there in pairs.items():
            found[label][split] = there
        return dict(found)

    def _of_counted(self, item: ItemRow) -> str:
        """Return what of() does, of a picture all of whose annotations were counted."""
        if not item.label:
            for label, mark in self._marks:
                if mark in item.annotations:
                    return label
        return self.of(item)
