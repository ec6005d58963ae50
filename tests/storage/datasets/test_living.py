"""Data sets that live: versions made of others, a split that holds, and what two versions do not have alike."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from loupe import database
from loupe.errors import BadDataset, InvalidArgument, NotFound, PermissionDenied, SizeMismatch
from loupe.idempotency import RequestLog
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.blob_service_pb2 import PictureProblem
from services.storage.database.session import Database
from tests.storage.house import LINE, Client, House, upgraded
from tests.storage.photographs import encode, jpeg, photograph, sha256

PICTURES = [jpeg(seed) for seed in range(40)]
MORE = [jpeg(seed) for seed in range(100, 130)]
TRAIN, VALIDATION, TEST = dataset_pb2.SPLIT_TRAIN, dataset_pb2.SPLIT_VALIDATION, dataset_pb2.SPLIT_TEST


def item(data: bytes, label: str, **fields: Any) -> dataset_pb2.DatasetItem:
    return dataset_pb2.DatasetItem(digest=sha256(data), label=label, **fields)


def items_of(pictures: Sequence[bytes]) -> list[dataset_pb2.DatasetItem]:
    return [item(each, "ab"[index % 2], filename=f"{index}.jpg") for index, each in enumerate(pictures)]


async def changes_stream(
    dataset: str,
    items: Sequence[dataset_pb2.DatasetItem],
    removed: Sequence[str],
    relabelled: Sequence[tuple[str, str]],
    annotated: Sequence[rpc.AnnotatedPicture] = (),
    *,
    announced: int | None = None,
    **header: Any,
) -> AsyncIterator[rpc.CreateDatasetVersionRequest]:
    yield rpc.CreateDatasetVersionRequest(header={"parent": dataset, **header})
    if items:
        yield rpc.CreateDatasetVersionRequest(batch={"items": items})
    pairs = [{"digest": digest, "label": label} for digest, label in relabelled]
    changes = {"removed_digests": removed, "relabelled": pairs, "annotated": annotated}
    yield rpc.CreateDatasetVersionRequest(changes=changes)
    count = len(removed) + len(relabelled) + len(annotated) if announced is None else announced
    yield rpc.CreateDatasetVersionRequest(closing={"item_count": len(items), "change_count": count})


async def derive(
    client: Client,
    dataset: str,
    items: Sequence[dataset_pb2.DatasetItem] = (),
    *,
    removed: Sequence[str] = (),
    relabelled: Sequence[tuple[str, str]] = (),
    annotated: Sequence[rpc.AnnotatedPicture] = (),
    announced: int | None = None,
    base: str = "latest",
    **header: Any,
) -> rpc.CreateDatasetVersionResponse:
    header["base"] = base if "/" in base else f"{dataset}/versions/{base}"
    return await client.stream_version(
        lambda: changes_stream(dataset, items, removed, relabelled, annotated, announced=announced, **header)
    )


async def splits_of(client: Client, version: str) -> dict[str, int]:
    return {each.digest: each.split for each in await client.items(version)}


def some(splits: dict[str, int], split: int, count: int = 1) -> list[str]:
    """some returns digests of pictures in a split."""
    return sorted(digest for digest, where in splits.items() if where == split)[:count]


@pytest.fixture
async def screws(anna: Client) -> str:
    """A data set in line-7 with a version of 40 pictures; 30 more are uploaded."""
    await anna.upload([*PICTURES, *MORE])
    dataset = await anna.make_dataset("screws")
    await anna.make_version(dataset, items_of(PICTURES))
    return dataset


async def test_a_derived_version_is_exactly_that_of_a_full_push(anna: Client, screws: str) -> None:
    """Items, splits, counts and digest are those of a full list; the document says base and counts."""
    before = await splits_of(anna, f"{screws}/versions/1")
    gone, changed = some(before, TRAIN, 2), some(before, VALIDATION, 2)
    labels = {each.digest: each.label for each in items_of(PICTURES)}
    relabelled = [(digest, "ba"["ab".index(labels[digest])]) for digest in changed]
    fresh = items_of([*PICTURES[:3], *MORE[:6]])
    answer = await derive(anna, screws, fresh, removed=gone, relabelled=relabelled)
    version = answer.dataset_version
    assert (version.base, version.added_count, version.removed_count, version.relabelled_count) == (
        f"{screws}/versions/1", 6, 2, 2,
    )  # fmt: skip
    assert version.picture_count == 44
    items = await anna.items(version.name)
    assert items == sorted(items, key=lambda each: (each.label, each.digest))
    assert {each.digest: each.split for each in items if each.digest in before} == {
        digest: split for digest, split in before.items() if digest not in gone
    }
    other = await anna.make_dataset("whole")
    whole = (await anna.make_version(other, items)).dataset_version
    assert (whole.digest, whole.labels, whole.byte_count) == (version.digest, version.labels, version.byte_count)
    assert [(each.digest, each.filename, each.size) for each in await anna.items(whole.name)] == [
        (each.digest, each.filename, each.size) for each in items
    ]


async def test_additions_are_placed_as_a_full_push_places_them(anna: Client, screws: str) -> None:
    """Growing by additions and by full lists gives the same versions, near-duplicates and tested ones included."""
    near = [encode(photograph(seed), "JPEG", quality=60) for seed in (1, 2, 3, 100, 101)]
    await anna.upload(near)
    tested = some(await splits_of(anna, f"{screws}/versions/1"), TEST)
    other = await anna.make_dataset("whole")
    await anna.make_version(other, items_of(PICTURES))
    left = [each for each in items_of(PICTURES) if each.digest not in tested]
    await derive(anna, screws, removed=tested, force=True)
    await anna.make_version(other, left, force=True)
    fresh = [*items_of([*near, *MORE])]
    derived = (await derive(anna, screws, fresh)).dataset_version
    whole = (await anna.make_version(other, [*left, *fresh])).dataset_version
    assert derived.digest == whole.digest
    assert derived.near_duplicate_clusters == whole.near_duplicate_clusters > 0


@pytest.mark.parametrize("seed", range(3))
async def test_growth_moves_no_picture(anna: Client, screws: str, seed: int) -> None:
    """Whatever is added, by additions or full lists, old pictures stay where they were and fractions are approached."""
    rng = random.Random(seed)
    there, version = items_of(PICTURES), f"{screws}/versions/1"
    left = items_of(MORE)
    rng.shuffle(left)
    while left:
        before = await splits_of(anna, version)
        count = rng.randint(1, 12)
        fresh, left = left[:count], left[count:]
        there += fresh
        made = derive(anna, screws, fresh) if rng.random() < 0.5 else anna.make_version(screws, there)
        version = (await made).dataset_version.name
        after = await splits_of(anna, version)
        assert {digest: after[digest] for digest in before} == before
        assert len(after) == len(there)
    counts = Counter(after.values())
    for split, share in ((TRAIN, 0.6), (VALIDATION, 0.2), (TEST, 0.2)):
        assert abs(counts[split] - share * len(after)) <= 2


async def test_near_duplicates_of_test_pictures_go_to_test(anna: Client, screws: str) -> None:
    """Copies at another quality, also of a test picture that is not in the base any more."""
    splits = await splits_of(anna, f"{screws}/versions/1")
    of_test = [seed for seed, each in enumerate(PICTURES) if splits[sha256(each)] == TEST]
    copies = [encode(photograph(seed), "JPEG", quality=60) for seed in of_test]
    await anna.upload(copies)
    gone = sha256(PICTURES[of_test[0]])
    await derive(anna, screws, removed=[gone], force=True)
    answer = await derive(anna, screws, [item(each, "a") for each in copies])
    after = await splits_of(anna, answer.dataset_version.name)
    assert {after[sha256(each)] for each in copies} == {TEST}
    back = await derive(anna, screws, [item(PICTURES[of_test[0]], "a")])
    assert (await splits_of(anna, back.dataset_version.name))[gone] == TEST


async def test_test_pictures_are_changed_by_force_only(anna: Client, screws: str) -> None:
    """Removing or relabelling one, by changes or a full list, and training on one are refused and named."""
    splits = await splits_of(anna, f"{screws}/versions/1")
    (tested,) = some(splits, TEST)
    files = {each.digest: each for each in items_of(PICTURES)}
    other = "ba"["ab".index(files[tested].label)]
    full = [each for each in items_of(PICTURES) if each.digest != tested]
    for refused in (
        lambda **how: derive(anna, screws, removed=[tested], **how),
        lambda **how: derive(anna, screws, relabelled=[(tested, other)], **how),
        lambda **how: anna.make_version(screws, full, **how),
    ):
        with pytest.raises(BadDataset) as caught:
            await refused()
        assert caught.value.metadata["problem"] == "test_picture_changed"
        assert (caught.value.metadata["count"], caught.value.metadata["file"]) == ("1", files[tested].filename)
        assert "--force" in caught.value.message
    given = [item(each, "ab"[index % 2], split=splits[sha256(each)]) for index, each in enumerate(PICTURES)]
    next(each for each in given if each.digest == tested).split = TRAIN
    with pytest.raises(BadDataset) as caught:
        await anna.make_version(screws, given)
    assert caught.value.metadata["problem"] == "test_picture_moved"
    answer = await anna.make_version(screws, given, force=True)
    assert any("1 picture left test" in warning for warning in answer.warnings)
    relabelled = await derive(anna, screws, relabelled=[(some(splits, TEST, 2)[1], "c")], force=True)
    assert relabelled.dataset_version.relabelled_count == 1
    later = await derive(anna, screws, items_of(MORE))
    assert (await splits_of(anna, later.dataset_version.name))[tested] == TRAIN


async def test_a_new_split_is_an_act_of_its_own(anna: Client, screws: str) -> None:
    """Fractions and seed on a later push are for new pictures, which is said; resplit divides all, and says so."""
    before = await splits_of(anna, f"{screws}/versions/1")
    split = {"train_fraction": 0.5, "validation_fraction": 0.3, "test_fraction": 0.2, "seed": 9}
    full = items_of([*PICTURES, *MORE[:10]])
    held = await anna.make_version(screws, full, split=split)
    after = await splits_of(anna, held.dataset_version.name)
    assert {digest: after[digest] for digest in before} == before
    assert any("the 10 new pictures" in warning for warning in held.warnings)
    anew = await anna.make_version(screws, full, split=split, resplit=True)
    divided = await splits_of(anna, anew.dataset_version.name)
    left = sum(divided[digest] != TEST for digest in some(after, TEST, 100))
    assert left and any(f"{left} pictures left test" in warning for warning in anew.warnings)
    counts = Counter(divided.values())
    assert abs(counts[TRAIN] - 25) <= 1 and abs(counts[VALIDATION] - 15) <= 1 and counts[TEST] == 10
    grown = await derive(anna, screws, items_of(MORE))
    there = await splits_of(anna, grown.dataset_version.name)
    assert {digest: there[digest] for digest in divided} == divided
    with pytest.raises(InvalidArgument, match="do not carry their split"):
        await anna.make_version(screws, [item(each, "a", split=TRAIN) for each in PICTURES], resplit=True)


async def test_bad_changes_are_named_and_make_nothing(anna: Client, screws: str) -> None:
    """Unknown digests, contradictions, half a base, a wrong count, another data set's base."""
    digest, other = (sha256(each) for each in PICTURES[:2])
    unknown = "ab" * 32
    for changes, problem in (
        ({"removed": [unknown]}, "not_in_base"),
        ({"relabelled": [(unknown, "a")]}, "not_in_base"),
        ({"removed": [digest], "relabelled": [(digest, "b")]}, "contradiction"),
        ({"relabelled": [(digest, "a"), (digest, "b")]}, "contradiction"),
        ({"items": [item(PICTURES[0], "a")], "removed": [digest]}, "contradiction"),
        ({"items": [item(PICTURES[0], "a")], "relabelled": [(digest, "b")]}, "contradiction"),
    ):
        with pytest.raises(BadDataset) as caught:
            await derive(anna, screws, force=True, **changes)
        assert caught.value.metadata["problem"] == problem
        assert caught.value.metadata["digest"] in (digest, unknown)
    with pytest.raises(SizeMismatch, match="2 changes, but 1 came"):
        await derive(anna, screws, removed=[other], announced=2)
    with pytest.raises(InvalidArgument, match=f"a version of {screws}"):
        await derive(anna, screws, base=f"{LINE}/datasets/nuts/versions/1")
    with pytest.raises(NotFound):
        await derive(anna, screws, base="7")
    for wrong in ({"removed": ["x"]}, {"relabelled": [(digest, " a")]}):
        with pytest.raises(InvalidArgument):
            await derive(anna, screws, **wrong)
    with pytest.raises(InvalidArgument, match=r"header\.base"):
        await anna.stream_version(lambda: changes_stream(screws, [], [digest], [], force=True))
    assert [each.name for each in await versions(anna, screws)] == [f"{screws}/versions/1"]


