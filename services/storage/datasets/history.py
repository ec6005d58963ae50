"""What the versions before ask of a new one: pictures keep their split, and what was ever in test is not trained on."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loupe.annotations import regions_of
from loupe.errors import BadDataset
from services.storage.datasets.splits import TEST, Policy
from services.storage.datasets.store import ItemRow


@dataclass(frozen=True)
class History:
    """What is known of a data set's earlier versions.

    last: the last version's items by digest. tested: pictures that were in test in any version and were not taken out
    of it by force or by a new split, as they were when they were in it last. policy: how the last version was divided;
    None for none. test_classes: see DatasetRow.classes_in_test.
    """

    last: Mapping[str, ItemRow] = field(default_factory=dict)
    tested: Mapping[str, ItemRow] = field(default_factory=dict)
    policy: Policy | None = None
    test_classes: Collection[str] = ()

    def split_of(self, digest: str) -> int:
        """Return the split that a labelled picture keeps; 0 for one that is new, or was unlabelled."""
        if digest in self.tested:
            return TEST
        return self.last[digest].split if digest in self.last else 0


NOTHING_BEFORE = History()


def leave_test(items: Iterable[ItemRow], tested: Container[str]) -> list[ItemRow]:
    """Return the items that were ever in test and are in another split; unlabelled ones are in none."""
    return [item for item in items if item.split not in (0, TEST) and item.digest in tested]


def refuse_moved_tests(items: Iterable[ItemRow], tested: Container[str]) -> None:
    """Raise BadDataset when a given split takes pictures that were ever in test out of it."""
    moved = leave_test(items, tested)
    if moved:
        first = moved[0].filename or moved[0].digest
        raise BadDataset(
            f"{_pictures(len(moved))} of the test split would be for training or validation, the first: {first}; give "
            "them the split test, or force it (--force): results on test cannot be compared with earlier ones then",
            problem="test_picture_moved",
            count=len(moved),
            file=first,
            digest=moved[0].digest,
        )


def refuse_changed_tests(items: Iterable[ItemRow], last: Iterable[ItemRow]) -> None:
    """Raise BadDataset when test pictures of the last version are missing in this one, or say something else."""
    there = {item.digest: item for item in items}
    tests = (item for item in last if item.split == TEST)
    changed = [item for item in tests if item.digest not in there or says_otherwise(item, there[item.digest])]
    if changed:
        raise changed_tests(changed)


def says_otherwise(item: ItemRow, other: ItemRow) -> bool:
    """Return whether a picture has another class, or other regions; that somebody verified them changes neither."""
    return item.label != other.label or (
        item.annotations != other.annotations and regions_of(item.annotations) != regions_of(other.annotations)
    )


def changed_tests(changed: Sequence[ItemRow]) -> BadDataset:
    """Make the error over test pictures that are to be removed, relabelled or annotated anew."""
    first = changed[0].filename or changed[0].digest
    return BadDataset(
        f"{_pictures(len(changed))} of the test split would be removed or get another class or other annotations, "
        f"the first: {first}; models are judged by these: keep them as they are, or force it (--force)",
        problem="test_picture_changed",
        count=len(changed),
        file=first,
        digest=changed[0].digest,
    )


def left_test(items: Iterable[ItemRow], tested: Container[str]) -> list[str]:
    """Return a sentence over the pictures of these that were in test before and are not any more; none for none."""
    left = len(leave_test(items, tested))
    if not left:
        return []
    return [
        f"{_pictures(left)} left test; figures of earlier versions can no longer be compared with those of this one"
    ]


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
