"""Where the additions to a version go: near-duplicates are looked for around what changes, not among all pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from services.storage.datasets.derivation import Derivation
from services.storage.datasets.selection import cluster, near_duplicates
from services.storage.datasets.splits import TEST, Policy, assign_splits, crossing_clusters, leading_splits
from services.storage.datasets.store import Content, ItemRow
from services.storage.pictures.near_duplicates import related
from services.storage.pictures.store import IndexRow

_NEARBY_AT_MOST = 500


class Surroundings:
    """The pictures that may be near-duplicates of what changes: of the base, tested ones beside it, and additions.

    made: the derivation, whose fresh items get their split by place(). absent: labels of tested pictures that the base
    does not have, by digest. hashes: uint64 of all of them, in the order base, absent, fresh.
    """

    def __init__(self, made: Derivation, absent: Mapping[str, str], hashes: np.ndarray) -> None:
        self._made = made
        self._absent = [ItemRow(digest, label, TEST, "", 0) for digest, label in absent.items()]
        first = len(made.base) + len(absent)
        seeds = [*made.gone, *range(first, first + len(made.fresh))]
        found = related(hashes, seeds, _NEARBY_AT_MOST)
        self._places = found if found is not None else list(range(len(hashes)))

    @property
    def digests(self) -> list[str]:
        """The pictures whose thumbnails are needed to say which of them are near-duplicates."""
        return [self._item(place).digest for place in self._places]

    def place(
        self,
        index: Mapping[str, IndexRow],
        counts: Mapping[str, Mapping[int, int]],
        tested: Mapping[str, str],
        policy: Policy,
    ) -> int:
        """Give each fresh item that has no split one, and return how many more clusters of near-duplicates there are.

        counts: of each class, how many pictures stand fast in which split.
        """
        base, first = len(self._made.base), len(self._made.base) + len(self._absent)
        gone = {place for place in self._made.gone if self._made.base[place].digest not in tested}
        there = [place for place in self._places if place not in gone]
        items = [self._item(place) for place in there]
        sizes = Counter({label: sum(each.values()) for label, each in counts.items()})
        sizes.update(item.label for item in [*self._absent, *(one for one in self._made.fresh if not one.split)])
        clusters = _clusters(items, index, sizes)
        self._choose([place - first for place in there], items, clusters, counts, policy)
        left = {*self._made.gone, *range(base, first)}
        here = [number for number, place in enumerate(there) if place not in left]
        after = _kept_together([clusters[n] for n in here], [self._item(there[n]).split for n in here])
        before = [self._made.base[place] for place in self._places if place < base]
        old_sizes = sizes - Counter(item.label for item in [*self._absent, *self._made.fresh])
        return after - _kept_together(_clusters(before, index, old_sizes), [item.split for item in before])

    def _item(self, place: int) -> ItemRow:
        base, absent = len(self._made.base), len(self._absent)
        if place < base:
            return self._made.changed.get(place, self._made.base[place])
        return self._absent[place - base] if place < base + absent else self._made.fresh[place - base - absent]

    def _choose(
        self,
        numbers: Sequence[int],
        items: Sequence[ItemRow],
        clusters: Sequence[int],
        counts: Mapping[str, Mapping[int, int]],
        policy: Policy,
    ) -> None:
        """Divide the fresh items; numbers: which of them each item is, below 0 for the others."""
        fast = [each for each in zip(clusters, (item.split for item in items), strict=True) if each[1]]
        free = [each for each in zip(numbers, items, clusters, strict=True) if not each[1].split]
        chosen = assign_splits(
            [item.digest for _, item, _ in free],
            [item.label for _, item, _ in free],
            [cluster_of for _, _, cluster_of in free],
            policy.fractions,
            policy.seed,
            leading=leading_splits([cluster_of for cluster_of, _ in fast], [split for _, split in fast]),
            placed=counts,
        )
        for (number, item, _), split in zip(free, chosen, strict=True):
            self._made.fresh[number] = replace(item, split=split)


def _clusters(items: Sequence[ItemRow], index: Mapping[str, IndexRow], sizes: Mapping[str, int]) -> list[int]:
    found: list[int] = cluster(
        [item.digest for item in items], [item.label for item in items], index, sizes
    ).of.tolist()
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