async def versions(client: Client, dataset: str) -> list[dataset_pb2.DatasetVersion]:
    page = await client.datasets.ListDatasetVersions(rpc.ListDatasetVersionsRequest(parent=dataset))
    return list(page.dataset_versions)


async def test_an_addition_with_another_label_is_a_conflict(anna: Client, screws: str) -> None:
    """The same label changes nothing; another one is left out, with the advice to relabel; strict fails."""
    same = await derive(anna, screws, items_of(PICTURES[:4]))
    assert same.dataset_version.name == f"{screws}/versions/1"
    wrong = [item(PICTURES[0], "b", filename="new.jpg")]
    answer = await derive(anna, screws, [*wrong, *items_of(MORE[:1])])
    assert answer.verdicts[0].problem == PictureProblem.PICTURE_PROBLEM_CONFLICTING_LABEL
    assert "as 'a', and is added as 'b'; relabel it" in answer.verdicts[0].message
    assert answer.dataset_version.added_count == 1
    with pytest.raises(BadDataset, match="strict"):
        await derive(anna, screws, wrong, strict=True)


async def test_classes_come_and_go(anna: Client, screws: str) -> None:
    """A class that is new is divided; removing all pictures of one of two leaves one, with a warning."""
    answer = await derive(anna, screws, [item(each, "new") for each in MORE[:10]])
    counts = {each.label: each for each in answer.dataset_version.labels}
    assert (counts["new"].train_count, counts["new"].validation_count, counts["new"].test_count) == (6, 2, 2)
    all_of_b = [each.digest for each in items_of(PICTURES) if each.label == "b"]
    alone = await derive(anna, screws, removed=all_of_b, base="1", force=True)
    assert any("a classifier needs at least two classes" in each for each in alone.warnings)
    two = await derive(anna, screws, removed=all_of_b, base="2", force=True)
    assert [each.label for each in two.dataset_version.labels] == ["a", "new"]


