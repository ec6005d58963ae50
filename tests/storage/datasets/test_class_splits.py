"""Splits of whole classes: no class is in two splits, what was in test stays there, and what it breaks is told."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import BadDataset, InvalidArgument
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1.blob_service_pb2 import PICTURE_PROBLEM_CONFLICTING_LABEL
from services.storage.datasets.class_splits import class_of, divide_classes, draw_classes, near_test
from services.storage.datasets.splits import BY_CLASS, TEST, TRAIN, VALIDATION, Policy, choose_policy
from services.storage.datasets.store import ItemRow
from tests.storage.datasets.test_living import derive
from tests.storage.house import Client
from tests.storage.photographs import encode, jpeg, photograph, sha256

FRACTIONS = (0.6, 0.2, 0.2)
SPLIT = {"unit": dataset_pb2.SPLIT_UNIT_CLASS}
CLASSES = "abcdef"
PICTURES = {label: [jpeg(10 * number + each) for each in range(2)] for number, label in enumerate(CLASSES)}
MORE = {label: jpeg(10 * number + 5) for number, label in enumerate(CLASSES)}

fractions = st.sampled_from([FRACTIONS, (0.5, 0.5, 0.0), (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)])
labels = st.sets(st.text("abcdefgh", min_size=1, max_size=3), min_size=2, max_size=40)


def policy(parts: tuple[float, float, float] = FRACTIONS, seed: int = 0) -> Policy:
    return Policy(parts, seed, BY_CLASS)


@given(labels, fractions, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_classes_are_drawn_by_the_seed_in_proportion(
    drawn: set[str], parts: tuple[float, float, float], seed: int, shuffler: random.Random
) -> None:
    """In any order the same; within one class of the fractions, or as many as it takes to have one in each split."""
    order = sorted(drawn)
    shuffler.shuffle(order)
    found = draw_classes(order, {}, policy(parts, seed))
    assert found == draw_classes(drawn, {}, policy(parts, seed))
    there = Counter(found.values())
    wanted = [split for split, part in zip((TRAIN, VALIDATION, TEST), parts, strict=True) if part]
    assert there.keys() == set(wanted[: len(drawn)])
    for split, part in zip((TRAIN, VALIDATION, TEST), parts, strict=True):
        assert there[split] < part * len(drawn) + 2


@given(labels, labels, fractions, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_what_stands_stays_when_classes_come(
    first: set[str], more: set[str], parts: tuple[float, float, float], seed: int
) -> None:
    """New classes are drawn beside those that are there, and move none."""
    before = draw_classes(first, {}, policy(parts, seed))
    after = draw_classes(first | more, before, policy(parts, seed))
    assert before.items() <= after.items()
    assert after.keys() == first | more


def test_two_classes_are_for_training_and_validation() -> None:
    """Test gets none before there are three classes."""
    assert sorted(draw_classes("ab", {}, policy()).values()) == [TRAIN, VALIDATION]
    assert sorted(draw_classes("abc", {}, policy()).values()) == [TRAIN, VALIDATION, TEST]


def test_one_class_cannot_be_divided() -> None:
    """It is said what would be right."""
    with pytest.raises(BadDataset, match="the only class") as refused:
        draw_classes("a", {}, policy())
    assert refused.value.metadata["problem"] == "too_few_classes"


def test_another_seed_draws_other_classes() -> None:
    """The seed matters."""
    assert draw_classes(CLASSES, {}, policy(seed=0)) != draw_classes(CLASSES, {}, policy(seed=1))


def test_many_classes_are_divided_fast() -> None:
    """1,600 classes of 20 pictures: exactly by the fractions, in well below a second of the processor."""
    items = [ItemRow(sha256(f"{n}".encode()), f"class-{n % 1600}", 0, "", 0) for n in range(32_000)]
    begun = time.process_time()
    classes = divide_classes(items, (), (), policy())
    splits = [classes.split_of(item) for item in items]
    assert time.process_time() - begun < 2
    assert Counter(splits) == {TRAIN: 960 * 20, VALIDATION: 320 * 20, TEST: 320 * 20}


@pytest.mark.parametrize(
    ("there", "out"),
    [
        ([(TEST, False), (TRAIN, True), (VALIDATION, True), (TEST, True)], [1, 2]),
        ([(TRAIN, False), (TEST, True), (TRAIN, True)], [1]),
        ([(TEST, True), (TRAIN, True)], [1]),
        ([(TRAIN, False), (VALIDATION, True)], []),
        ([(TRAIN, False), (TEST, False)], []),
    ],
)
def test_of_near_duplicates_across_test_the_new_one_stays_out(there: list[tuple[int, bool]], out: list[int]) -> None:
    """What stands is never left out; of new ones those in test are kept."""
    assert near_test([7] * len(there), [split for split, _ in there], [new for _, new in there]) == out


def test_another_unit_takes_a_new_split() -> None:
    """Nobody changes by the way whether classes or pictures are divided; saying nothing keeps it."""
    last = policy((0.5, 0.3, 0.2), 4)
    with pytest.raises(InvalidArgument, match="by class, as the last version"):
        choose_policy(Policy(FRACTIONS), last)
    assert choose_policy(Policy(FRACTIONS), last, resplit=True) == Policy(FRACTIONS)
    assert choose_policy(Policy((0, 0, 0), 5, unit=0), last) == Policy(last.fractions, 5, BY_CLASS)
    assert choose_policy(None, last) == last


def item(data: bytes, label: str, **fields: Any) -> dataset_pb2.DatasetItem:
    return dataset_pb2.DatasetItem(digest=sha256(data), label=label, **fields)


def all_items() -> list[dataset_pb2.DatasetItem]:
    return [item(data, label, filename=f"{label}.jpg") for label, both in PICTURES.items() for data in both]


async def classes_of(client: Client, version: str) -> dict[str, int]:
    """classes_of returns the split of each class, which is one."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for each in await client.items(version):
        found[each.label].add(each.split)
    assert all(len(splits) == 1 for splits in found.values()), found
    return {label: splits.pop() for label, splits in found.items()}


