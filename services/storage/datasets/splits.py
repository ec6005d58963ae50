"""Dividing pictures into training, validation and test: by rule and seed alone, so that anybody gets the same split."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from loupe.errors import invalid

TRAIN, VALIDATION, TEST = 1, 2, 3
SPLITS = (TRAIN, VALIDATION, TEST)
DEFAULT_FRACTIONS = (0.6, 0.2, 0.2)

UNSAID, BY_PICTURE, BY_CLASS = 0, 1, 2
UNITS = (UNSAID, BY_PICTURE, BY_CLASS)
"""What goes to one split as a whole; the contract's numbers."""

Fractions = tuple[float, float, float]


@dataclass(frozen=True)
class Policy:
    """How pictures are divided; see assign_splits, and for whole classes services.storage.datasets.class_splits.

    fractions: of training, validation and test. unit: UNSAID only where it is asked for.
    """

    fractions: Fractions = DEFAULT_FRACTIONS
    seed: int = 0
    unit: int = BY_PICTURE

    @property
    def by_class(self) -> bool:
        """Whether each class is in one split only."""
        return self.unit == BY_CLASS


def choose_policy(asked: Policy | None, last: Policy | None, *, resplit: bool = False) -> Policy:
    """Return how new pictures are divided: as it is asked for, else as in the last version; see check_fractions.

    Raises InvalidArgument where another unit is asked for than the last version's, unless all are divided anew.
    """
    before = last or Policy()
    if asked is None:
        return before
    unit = asked.unit or before.unit
    if last is not None and unit != last.unit and not resplit:
        asked_for, there = ("picture", "class") if last.by_class else ("class", "picture")
        raise invalid(
            "split", f"by {asked_for}", f"by {there}, as the last version is divided; or a new split (--resplit) of all"
        )
    if last is not None and not any(asked.fractions):
        return Policy(last.fractions, asked.seed, unit)
    return Policy(check_fractions(asked.fractions), asked.seed, unit)


def proportions(counts: Mapping[int, int]) -> Fractions:
    """Return the fractions of a split that somebody gave, of how many pictures are in which split."""
    train, validation, test = (counts.get(split, 0) for split in SPLITS)
    total = train + validation + test
    return (train / total, validation / total, test / total)


def check_fractions(fractions: Fractions) -> Fractions:
    """Return the fractions for training, validation and test; all 0 means 0.6, 0.2, 0.2.

    Raises InvalidArgument unless they are at least 0, add up to 1, and leave something for training and validation.
    """
    if not any(fractions):
        return DEFAULT_FRACTIONS
    fine = all(math.isfinite(each) and 0 <= each <= 1 for each in fractions) and abs(sum(fractions) - 1) < 1e-6
    if not fine or fractions[0] <= 0 or fractions[1] <= 0:
        expected = "train, validation and test fractions that add up to 1, those of train and validation above 0"
        raise invalid("split", fractions, expected)
    return fractions


@dataclass(frozen=True)
class _Unit:
    """A cluster of near-duplicates, which stays together: its pictures, and how many it has of each label."""

    key: str
    cluster: int
    members: tuple[int, ...]
    labels: Counter[str]


