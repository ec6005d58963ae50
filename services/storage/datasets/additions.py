"""Where the additions to a version go: near-duplicates are looked for around what changes, not among all pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.storage.datasets.class_splits import near_test
from services.storage.datasets.counts import Strata
from services.storage.datasets.derivation import Derivation
from services.storage.datasets.selection import cluster, near_duplicates
from services.storage.datasets.splits import Policy, assign_splits, crossing_clusters, leading_splits
from services.storage.datasets.store import Content, ItemRow
from services.storage.pictures.near_duplicates import related
from services.storage.pictures.store import IndexRow

_NEARBY_AT_MOST = 500


@dataclass(frozen=True)
class Division:
    """How pictures are divided that have no split yet.

    strata: by which class each. placed: of each such class, how many stand fast in which split.
    """

    policy: Policy
    strata: Strata
    placed: Mapping[str, Mapping[int, int]]


class Surroundings:
    """The pictures that may be near-duplicates of what changes: of the base, tested ones beside it, and additions.

    made: the derivation, whose items get their split by place(). absent: tested pictures that neither the base nor the
    additions have. hashes: uint64 of all of them, in the order base, absent, fresh.
    """

    def __init__(self, made: Derivation, absent: Sequence[ItemRow], hashes: np.ndarray) -> None:
        self._made = made
        self._absent = absent
        first = len(made.base) + len(absent)
        seeds = [*made.gone, *made.turned, *range(first, first + len(made.fresh))]
        self._gone = set(made.gone)
        found = related(hashes, seeds, _NEARBY_AT_MOST)
        self._places = found if found is not None else list(range(len(hashes)))

    @property
    def digests(self) -> list[str]:
        """The pictures whose thumbnails are needed to say which of them are near-duplicates."""
        return [self._item(place).digest for place in self._places]

    def place(
        self,
        index: Mapping[str, IndexRow],
        tested: Mapping[str, ItemRow],
        division: Division,
    ) -> int:
        """Give each labelled item that has no split one; return how many more clusters of near-duplicates there are."""
        strata = division.strata
        base, first = len(self._made.base), len(self._made.base) + len(self._absent)
        there, items = self._followed(tested)
        sizes, old_sizes = self._class_sizes(division)
        clusters = _clusters(items, strata, index, sizes)
        items = self._choose(there, items, clusters, division)
        left = {*self._made.gone, *range(base, first)}
        here = [number for number, place in enumerate(there) if place not in left and not self._item(place).unlabelled]
        after = _kept_together([clusters[n] for n in here], [items[n].split for n in here])
        before = [self._made.base[place] for place in self._places if place < base]
        before = [item for item in before if not item.unlabelled]
        old_clusters = _clusters(before, strata, index, old_sizes)
        return after - _kept_together(old_clusters, [item.split for item in before])

    def strangers(
        self, index: Mapping[str, IndexRow], tested: Mapping[str, ItemRow], division: Division
    ) -> list[ItemRow]:
        """Return the additions that cannot be taken where whole classes are divided; see near_test."""
        there, items = self._followed(tested)
        sizes, _ = self._class_sizes(division)
        clusters = _clusters(items, division.strata, index, sizes)
        first, turned = len(self._made.base) + len(self._absent), set(self._made.turned)
        fresh = [
            (place >= first or place in turned) and item.digest not in tested
            for place, item in zip(there, items, strict=True)
        ]
        return [items[number] for number in near_test(clusters, [item.split for item in items], fresh)]

    def _followed(self, tested: Mapping[str, ItemRow]) -> tuple[list[int], list[ItemRow]]:
        """Return the places of the pictures that near-duplicates follow or are, and the pictures."""
        standing = {place: item for place in self._places if (item := self._standing(place, tested)) is not None}
        return list(standing), list(standing.values())

    def _class_sizes(self, division: Division) -> tuple[Counter[str], Counter[str]]:
        """Return how many pictures each class has, absent ones too, and how many the base has."""
        sizes = Counter({label: sum(each.values()) for label, each in division.placed.items()})
        beside = [*self._absent, *self._made.to_place]
        sizes.update(division.strata.of(item) for item in beside)
        given = [item for item in self._made.fresh if item.split]
        return sizes, sizes - Counter(division.strata.of(item) for item in [*beside, *given])

    def _item(self, place: int) -> ItemRow:
        base, absent = len(self._made.base), len(self._absent)
        if place < base:
            return self._made.changed.get(place, self._made.base[place])
        return self._absent[place - base] if place < base + absent else self._made.fresh[place - base - absent]

    def _standing(self, place: int, tested: Mapping[str, ItemRow]) -> ItemRow | None:
        """Return what near-duplicates follow at a place; what was ever in test also where it is unlabelled or gone."""
        item = self._item(place)
        if item.unlabelled:
            return tested.get(item.digest)
        return None if place in self._gone and item.digest not in tested else item

    def _choose(
        self,
        places: Sequence[int],
        items: Sequence[ItemRow],
        clusters: Sequence[int],
        division: Division,
    ) -> list[ItemRow]:
        """Divide the items that have no split yet, and return all with theirs; places: where they stand."""
        fast = [(cluster_of, item.split) for cluster_of, item in zip(clusters, items, strict=True) if item.split]
        free = [number for number, item in enumerate(items) if not item.split]
        chosen = assign_splits(
            [items[number].digest for number in free],
            [division.strata.of(items[number]) for number in free],
            [clusters[number] for number in free],
            division.policy.fractions,
            division.policy.seed,
            leading=leading_splits([cluster_of for cluster_of, _ in fast], [split for _, split in fast]),
            placed=division.placed,
        )
        divided = list(items)
        first = len(self._made.base) + len(self._absent)
        for number, split in zip(free, chosen, strict=True):
            item = divided[number] = items[number]._replace(split=split)
            if (place := places[number]) < first:
                self._made.changed[place] = item
            else:
                self._made.fresh[place - first] = item
        return divided


def _clusters(
    items: Sequence[ItemRow], strata: Strata, index: Mapping[str, IndexRow], sizes: Mapping[str, int]
) -> list[int]:
    found: list[int] = cluster(items, strata, index, sizes).of.tolist()
    return found


def _kept_together(clusters: Sequence[int], splits: Sequence[int]) -> int:
    return near_duplicates(clusters) - crossing_clusters(clusters, splits)


def arrange_hashes(content: Content, base: np.ndarray, put: Mapping[str, int]) -> bytes:
    """Return the hashes of a version in the order of its items, from those of its base and of what was put in."""
    total = len(content.placed) + sum(each.last - each.first + 1 for each in content.copied)
    hashes = np.empty(total, ">u8")
    for each in content.copied:
        hashes[each.first + each.shift : each.last + each.shift + 1] = base[each.first : each.last + 1]
    for position, item in content.placed:
        hashes[position] = put[item.digest]
    return hashes.tobytes()