def one_of(classes: dict[str, int], split: int) -> str:
    return min(label for label, where in classes.items() if where == split)


@pytest.fixture
async def letters(anna: Client) -> str:
    """A data set of six classes with two pictures each, split by class; a third one of each is uploaded."""
    await anna.upload([*(data for both in PICTURES.values() for data in both), *MORE.values()])
    dataset = await anna.make_dataset("letters")
    version = (await anna.make_version(dataset, all_items(), split=SPLIT)).dataset_version
    assert version.split.unit == dataset_pb2.SPLIT_UNIT_CLASS
    return dataset


async def test_a_class_stays_where_it_is(anna: Client, letters: str) -> None:
    """Additions follow their class, by additions and by full lists alike; the policy is kept without being said."""
    before = await classes_of(anna, f"{letters}/versions/1")
    assert Counter(before.values()) == {TRAIN: 4, VALIDATION: 1, TEST: 1}
    fresh = [item(data, label) for label, data in MORE.items()]
    derived = (await derive(anna, letters, fresh)).dataset_version
    assert await classes_of(anna, derived.name) == before
    assert derived.split.unit == dataset_pb2.SPLIT_UNIT_CLASS
    other = await anna.make_dataset("whole")
    await anna.make_version(other, all_items(), split=SPLIT)
    whole = await anna.make_version(other, [*all_items(), *fresh])
    assert whole.dataset_version.digest == derived.digest
    assert not any("no picture for" in each for each in whole.warnings)


async def test_a_test_class_stays_one_after_it_was_gone(anna: Client, letters: str) -> None:
    """All its pictures are removed or get another class; what is added of it later goes to test, in a full list too."""
    before = await classes_of(anna, f"{letters}/versions/1")
    held, trained = one_of(before, TEST), one_of(before, TRAIN)
    first, second = map(sha256, PICTURES[held])
    left = await derive(anna, letters, removed=[first], relabelled=[(second, trained)], force=True)
    assert held not in await classes_of(anna, left.dataset_version.name)
    after = await derive(anna, letters, [item(MORE[held], held)])
    assert await classes_of(anna, after.dataset_version.name) == before
    there = [each for each in await anna.items(left.dataset_version.name) if each.digest != second]
    for each in there:
        each.ClearField("split")
    whole = await anna.make_version(letters, [*there, item(MORE[held], held)], force=True)
    assert (await classes_of(anna, whole.dataset_version.name))[held] == TEST


async def test_a_class_removed_and_classes_added(anna: Client, letters: str) -> None:
    """No version goes without validation; classes that come are drawn beside those that stay."""
    before = await classes_of(anna, f"{letters}/versions/1")
    gone = [sha256(data) for data in PICTURES[one_of(before, VALIDATION)]]
    with pytest.raises(BadDataset, match=r"none of the .* is for validation"):
        await derive(anna, letters, removed=gone)
    fresh = [item(MORE["a"], "new"), item(MORE["b"], "newer")]
    after = await classes_of(anna, (await derive(anna, letters, fresh)).dataset_version.name)
    assert after == draw_classes(["new", "newer"], before, policy())


