"""The split as a rule: deterministic, stratified, near-duplicates on one side."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InvalidArgument
from services.storage.datasets.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    assign_splits,
    check_fractions,
    crossing_clusters,
    leading_splits,
)
from tests.storage.photographs import sha256

FRACTIONS = (0.6, 0.2, 0.2)

# (label, cluster) of each picture: few labels and clusters, so that clusters hold several pictures and several labels.
pictures = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 25)), min_size=1, max_size=60)
fractions = st.sampled_from([FRACTIONS, (0.5, 0.5, 0.0), (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)])


def digests_of(count: int) -> list[str]:
    return [sha256(str(number).encode()) for number in range(count)]


@given(pictures, fractions, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_pictures_and_the_numbers_of_clusters_change_nothing(
    drawn: list[tuple[str, int]], parts: tuple[float, float, float], seed: int, shuffler: random.Random
) -> None:
    """The same pictures, labels, clusters and seed give the same split in any order."""
    digests = digests_of(len(drawn))
    first = assign_splits(digests, [label for label, _ in drawn], [cluster for _, cluster in drawn], parts, seed)
    order = list(range(len(drawn)))
    shuffler.shuffle(order)
    again = assign_splits(
        [digests[index] for index in order],
        [drawn[index][0] for index in order],
        [drawn[index][1] + 1000 for index in order],
        parts,
        seed,
    )
    assert [first[index] for index in order] == again


@given(pictures, fractions, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_cluster_never_parts_and_no_split_is_used_that_gets_nothing(
    drawn: list[tuple[str, int]], parts: tuple[float, float, float], seed: int
) -> None:
    """Pictures of one cluster stand in one split; a fraction of 0 gets no picture."""
    labels, clusters = [label for label, _ in drawn], [cluster for _, cluster in drawn]
    splits = assign_splits(digests_of(len(drawn)), labels, clusters, parts, seed)
    assert crossing_clusters(clusters, splits) == 0
    assert set(splits) <= {split for split, part in zip(SPLITS, parts, strict=True) if part > 0}


@given(pictures, fractions, st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_a_class_with_enough_clusters_of_its_own_is_in_every_split(
    drawn: list[tuple[str, int]], parts: tuple[float, float, float], seed: int
) -> None:
    """A class with as many clusters of its own as there are splits gets a picture into each of them."""
    labels, clusters = [label for label, _ in drawn], [cluster for _, cluster in drawn]
    wanted = {split for split, part in zip(SPLITS, parts, strict=True) if part > 0}
    splits = assign_splits(digests_of(len(drawn)), labels, clusters, parts, seed)
    for label in set(labels):
        own = {
            cluster
            for cluster in clusters
            if {other for other, each in zip(labels, clusters, strict=True) if each == cluster} == {label}
        }
        there = {split for split, each in zip(splits, labels, strict=True) if each == label}
        if len(own & {cluster for each, cluster in drawn if each == label}) >= len(wanted):
            assert there == wanted


def test_classes_are_divided_by_the_fractions() -> None:
    """100 pictures of one class and 10 of another are divided 60/20/20 and 6/2/2."""
    labels = ["many"] * 100 + ["few"] * 10
    splits = assign_splits(digests_of(110), labels, list(range(110)), FRACTIONS, 0)
    assert Counter(splits[:100]) == {TRAIN: 60, VALIDATION: 20, TEST: 20}
    assert Counter(splits[100:]) == {TRAIN: 6, VALIDATION: 2, TEST: 2}


def test_another_seed_gives_another_split() -> None:
    """The seed matters."""
    labels = ["a", "b"] * 50
    splits = [assign_splits(digests_of(100), labels, list(range(100)), FRACTIONS, seed) for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_all_zero_fractions_are_the_default() -> None:
    """Nothing said means 0.6, 0.2, 0.2."""
    assert check_fractions((0.0, 0.0, 0.0)) == FRACTIONS


@pytest.mark.parametrize(
    "wrong",
    [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.0, 0.5, 0.5), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)],
)
def test_fractions_that_make_no_split_are_refused(wrong: tuple[float, float, float]) -> None:
    """Fractions add up to 1, none is negative, and there is something to train and to validate on."""
    with pytest.raises(InvalidArgument):
        check_fractions(wrong)


@given(pictures, pictures, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_additions_join_their_cluster_and_test_comes_first(
    old: list[tuple[str, int]], new: list[tuple[str, int]], seed: int
) -> None:
    """New pictures follow those of their cluster that stand fast, to test where one of these is there."""
    labels, clusters = [label for label, _ in old], [cluster for _, cluster in old]
    before = assign_splits(digests_of(len(old)), labels, clusters, FRACTIONS, seed)
    before[0] = TEST  # as a given split may have it: a cluster on two sides
    leading = leading_splits(clusters, before)
    placed = {label: Counter(s for s, each in zip(before, labels, strict=True) if each == label) for label in "abc"}
    digests = [sha256(f"new {number}".encode()) for number in range(len(new))]
    fresh = [cluster for _, cluster in new]
    after = assign_splits(digests, [label for label, _ in new], fresh, FRACTIONS, seed, leading=leading, placed=placed)
    assert crossing_clusters(fresh, after) == 0
    for cluster, split in zip(fresh, after, strict=True):
        there = {each for each, one in zip(before, clusters, strict=True) if one == cluster}
        if there:
            assert split == TEST if TEST in there else split in there


def test_additions_make_up_for_what_is_missing() -> None:
    """50 pictures that all stand in training are made up for by 50 more, down to the picture."""
    placed = {"a": {TRAIN: 50}}
    splits = assign_splits(digests_of(50), ["a"] * 50, list(range(50)), FRACTIONS, 0, placed=placed)
    assert Counter(splits) == {TRAIN: 10, VALIDATION: 20, TEST: 20}