async def test_a_repeated_request_has_one_effect(anna: Client, screws: str) -> None:
    """Also when what it removes is gone from the latest version by then."""
    (digest,) = some(await splits_of(anna, f"{screws}/versions/1"), TRAIN)
    calls = [derive(anna, screws, removed=[digest], request_id="r1") for _ in range(10)]
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert await derive(anna, screws, removed=[digest], request_id="r1") == answers[0]
    assert len(await versions(anna, screws)) == 2


async def test_concurrent_changes_of_the_latest_version_all_stay(anna: Client, screws: str) -> None:
    """With "latest" each is based on the one before; with a number, on what it names."""
    await asyncio.gather(*(derive(anna, screws, items_of([each])) for each in MORE[:8]))
    made = await versions(anna, screws)
    assert [each.base.rpartition("/")[2] for each in made] == [str(number) for number in range(8, 0, -1)] + [""]
    assert made[0].picture_count == 48
    await asyncio.gather(*(derive(anna, screws, items_of([each]), base="1") for each in MORE[10:12]))
    for each in (await versions(anna, screws))[:2]:
        assert (each.base, each.picture_count) == (f"{screws}/versions/1", 41)


async def test_what_was_tested_later_is_not_trained_on_from_an_older_base(anna: Client, screws: str) -> None:
    """A picture that a later version has in test goes to test in one that is derived from an earlier version too."""
    splits = await splits_of(anna, f"{screws}/versions/1")
    (moved,) = some(splits, TRAIN)
    given = [item(each, "ab"[index % 2], split=splits[sha256(each)]) for index, each in enumerate(PICTURES)]
    next(each for each in given if each.digest == moved).split = TEST
    await anna.make_version(screws, given)
    answer = await derive(anna, screws, items_of(MORE[:2]), base="1")
    assert (await splits_of(anna, answer.dataset_version.name))[moved] == TEST
    assert any("were in test in another version" in warning for warning in answer.warnings)