def assign_splits(
    digests: Sequence[str],
    labels: Sequence[str],
    clusters: Sequence[int],
    fractions: Fractions,
    seed: int,
    *,
    leading: Mapping[int, int] = MappingProxyType({}),
    placed: Mapping[str, Mapping[int, int]] = MappingProxyType({}),
) -> list[int]:
    """Return TRAIN, VALIDATION or TEST for each picture that is not placed yet.

    The same pictures, labels, clusters and seed give the same answer in whatever order they come. Pictures of one
    cluster never part. Each class is divided by the fractions as closely as its clusters and what is placed already
    allow, and a class with at least as many clusters of its own as there are fractions above 0 gets at least one
    picture into each.

    clusters: for each picture any number that its cluster has in common. leading: the split of the clusters that have
    pictures which stand fast (leading_splits). placed: of each class, how many pictures stand fast in which split.
    """
    units = _units(digests, labels, clusters, seed)
    wanted = [split for split, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0]
    share = dict(zip(SPLITS, fractions, strict=True))
    total = Counter(labels) + Counter({label: sum(each.values()) for label, each in placed.items()})
    filled = {split: Counter({label: each.get(split, 0) for label, each in placed.items()}) for split in SPLITS}
    chosen = {unit.key: leading[unit.cluster] for unit in units if unit.cluster in leading}
    for unit in units:
        if unit.key in chosen:
            filled[chosen[unit.key]].update(unit.labels)
    free = [unit for unit in units if unit.key not in chosen]
    for unit in free:
        split = max(wanted, key=lambda each: (_need(unit, each, share, total, filled), share[each], -each))
        chosen[unit.key] = split
        filled[split].update(unit.labels)
    _fill_empty(free, wanted, chosen, filled, placed)
    answer = [TRAIN] * len(digests)
    for unit in units:
        for member in unit.members:
            answer[member] = chosen[unit.key]
    return answer


def leading_splits(clusters: Sequence[int], splits: Sequence[int]) -> dict[int, int]:
    """Return where new pictures of a cluster go for the pictures in it that stand fast.

    To test when one of these is there, else where most of them are; training before validation where both have as many.
    """
    there: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for cluster, split in zip(clusters, splits, strict=True):
        there[cluster][split] += 1
    return {
        cluster: TEST if counts[TEST] else max((TRAIN, VALIDATION), key=lambda split: (counts[split], -split))
        for cluster, counts in there.items()
    }


def crossing_clusters(clusters: Sequence[int], splits: Sequence[int]) -> int:
    """Count the clusters that have pictures on more than one side of a given split."""
    sides: defaultdict[int, set[int]] = defaultdict(set)
    for cluster, split in zip(clusters, splits, strict=True):
        sides[cluster].add(split)
    return sum(len(each) > 1 for each in sides.values())


def _units(digests: Sequence[str], labels: Sequence[str], clusters: Sequence[int], seed: int) -> list[_Unit]:
    """Put large clusters first, because they are the hardest to place; the rest as the seed shuffles them."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, cluster in enumerate(clusters):
        members[cluster].append(index)
    units = []
    for cluster, inside in members.items():
        first = min(digests[index] for index in inside)
        key = hashlib.sha256(f"{seed}:{first}".encode()).hexdigest()
        units.append(_Unit(key, cluster, tuple(inside), Counter(labels[index] for index in inside)))
    return sorted(units, key=lambda unit: (-len(unit.members), unit.key))


def _need(
    unit: _Unit, split: int, share: dict[int, float], total: Counter[str], filled: dict[int, Counter[str]]
) -> float:
    """Say how much of what a split should have of the unit's labels is still open, as a part of it."""
    need = 0.0
    for label, count in unit.labels.items():
        goal = share[split] * total[label]
        need += count * (goal - filled[split][label] - count / 2) / goal
    return need


def _fill_empty(
    units: Sequence[_Unit],
    wanted: Sequence[int],
    chosen: dict[str, int],
    filled: dict[int, Counter[str]],
    placed: Mapping[str, Mapping[int, int]],
) -> None:
    """Move one cluster, the smallest, into each split that a class has no picture in, where the class can spare it."""
    own: defaultdict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        if len(unit.labels) == 1:
            own[next(iter(unit.labels))].append(unit)
    for label, mine in sorted(own.items()):
        fast = Counter(placed.get(label, {}))
        if len(mine) + fast.total() < len(wanted):
            continue
        for empty in (split for split in wanted if not filled[split][label]):
            places = Counter(chosen[unit.key] for unit in mine)
            donors = [split for split in wanted if places[split] and places[split] + fast[split] > 1]
            if not donors:
                break
            donor = max(donors, key=lambda split: (filled[split][label], split))
            moved = min(
                (unit for unit in mine if chosen[unit.key] == donor), key=lambda unit: (len(unit.members), unit.key)
            )
            chosen[moved.key] = empty
            filled[donor] -= moved.labels
            filled[empty] += moved.labels
