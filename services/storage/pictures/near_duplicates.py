"""Finding pictures that show the same scene: by perceptual hash first, confirmed by small thumbnails."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

HASH_BITS = 64
MAX_HASH_DISTANCE = 6
MAX_THUMBNAIL_DIFFERENCE = 4.0
STRICT_THUMBNAIL_DIFFERENCE = 1.0
MAX_CLASS_SHARE = 0.2
_SMALL_CLUSTER = 5
_BANDS = MAX_HASH_DISTANCE + 1
# Bounds on the work for pictures that are all alike; what lies beyond is found through its neighbours.
_NEIGHBOURS = 400
_PARTNERS = 24
_MEMBERS = 8


@dataclass(frozen=True)
class Clusters:
    """Says which pictures belong together.

    of: [n], the smallest index in the picture's cluster. dissolved: how many pictures were taken out of clusters
    that were so large that their likeness says nothing, for example a camera that always sees the same part.
    """

    of: np.ndarray
    dissolved: int

    def count(self) -> int:
        """Return how many clusters have more than one picture."""
        return sum(size > 1 for size in Counter(self.of.tolist()).values())


def find_clusters(
    hashes: np.ndarray, thumbnails: np.ndarray, labels: Sequence[str], class_sizes: Mapping[str, int] | None = None
) -> Clusters:
    """Join pictures whose hashes differ in at most 6 of 64 bits and whose thumbnails confirm it.

    hashes: uint64 [n]. thumbnails: uint8 [n, 256]. A thumbnail confirms when its mean absolute difference, after
    taking out overall brightness, is at most 4 grey levels of 255. A cluster that holds more than a fifth of a class
    is taken apart with a stricter measure (equal hashes, 1 grey level), and if that does not help, altogether.

    class_sizes: how many pictures each class has, where these are only some of them; those that are left out must be
    related to none of these (`related`).
    """
    of_class = Counter(labels) if class_sizes is None else class_sizes
    count = len(hashes)
    levelled = thumbnails.astype(np.float32)
    levelled -= levelled.mean(axis=1, keepdims=True) if count else 0.0
    firsts, seconds = _close_pairs(hashes, np.abs(levelled).sum(axis=1))
    near = _differences(levelled, firsts, seconds)
    loose = near <= MAX_THUMBNAIL_DIFFERENCE
    strict = (near <= STRICT_THUMBNAIL_DIFFERENCE) & (hashes[firsts] == hashes[seconds])
    # How much likeness each picture's cluster asks for: 0 near, 1 nearly identical, 2 never enough.
    level = np.zeros(count, np.int8)
    while True:
        asked = np.maximum(level[firsts], level[seconds])
        joined = (loose & (asked == 0)) | (strict & (asked <= 1))
        clusters = _union(count, firsts[joined], seconds[joined])
        large = _too_large(clusters, labels, of_class)
        if not large.any():
            break
        level[large] += 1
    return Clusters(clusters, int((level > 0).sum()))


def related(hashes: np.ndarray, seeds: Sequence[int], most: int) -> list[int] | None:
    """Return the indices of the seeds and of all pictures that close hashes lead to from them, in order.

    hashes: uint64 [n]. None when there are more than `most`. Comparing those with each other finds the clusters that
    comparing all n would find for them.
    """
    found = np.zeros(len(hashes), bool)
    found[list(seeds)] = True
    waiting = list(seeds)
    while waiting:
        if found.sum() > most:
            return None
        close = (np.bitwise_count(hashes ^ hashes[waiting.pop()]) <= MAX_HASH_DISTANCE) & ~found
        found |= close
        waiting += np.flatnonzero(close).tolist()
    return np.flatnonzero(found).tolist()


def _differences(levelled: np.ndarray, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    found = np.empty(len(firsts), np.float32)
    for start in range(0, len(firsts), 65_536):
        part = slice(start, start + 65_536)
        found[part] = np.abs(levelled[firsts[part]] - levelled[seconds[part]]).mean(axis=1)
    return found


def _close_pairs(hashes: np.ndarray, contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of pictures within the hash distance.

    Pictures with one hash are sorted by contrast and compared with their neighbours. Hashes that differ in at most k
    bits agree in at least one of k + 1 bands, so only hashes that share a band are compared; one that has many close
    ones already looks for no more.
    """
    order = np.lexsort((contrast, hashes))
    distinct, starts, sizes = np.unique(hashes[order], return_index=True, return_counts=True)
    firsts, seconds = [], []
    for offset in range(1, min(_MEMBERS, len(order) - 1) + 1):
        left, right = order[:-offset], order[offset:]
        same = hashes[left] == hashes[right]
        firsts.append(left[same])
        seconds.append(right[same])
    one, other = _close_hashes(distinct)
    for mine in range(_MEMBERS):
        for theirs in range(_MEMBERS):
            there = (sizes[one] > mine) & (sizes[other] > theirs)
            firsts.append(order[starts[one[there]] + mine])
            seconds.append(order[starts[other[there]] + theirs])
    return np.concatenate(firsts), np.concatenate(seconds)


def _close_hashes(distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(distinct)
    found = [np.empty(0, np.int64)]
    partners = np.zeros(count, np.int64)
    edges = np.linspace(0, HASH_BITS, _BANDS + 1).astype(int)
    for low, high in pairwise(edges):
        band = (distinct >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        for offset in range(1, min(_NEIGHBOURS, count - 1) + 1):
            left, right = order[:-offset], order[offset:]
            shared = band[left] == band[right]
            if not shared.any():
                break
            left, right = left[shared], right[shared]
            close = np.bitwise_count(distinct[left] ^ distinct[right]) <= MAX_HASH_DISTANCE
            close &= partners[left] < _PARTNERS
            left, right = left[close], right[close]
            partners += np.bincount(left, minlength=count)
            found.append(np.minimum(left, right) * count + np.maximum(left, right))
    pairs = np.unique(np.concatenate(found))
    return pairs // max(count, 1), pairs % max(count, 1)


def _union(count: int, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return np.array([root(node) for node in range(count)], dtype=np.int64)


def _too_large(clusters: np.ndarray, labels: Sequence[str], of_class: Mapping[str, int]) -> np.ndarray:
    """Mark the pictures of clusters that hold more than their share of some class."""
    inside: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for cluster, label in zip(clusters.tolist(), labels, strict=True):
        inside[cluster][label] += 1
    large = {
        cluster
        for cluster, members in inside.items()
        if any(size > max(_SMALL_CLUSTER, MAX_CLASS_SHARE * of_class[label]) for label, size in members.items())
    }
    return np.array([cluster in large for cluster in clusters.tolist()], dtype=bool)