async def test_going_back_says_which_version_that_is(anna: Client, screws: str) -> None:
    """Taking a change back makes nothing new, and the answer says that the newest is still another one."""
    await derive(anna, screws, items_of(MORE[:1]))
    added = next(iter(set(await splits_of(anna, f"{screws}/versions/2")) - {sha256(each) for each in PICTURES}))
    back = await derive(anna, screws, removed=[added], force=True)
    assert back.dataset_version.name == f"{screws}/versions/1"
    assert any("the newest is still version 2" in warning for warning in back.warnings)


async def diff(client: Client, base: str, name: str, most: int = 0) -> tuple[Any, list[Any]]:
    request = rpc.DiffDatasetVersionsRequest(base=base, name=name, most=most)
    messages = [each async for each in client.datasets.DiffDatasetVersions(request)]
    return messages[0].summary, [one for each in messages for one in each.differences]


async def test_differences_are_told_by_kind(anna: Client, eve: Client, screws: str) -> None:
    """Added, removed, relabelled and moved, with counts, and at most as many of each as asked for."""
    splits = await splits_of(anna, f"{screws}/versions/1")
    gone, changed = some(splits, TRAIN, 2), some(splits, VALIDATION)
    await derive(anna, screws, items_of(MORE[:3]), removed=gone, relabelled=[(changed[0], "c")])
    given = await anna.items(f"{screws}/versions/latest")
    moved = next(each for each in given if each.split == TRAIN and each.digest in splits)
    moved.split = VALIDATION
    await anna.make_version(screws, given)
    summary, found = await diff(anna, f"{screws}/versions/1", f"{screws}/versions/latest")
    assert (summary.base, summary.name) == (f"{screws}/versions/1", f"{screws}/versions/3")
    counts = (summary.added_count, summary.removed_count, summary.relabelled_count, summary.moved_count)
    assert counts == (3, 2, 1, 1)
    kinds = Counter(one.kind for one in found)
    assert kinds == {1: 3, 2: 2, 3: 1, 4: 1}
    assert {one.digest for one in found if one.kind == rpc.DATASET_DIFFERENCE_KIND_REMOVED} == set(gone)
    (one,) = [one for one in found if one.kind == rpc.DATASET_DIFFERENCE_KIND_MOVED]
    assert (one.digest, one.base_split, one.split) == (moved.digest, TRAIN, VALIDATION)
    (one,) = [one for one in found if one.kind == rpc.DATASET_DIFFERENCE_KIND_RELABELLED]
    assert (one.digest, one.label) == (changed[0], "c") and one.base_label in "ab"
    _, few = await diff(anna, f"{screws}/versions/1", f"{screws}/versions/3", most=1)
    assert Counter(one.kind for one in few) == {1: 1, 2: 1, 3: 1, 4: 1}
    with pytest.raises(InvalidArgument, match="most"):
        await diff(anna, f"{screws}/versions/1", f"{screws}/versions/3", most=-1)
    with pytest.raises(InvalidArgument, match="base"):
        await diff(anna, "projects/other/datasets/x/versions/1", f"{screws}/versions/3")
    with pytest.raises(NotFound):
        await diff(eve, f"{screws}/versions/1", f"{screws}/versions/3")


