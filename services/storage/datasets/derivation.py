"""A version made of another one and of what changes: which of its items stay, which go, and where new ones are put."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from loupe.errors import BadDataset
from services.storage.datasets.digest import VersionDigest
from services.storage.datasets.history import changed_tests, refuse_moved_tests
from services.storage.datasets.orders import Changes
from services.storage.datasets.splits import TEST
from services.storage.datasets.store import Content, Copied, ItemRow
from services.storage.pictures.admission import Problem, Verdict


@dataclass
class Derivation:
    """What becomes of the items of a base, which are ordered by label and digest.

    gone: positions of the removed ones. changed: items with another label or split, by position. fresh: items that
    the base does not have; split is 0 until it is chosen. relabelled, recalled: how many of `changed` have another
    label, or were taken back to test. changed_tests: items of the test split that are removed or relabelled. refused:
    additions that have another label in the base.
    """

    base: Sequence[ItemRow]
    gone: list[int] = field(default_factory=list)
    changed: dict[int, ItemRow] = field(default_factory=dict)
    fresh: list[ItemRow] = field(default_factory=list)
    changed_tests: list[ItemRow] = field(default_factory=list)
    relabelled: int = 0
    recalled: int = 0
    refused: list[Verdict] = field(default_factory=list)

    @property
    def cut(self) -> list[int]:
        """The positions whose items do not stay as they are, sorted."""
        return sorted([*self.gone, *self.changed])


def derive(
    base: Sequence[ItemRow],
    base_name: str,
    additions: Sequence[ItemRow],
    changes: Changes,
    tested: Mapping[str, str],
    *,
    force: bool,
) -> Derivation:
    """Work out what changes of a base, whose items are `base`.

    additions: each digest once, with its size. tested: the pictures that are to be in test, wherever they stand in the
    base. Raises BadDataset when a change names a picture that the base does not have, when changes contradict each
    other, and unless it is forced when they touch the test split.
    """
    _refuse_contradictions(additions, changes)
    named = {*changes.removed, *changes.relabelled, *(item.digest for item in additions)}
    positions = {item.digest: position for position, item in enumerate(base) if item.digest in named}
    _refuse_unknown([*changes.removed, *changes.relabelled], positions, base_name)
    made = Derivation(base)
    _change(made, positions, changes, tested)
    _add(made, positions, base_name, additions, changes)
    if not force:
        refuse_moved_tests([item for item in made.fresh if item.split], tested)
        if made.changed_tests:
            raise changed_tests(made.changed_tests)
    made.fresh = [
        replace(item, split=TEST) if item.digest in tested and not item.split else item for item in made.fresh
    ]
    return made


def _refuse_contradictions(additions: Iterable[ItemRow], changes: Changes) -> None:
    """Raise BadDataset when a picture is to be removed and kept, or to have two labels."""
    removed = set(changes.removed)
    for item in additions:
        if item.digest in removed:
            raise contradiction(item.digest, "removed and added")
        if changes.relabelled.get(item.digest, item.label) != item.label:
            raise contradiction(item.digest, f"added as {item.label!r} and relabelled")
    if both := removed & changes.relabelled.keys():
        raise contradiction(min(both), "removed and relabelled")


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
            + "; only what it has can be removed or relabelled",
            problem="not_in_base",
            digest=unknown[0],
            count=len(unknown),
        )


def _change(made: Derivation, positions: Mapping[str, int], changes: Changes, tested: Mapping[str, str]) -> None:
    made.gone = [positions[digest] for digest in changes.removed]
    removed = set(changes.removed)
    recalled = {
        position: TEST
        for position, item in enumerate(made.base)
        if item.split != TEST and item.digest in tested and item.digest not in removed
    }
    relabelled = {
        positions[digest]: label
        for digest, label in changes.relabelled.items()
        if made.base[positions[digest]].label != label
    }
    for position in sorted(recalled.keys() | relabelled.keys()):
        item = made.base[position]
        made.changed[position] = replace(
            item, label=relabelled.get(position, item.label), split=recalled.get(position, item.split)
        )
    made.relabelled, made.recalled = len(relabelled), len(recalled)
    touched = (made.base[position] for position in [*made.gone, *relabelled])
    made.changed_tests = [item for item in touched if item.split == TEST]


def _add(
    made: Derivation,
    positions: Mapping[str, int],
    base_name: str,
    additions: Iterable[ItemRow],
    changes: Changes,
) -> None:
    for item in additions:
        if item.digest not in positions:
            made.fresh.append(item)
            continue
        label = changes.relabelled.get(item.digest, made.base[positions[item.digest]].label)
        if label != item.label:
            called = item.filename or item.digest[:12]
            message = f"{called} is in {base_name} already as {label!r}, and is added as {item.label!r}; relabel it"
            made.refused.append(Verdict(item.digest, Problem.CONFLICTING_LABEL, message))


def counts_after(before: Mapping[str, Mapping[int, int]], made: Derivation) -> dict[str, Counter[int]]:
    """Return of each class how many pictures are in which split, without fresh ones whose split is not chosen yet."""
    counts = {label: Counter(each) for label, each in before.items()}
    for position in made.cut:
        counts[made.base[position].label][made.base[position].split] -= 1
    for item in [*made.changed.values(), *made.fresh]:
        if item.split:
            counts.setdefault(item.label, Counter())[item.split] += 1
    return {label: +each for label, each in sorted(counts.items()) if each.total()}


@dataclass(frozen=True)
class Layout:
    """Where the items of a derived version come from, and its digest."""

    content: Content
    digest: str


def lay_out(base_uid: str, made: Derivation) -> Layout:
    """Order what stays of the base and what is put in by label and digest."""
    put = sorted([*made.changed.values(), *made.fresh], key=_order)
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