async def test_relabelling_moves_a_picture(anna: Client, letters: str) -> None:
    """It follows its class; out of test only by force, and then it is not taken back."""
    before = await classes_of(anna, f"{letters}/versions/1")
    held, trained, decides = (one_of(before, split) for split in (TEST, TRAIN, VALIDATION))
    into = await derive(anna, letters, relabelled=[(sha256(PICTURES[trained][0]), decides)])
    assert await classes_of(anna, into.dataset_version.name) == before
    assert any(each.startswith("1 picture moved to another split") for each in into.warnings)
    tested = sha256(PICTURES[held][0])
    with pytest.raises(BadDataset, match="--force"):
        await derive(anna, letters, relabelled=[(tested, trained)])
    out = await derive(anna, letters, relabelled=[(tested, trained)], force=True)
    assert await classes_of(anna, out.dataset_version.name) == before
    assert any(each.startswith("1 picture left test") for each in out.warnings)
    again = await derive(anna, letters, [item(MORE[trained], trained)])
    assert await classes_of(anna, again.dataset_version.name) == before


def near(data: bytes) -> bytes:
    """near is nearly the same picture as one of PICTURES."""
    seeds = (10 * number + each for number in range(len(CLASSES)) for each in range(2))
    return encode(photograph(next(seed for seed in seeds if jpeg(seed) == data)), "JPEG", quality=60)


async def test_a_near_duplicate_of_a_test_picture_in_a_training_class_is_left_out(anna: Client, letters: str) -> None:
    """It is named, by additions and full lists alike; so is one of a training picture in a test class."""
    before = await classes_of(anna, f"{letters}/versions/1")
    held, trained = one_of(before, TEST), one_of(before, TRAIN)
    of_test, of_train, same = near(PICTURES[held][0]), near(PICTURES[trained][0]), near(PICTURES[held][1])
    await anna.upload([of_test, of_train, same])
    fresh = [
        item(of_test, trained, filename="of-test.jpg"),
        item(of_train, held, filename="of-train.jpg"),
        item(same, held),
        item(MORE[trained], trained),
    ]
    derived = await derive(anna, letters, fresh)
    assert [each.problem for each in derived.verdicts] == [PICTURE_PROBLEM_CONFLICTING_LABEL] * 2
    said = " ".join(each.message for each in derived.verdicts)
    assert "of-test.jpg is nearly the same as a test picture" in said
    assert "of-train.jpg is nearly the same as a picture that is not in test" in said
    assert derived.dataset_version.added_count == 2
    assert derived.dataset_version.near_duplicate_clusters == 1
    other = await anna.make_dataset("whole")
    await anna.make_version(other, all_items(), split=SPLIT)
    whole = await anna.make_version(other, [*all_items(), *fresh])
    assert whole.dataset_version.digest == derived.dataset_version.digest
    assert {each.digest for each in whole.verdicts} == {each.digest for each in derived.verdicts}
    with pytest.raises(BadDataset, match="strict was asked for"):
        await derive(anna, letters, fresh, base="1", strict=True)


async def test_an_unlabelled_near_duplicate_stays_unlabelled(anna: Client, letters: str) -> None:
    """What looks like a test picture cannot get a class of training later."""
    before = await classes_of(anna, f"{letters}/versions/1")
    copy = near(PICTURES[one_of(before, TEST)][0])
    await anna.upload([copy])
    await derive(anna, letters, [item(copy, "")])
    answer = await derive(anna, letters, relabelled=[(sha256(copy), one_of(before, TRAIN))])
    assert [each.digest for each in answer.verdicts] == [sha256(copy)]
    there = {each.digest: each.label for each in await anna.items(f"{letters}/versions/2")}
    assert there[sha256(copy)] == ""
    assert answer.dataset_version.name == f"{letters}/versions/2"