async def test_access_is_decided_by_the_contract(house: House, anna: Client, screws: str) -> None:
    """Who may only read compares and does not change; who is in the project without a right does neither."""
    house.auth.levels["vera", "line-7"] = 10
    vera = house.client("vera")
    await diff(vera, f"{screws}/versions/1", f"{screws}/versions/1")
    with pytest.raises(PermissionDenied):
        await derive(vera, screws, items_of(MORE[:1]))
    house.auth.levels["vera", "line-7"] = 0
    with pytest.raises(PermissionDenied):
        await diff(vera, f"{screws}/versions/1", f"{screws}/versions/1")


async def test_versions_of_before_go_on(anna: Client, screws: str, house: House) -> None:
    """A version whose hashes were not kept can be the base of another one, near-duplicates included."""

    def forget_hashes() -> None:
        with closing(sqlite3.connect(house.settings.state / "storage.db")) as tables, tables:
            tables.execute("DELETE FROM dataset_version_hashes")

    # In a thread: a transaction of the service, which runs in this very loop, may have to end first.
    await asyncio.to_thread(forget_hashes)
    splits = await splits_of(anna, f"{screws}/versions/1")
    seed = next(seed for seed, each in enumerate(PICTURES) if splits[sha256(each)] == TEST)
    copy = encode((photograph(seed).astype(np.int16) + 3).clip(0, 255).astype(np.uint8), "JPEG", quality=60)
    await anna.upload([copy])
    answer = await derive(anna, screws, [item(copy, "a")])
    assert (await splits_of(anna, answer.dataset_version.name))[sha256(copy)] == TEST


