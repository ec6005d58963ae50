"""A version made of another one and of what changes: which of its items stay, which go, and where new ones are put."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loupe.annotations import UNLABELLED, identity, regions_of
from loupe.errors import BadDataset
from services.storage.datasets.counts import NO_SPLIT, Counts, Strata, recount
from services.storage.datasets.digest import VersionDigest
from services.storage.datasets.history import changed_tests, refuse_moved_tests, says_otherwise
from services.storage.datasets.orders import Changes
from services.storage.datasets.provenance import carry_over
from services.storage.datasets.splits import TEST
from services.storage.datasets.store import Content, Copied, ItemRow
from services.storage.pictures.admission import Problem, Verdict


@dataclass
class Derivation:
    """What becomes of the items of a base, which are ordered by label and digest.

    gone: positions of the removed ones. changed: items with another label, annotations or split, by position. fresh:
    items that the base does not have. The split of fresh items, and of changed ones that were unlabelled, is 0 until it
    is chosen; that of unlabelled ones stays 0. relabelled, annotated, recalled: how many of `changed` have another
    label or other annotations, or were taken back to test. changed_tests: items of the test split that are removed or
    say something else. refused: additions that have another label or other annotations in the base.
    """

    base: Sequence[ItemRow]
    gone: list[int] = field(default_factory=list)
    changed: dict[int, ItemRow] = field(default_factory=dict)
    fresh: list[ItemRow] = field(default_factory=list)
    changed_tests: list[ItemRow] = field(default_factory=list)
    relabelled: int = 0
    annotated: int = 0
    recalled: int = 0
    refused: list[Verdict] = field(default_factory=list)

    @property
    def cut(self) -> list[int]:
        """The positions whose items do not stay as they are, sorted."""
        return sorted([*self.gone, *self.changed])

    @property
    def put(self) -> list[ItemRow]:
        """The items that come in place of those at `cut`, and beside them."""
        return [*self.changed.values(), *self.fresh]

    @property
    def to_place(self) -> list[ItemRow]:
        """The labelled items whose split is not chosen yet."""
        return [item for item in self.put if not item.split and not item.unlabelled]

    @property
    def turned(self) -> list[int]:
        """The positions of pictures that were unlabelled and are not any more, or the other way around."""
        return [place for place, item in self.changed.items() if item.unlabelled != self.base[place].unlabelled]

    @property
    def items(self) -> Iterator[ItemRow]:
        """All items of the version, in no order that is promised."""
        cut = set(self.cut)
        return itertools.chain((item for place, item in enumerate(self.base) if place not in cut), self.put)

    def leave_out(self, digests: Container[str]) -> None:
        """Take additions back; of these, pictures that the base has stay unlabelled as they are there."""
        self.fresh = [item for item in self.fresh if item.digest not in digests]
        for place in self.turned:
            if self.changed[place].digest in digests:
                before, after = self.base[place], self.changed.pop(place)
                self.relabelled -= after.label != before.label
                self.annotated -= identity(after.annotations) != identity(before.annotations)


def derive(
    base: Sequence[ItemRow],
    base_name: str,
    additions: Sequence[ItemRow],
    changes: Changes,
    tested: Mapping[str, ItemRow],
    *,
    force: bool,
    now: float = 0.0,
) -> Derivation:
    """Work out what changes of a base, whose items are `base`.

    additions: each digest once, with its size. tested: the pictures that are to be in test, wherever they stand in the
    base. now: when annotations are verified, in wall-clock seconds. Raises BadDataset when a change names a picture
    that the base does not have, when changes contradict each other, and unless it is forced when they touch the test
    split.
    """
    _refuse_contradictions(additions, changes)
    changing = [*changes.removed, *changes.relabelled, *changes.annotated]
    named = {*changing, *(item.digest for item in additions)}
    positions = {item.digest: position for position, item in enumerate(base) if item.digest in named}
    _refuse_unknown(changing, positions, base_name)
    made = Derivation(base)
    _change(made, positions, changes, tested, now)
    _add(made, positions, base_name, additions, now)
    if not force:
        refuse_moved_tests([item for item in made.fresh if item.split], tested)
        if made.changed_tests:
            raise changed_tests(made.changed_tests)
    made.fresh = [
        item._replace(split=TEST) if item.digest in tested and not item.split and not item.unlabelled else item
        for item in made.fresh
    ]
    return made


def _refuse_contradictions(additions: Iterable[ItemRow], changes: Changes) -> None:
    """Raise BadDataset when a picture is to be removed and kept, or to have two labels, or annotations of two kinds."""
    removed = set(changes.removed)
    for item in additions:
        if item.digest in removed:
            raise contradiction(item.digest, "removed and added")
        if item.unlabelled:
            continue  # it says nothing
        if changes.relabelled.get(item.digest, item.label) != item.label:
            raise contradiction(item.digest, f"added as {item.label!r} and relabelled")
        if regions_of(changes.annotated.get(item.digest, item.annotations)) != regions_of(item.annotations):
            raise contradiction(item.digest, "added with annotations, and annotated otherwise")
    if both := removed & changes.relabelled.keys():
        raise contradiction(min(both), "removed and relabelled")
    if both := removed & changes.annotated.keys():
        raise contradiction(min(both), "removed and annotated")


def contradiction(digest: str, what: str) -> BadDataset:
    """Make the error over a picture that is named twice, in changes that cannot both be."""
    return BadDataset(
        f"the picture {digest} is {what} in one request; name it once", problem="contradiction", digest=digest
    )


def _refuse_unknown(named: Iterable[str], positions: Mapping[str, int], base_name: str) -> None:
    unknown = [digest for digest in named if digest not in positions]
    if unknown:
        raise BadDataset(
            f"{base_name} does not have the picture {unknown[0]}"
            + (f" nor {len(unknown) - 1} others that are to be changed" if len(unknown) > 1 else "")
            + "; only what it has can be removed, relabelled or annotated",
            problem="not_in_base",
            digest=unknown[0],
            count=len(unknown),
        )


def _change(
    made: Derivation, positions: Mapping[str, int], changes: Changes, tested: Mapping[str, ItemRow], now: float
) -> None:
    made.gone = [positions[digest] for digest in changes.removed]
    removed = set(changes.removed)
    recalled = {
        position
        for position, item in enumerate(made.base)
        if item.split not in (NO_SPLIT, TEST) and item.digest in tested and item.digest not in removed
    }
    said = {positions[digest] for digest in [*changes.relabelled, *changes.annotated]}
    for position in sorted(recalled | said):
        before = made.base[position]
        after = _changed(before, changes, tested, now)
        if after != before:
            made.changed[position] = after
            made.relabelled += after.label != before.label
            made.annotated += identity(after.annotations) != identity(before.annotations)
            made.recalled += position in recalled and after.split == TEST
            if before.split == TEST and says_otherwise(before, after):
                made.changed_tests.append(before)
    made.changed_tests += [made.base[position] for position in made.gone if made.base[position].split == TEST]


def _changed(item: ItemRow, changes: Changes, tested: Mapping[str, ItemRow], now: float) -> ItemRow:
    """Return what becomes of an item that stays; its split is 0 where it is labelled for the first time."""
    sent = changes.annotated.get(item.digest)
    after = item._replace(
        label=changes.relabelled.get(item.digest, item.label),
        annotations=item.annotations if sent is None else carry_over(sent, item.annotations, now),
    )
    if after.unlabelled:
        return after._replace(split=NO_SPLIT)
    return after._replace(split=TEST) if item.digest in tested else after


def _add(
    made: Derivation, positions: Mapping[str, int], base_name: str, additions: Iterable[ItemRow], now: float
) -> None:
    for item in additions:
        if item.digest not in positions:
            made.fresh.append(item._replace(annotations=carry_over(item.annotations, UNLABELLED, now)))
            continue
        position = positions[item.digest]
        there = made.changed.get(position, made.base[position])
        # What is added without a word of what is to be seen contradicts nothing.
        if not item.unlabelled and says_otherwise(there, item):
            message = f"{item.filename or item.digest[:12]} is in {base_name} already {_otherwise(there, item)}"
            made.refused.append(Verdict(item.digest, Problem.CONFLICTING_LABEL, message))


def _otherwise(there: ItemRow, item: ItemRow) -> str:
    if there.label != item.label:
        return f"as {there.label!r}, and is added as {item.label!r}; relabel it"
    return "with other annotations; annotate it anew"


def counts_after(before: Counts, made: Derivation) -> Counts:
    """Return what the version has; labelled pictures whose split is not chosen yet count as of NO_SPLIT."""
    return recount(before, (made.base[position] for position in made.cut), made.put)


def placed_after(after: Counts, made: Derivation, strata: Strata) -> dict[str, Counter[int]]:
    """Return of each class that divides pictures how many stand fast in which split; after: as of counts_after."""
    placed = {label: Counter(each) for label, each in after.pictures.items() if label}
    for each in placed.values():
        del each[NO_SPLIT]
    if after.annotated:
        cut = set(made.cut)
        stays = (
            item for place, item in enumerate(made.base) if not item.label and item.annotations and place not in cut
        )
        for label, each in strata.count(itertools.chain(stays, (item for item in made.put if not item.label))).items():
            placed[label] = placed.get(label, Counter()) + each
    return placed


@dataclass(frozen=True)
class Layout:
    """Where the items of a derived version come from, and its digest."""

    content: Content
    digest: str


def lay_out(base_uid: str, made: Derivation) -> Layout:
    """Order what stays of the base and what is put in by label and digest."""
    put = sorted(made.put, key=_order)
    # At one position what is put in comes before what is cut out there.
    steps: list[tuple[int, ItemRow | None]] = [(bisect_left(made.base, _order(item), key=_order), item) for item in put]
    steps += [(position, None) for position in made.cut]
    steps.sort(key=lambda step: (step[0], step[1] is None))
    copied: list[Copied] = []
    placed: list[tuple[int, ItemRow]] = []
    digest = VersionDigest()
    begin = position = 0
    for at, item in [*steps, (len(made.base), None)]:
        if at > begin:
            copied.append(Copied(begin, at - 1, position - begin))
            digest.add(made.base[begin:at])
            position += at - begin
        begin = max(begin, at)
        if item is None:
            begin = at + 1
        else:
            placed.append((position, item))
            digest.add([item])
            position += 1
    return Layout(Content(placed, base_uid, copied), digest.hexdigest())


def _order(item: ItemRow) -> tuple[str, str]:
    return item.label, item.digest