async def test_a_new_split_says_what_it_breaks(anna: Client, letters: str) -> None:
    """Which classes left test, and that another unit is divided; without it the unit stays."""
    before = await classes_of(anna, f"{letters}/versions/1")
    pictures = {"unit": dataset_pb2.SPLIT_UNIT_PICTURE}
    with pytest.raises(InvalidArgument, match="by class, as the last version"):
        await anna.make_version(letters, all_items(), split=pictures)
    seed = next(
        seed for seed in range(1, 50) if draw_classes(CLASSES, {}, policy(seed=seed))[one_of(before, TEST)] == TRAIN
    )
    anew = await anna.make_version(letters, all_items(), split={**SPLIT, "seed": seed}, resplit=True)
    after = await classes_of(anna, anew.dataset_version.name)
    assert after == draw_classes(CLASSES, {}, policy(seed=seed))
    assert any(
        f"1 of the classes that were kept for test left it: {one_of(before, TEST)!r}" in e for e in anew.warnings
    )
    grown = await derive(anna, letters, [item(data, label) for label, data in MORE.items()])
    assert await classes_of(anna, grown.dataset_version.name) == after
    other = await anna.make_version(letters, all_items(), split=pictures, resplit=True)
    assert any("was split by class and is split by picture now" in each for each in other.warnings)
    assert other.dataset_version.split.unit == dataset_pb2.SPLIT_UNIT_PICTURE


async def test_an_older_version_is_gone_on_with_by_todays_test_classes(anna: Client, letters: str) -> None:
    """A class that came to test after the base is taken back to test, as single pictures are."""
    before = await classes_of(anna, f"{letters}/versions/1")
    seed = next(
        seed for seed in range(50) if before[one_of(draw_classes(CLASSES, {}, policy(seed=seed)), TEST)] == TRAIN
    )
    await anna.make_version(letters, all_items(), split={**SPLIT, "seed": seed}, resplit=True)
    held = one_of(draw_classes(CLASSES, {}, policy(seed=seed)), TEST)
    answer = await derive(anna, letters, [item(MORE[held], held)], base="1")
    assert await classes_of(anna, answer.dataset_version.name) == {**before, held: TEST}


async def test_boxes_of_one_class_a_picture_are_divided_and_of_several_refused(anna: Client, letters: str) -> None:
    """A picture belongs to the class of its boxes; what has none is for training."""

    def boxed(data: bytes, *of: str) -> dataset_pb2.DatasetItem:
        corners = {"x_max": 0.5, "y_max": 0.5}
        boxes = [dataset_pb2.Annotation(label=label, box=corners) for label in of]
        return dataset_pb2.DatasetItem(digest=sha256(data), annotations=boxes, nothing_there=not of)

    parts = await anna.make_dataset("parts")
    items = [boxed(both[0], label) for label, both in PICTURES.items()]
    with pytest.raises(BadDataset, match="shows 2 classes") as refused:
        await anna.make_version(parts, [*items, boxed(MORE["a"], "a", "b")], split=SPLIT)
    assert refused.value.metadata["problem"] == "several_classes"
    made = await anna.make_version(parts, [*items, boxed(MORE["a"])], split=SPLIT)
    splits = {each.digest: each.split for each in await anna.items(made.dataset_version.name)}
    expected = draw_classes(CLASSES, {}, policy())
    assert {label: splits[sha256(both[0])] for label, both in PICTURES.items()} == expected
    assert splits[sha256(MORE["a"])] == TRAIN
    with pytest.raises(BadDataset, match="shows 2 classes"):
        await derive(anna, parts, [boxed(MORE["b"], "a", "b")])


async def test_a_given_split_cannot_part_a_class(anna: Client, letters: str) -> None:
    """An addition that says another split than its class has is refused."""
    held = one_of(await classes_of(anna, f"{letters}/versions/1"), TEST)
    with pytest.raises(BadDataset, match="split by class") as refused:
        await derive(anna, letters, [item(MORE[held], held, split=dataset_pb2.SPLIT_TRAIN)])
    assert refused.value.metadata["problem"] == "class_in_two_splits"
    told = await derive(anna, letters, [item(MORE[held], "new", split=dataset_pb2.SPLIT_VALIDATION)])
    assert (await classes_of(anna, told.dataset_version.name))["new"] == VALIDATION


@pytest.mark.parametrize(
    ("label", "annotations", "shown"),
    [("a", "", "a"), ("", "[]", ""), ("a", '{"regions":[["a",[[0.0,0.0],[1.0,1.0]]]],"provenance":[{}]}', "a")],
)
def test_the_class_of_a_picture(label: str, annotations: str, shown: str) -> None:
    """A picture's own class and those of its boxes are one."""
    assert class_of(ItemRow("d", label, 0, "", 0, annotations)) == shown