async def test_the_migration_takes_the_newest_split_for_what_was_tested(tmp_path: Any) -> None:
    """What the newest version trains on is not taken back; what it does not have stays tested."""
    engine = database.create_engine(database.sqlite_url(tmp_path, "storage"))
    async with database.transaction(engine) as connection:
        await connection.run_sync(upgraded, "0002")
    await engine.dispose()
    with closing(sqlite3.connect(tmp_path / "storage.db")) as old, old:
        old.executescript(
            """INSERT INTO projects (project, uid, display_name, creator, active, create_time)
            VALUES ('p', 'u', '', 'accounts/anna', 1, 0);
            INSERT INTO datasets VALUES ('p', 'd', 'u', '', 2, 0);
            INSERT INTO dataset_versions VALUES ('p', 'd', 1, 'v1', 'x', ''), ('p', 'd', 2, 'v2', 'y', '');
            INSERT INTO dataset_items VALUES ('v1', 0, 'gone', 'a', 3, '', 1), ('v1', 1, 'left', 'a', 3, '', 1),
            ('v2', 0, 'left', 'a', 1, '', 1), ('v2', 1, 'new', 'b', 3, '', 1);"""
        )
    tables = Database(database.create_engine(database.sqlite_url(tmp_path, "storage")), RequestLog())
    await tables.migrate()
    await tables.close()
    with closing(sqlite3.connect(tmp_path / "storage.db")) as new:
        rows = new.execute("SELECT digest, label FROM dataset_tested_pictures ORDER BY digest").fetchall()
    assert rows == [("gone", "a"), ("new", "b")]
