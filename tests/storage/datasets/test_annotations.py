"""Annotated data sets: what is kept and given out, how pictures are divided, and what may change."""

from __future__ import annotations

import asyncio
import hashlib
import math
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from random import Random
from typing import Any

import pytest
from PIL import Image

from loupe import database
from loupe.annotations import NOTHING_THERE, Provenance, box, write
from loupe.errors import BadDataset, InvalidArgument, PermissionDenied, ResourceExhausted
from loupe.idempotency import RequestLog
from loupe.names import AccountName, DatasetName
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.blob_service_pb2 import PictureProblem
from services.storage.database.session import Database
from services.storage.datasets import versions
from services.storage.datasets.counts import Strata, count
from services.storage.datasets.derivation import counts_after, placed_after
from services.storage.datasets.derivation import derive as work_out
from services.storage.datasets.digest import version_digest
from services.storage.datasets.messages import unpack_parts
from services.storage.datasets.orders import Changes, VersionOrder
from services.storage.datasets.provenance import carry_over
from services.storage.datasets.store import DatasetTable, ItemRow
from services.storage.settings import StorageSettings
from tests.storage.datasets.test_living import derive, diff, some, splits_of
from tests.storage.house import LINE, Client, House, open_house, upgraded
from tests.storage.photographs import encode, jpeg, photograph, sha256

PICTURES = [jpeg(seed) for seed in range(40)]
MORE = [jpeg(seed) for seed in range(100, 110)]
TRAIN, VALIDATION, TEST = dataset_pb2.SPLIT_TRAIN, dataset_pb2.SPLIT_VALIDATION, dataset_pb2.SPLIT_TEST
NOWHERE = dataset_pb2.SPLIT_UNSPECIFIED
MODEL = f"{LINE}/models/m/versions/3"
SQUARE = (0.25, 0.25, 0.5, 0.5)
CORNERS = [0.0, 0.0, 0.5, 0.0, 0.25, 0.5]
ANNA = Provenance("accounts/anna")


def region(label: str, corners: Sequence[float] = SQUARE, **fields: Any) -> dataset_pb2.Annotation:
    x_min, y_min, x_max, y_max = corners
    sides = dataset_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return dataset_pb2.Annotation(label=label, box=sides, **fields)


def outline(label: str, coordinates: Sequence[float] = CORNERS) -> dataset_pb2.Annotation:
    return dataset_pb2.Annotation(label=label, polygon={"coordinates": coordinates})


def seen(data: bytes, *regions: dataset_pb2.Annotation, **fields: Any) -> dataset_pb2.DatasetItem:
    return dataset_pb2.DatasetItem(digest=sha256(data), annotations=regions, **fields)


def annotated(digest: str, *regions: dataset_pb2.Annotation, nothing_there: bool = False) -> rpc.AnnotatedPicture:
    return rpc.AnnotatedPicture(digest=digest, annotations=regions, nothing_there=nothing_there)


def dents() -> list[dataset_pb2.DatasetItem]:
    """dents is a dent in each of 30 pictures, in every third of them a hole, nothing in 5, and 5 unlabelled ones."""
    with_regions = [
        seen(each, region("dent"), *([outline("hole")] if number % 3 == 0 else []), filename=f"{number}.jpg")
        for number, each in enumerate(PICTURES[:30])
    ]
    nothing = [seen(each, nothing_there=True) for each in PICTURES[30:35]]
    return [*with_regions, *nothing, *map(seen, PICTURES[35:])]


@pytest.fixture
async def plates(anna: Client) -> str:
    """A data set in line-7 with a version of 40 pictures, dents(); 10 more are uploaded."""
    await anna.upload([*PICTURES, *MORE])
    dataset = await anna.make_dataset("plates")
    await anna.make_version(dataset, dents())
    return dataset


async def version_of(client: Client, name: str) -> dataset_pb2.DatasetVersion:
    return (await client.datasets.GetDatasetVersion(rpc.GetDatasetVersionRequest(name=name))).dataset_version


def kept(item: dataset_pb2.DatasetItem) -> ItemRow:
    regions = [
        box(each.label, (each.box.x_min, each.box.y_min, each.box.x_max, each.box.y_max)) for each in item.annotations
    ]
    text = write(regions) if regions or item.nothing_there else ""
    return ItemRow(item.digest, item.label, item.split, item.filename, item.size, text)


async def test_annotations_come_back_and_are_counted(anna: Client, plates: str) -> None:
    """With who put them in and the picture's size; a version says how many regions of each class each split has."""
    items = {each.digest: each for each in await anna.items(f"{plates}/versions/1")}
    for sent in dents():
        got = items[sent.digest]
        assert (got.width, got.height, got.nothing_there, got.label) == (64, 64, sent.nothing_there, "")
        assert {each.author for each in got.annotations} <= {"accounts/anna"}
        for each in got.annotations:
            each.ClearField("author")
        assert sorted(map(str, got.annotations)) == sorted(map(str, sent.annotations))
    splits = Counter(items[each.digest].split for each in dents())
    assert splits == {NOWHERE: 5, TRAIN: 21, VALIDATION: 7, TEST: 7}
    version = await version_of(anna, f"{plates}/versions/1")
    assert (version.picture_count, version.unlabelled_count, version.nothing_there_count) == (40, 5, 5)
    holes = Counter(items[sha256(each)].split for each in PICTURES[:30:3])
    assert holes == {TRAIN: 6, VALIDATION: 2, TEST: 2}  # a picture is divided by its rarest class
    regions = Counter(items[sha256(each)].split for each in PICTURES[:30])
    assert [
        (each.label, each.train_count, each.train_regions, each.validation_regions, each.test_regions)
        for each in version.labels
    ] == [("dent", 0, regions[TRAIN], regions[VALIDATION], regions[TEST]), ("hole", 0, 6, 2, 2)]
    nothing = Counter(items[sha256(each)].split for each in PICTURES[30:35])
    assert nothing == {TRAIN: 3, VALIDATION: 1, TEST: 1}


async def test_the_digest_holds_annotations_and_stays_without(anna: Client) -> None:
    """The line of an item without annotations is what it always was; regions change it, and who drew them does not."""
    plain = [ItemRow("a" * 64, "dent", 1, "", 0), ItemRow("b" * 64, "", 0, "", 0)]
    said = f"{'a' * 64}\0dent\0001\n{'b' * 64}\0\0000\n"
    assert version_digest(plain) == hashlib.sha256(said.encode()).hexdigest()
    square = box("dent", SQUARE, ANNA)
    marked = [plain[0], ItemRow("b" * 64, "", 1, "", 0, write([square]))]
    said = f'{"a" * 64}\0dent\0001\n{"b" * 64}\0\0001\0[["dent",[[0.25,0.25],[0.5,0.5]]]]\n'
    assert version_digest(marked) == hashlib.sha256(said.encode()).hexdigest()
    await anna.upload(PICTURES)
    version = await anna.make_version(await anna.make_dataset("boxes"), [seen(each, region("a")) for each in PICTURES])
    items = await anna.items(version.dataset_version.name)
    assert version_digest(map(kept, items)) == version.dataset_version.digest
    again = await anna.make_version(f"{LINE}/datasets/boxes", items)
    assert again.dataset_version == version.dataset_version


async def test_sizes_are_those_of_upright_pictures(anna: Client) -> None:
    """EXIF's orientations that lay a picture on its side swap width and height, in every format that has them."""
    pixels, files = photograph(1, 256)[:64], {}
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            files[encode(pixels, kind, exif=exif)] = (256, 64) if orientation < 5 else (64, 256)
    files[encode(pixels, "BMP")] = (256, 64)
    await anna.upload(list(files))
    made = await anna.make_version(await anna.make_dataset("sides"), [seen(each) for each in files])
    items = await anna.items(made.dataset_version.name)
    assert {each.digest: (each.width, each.height) for each in items} == {
        sha256(data): size for data, size in files.items()
    }


async def test_pictures_of_before_are_measured_in_the_background(storage_settings: StorageSettings) -> None:
    """Their version can be read meanwhile, and nothing else that is known of them changes."""

    def known(*, forget: bool = False) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(storage_settings.state / "storage.db")) as tables, tables:
            if forget:
                tables.execute("UPDATE pictures SET width = NULL, height = NULL")
            query = "SELECT digest, state, problem, perceptual_hash, thumbnail, width FROM pictures ORDER BY digest"
            return tables.execute(query).fetchall()

    broken = PICTURES[0][: len(PICTURES[0]) // 2]
    async with open_house(storage_settings) as house:
        anna = house.client()
        await anna.upload([*PICTURES, broken])
        items = [seen(each, region("dent")) for each in [*PICTURES, broken]]
        name = (await anna.make_version(await anna.make_dataset("old"), items)).dataset_version.name
    before, forgotten = known(), known(forget=True)
    async with open_house(storage_settings) as house:
        anna = house.client()
        async with asyncio.timeout(60):
            while any(not each.width for each in await anna.items(name)):
                await asyncio.sleep(0.05)
        assert {(each.width, each.height) for each in await anna.items(name)} == {(64, 64)}
    assert known() == before != forgotten


BAD_REGIONS = [
    ([region("dent", (0.1, 0.1, 1.2, 0.5))], "1.2 lies outside"),
    ([region("dent", (0.5, 0.1, 0.1, 0.5))], "inverted or empty"),
    ([region("dent", (math.nan, 0.1, 0.1, 0.5))], "nan lies outside"),
    ([outline("dent", [0.1, 0.1, 0.2, 0.2, 0.3, 0.3])], "without area"),
    ([outline("dent", [0, 0, 0.5, 0.5, 0.5, 0, 0, 0.5])], "cross or touch"),
    ([outline("dent", [0, 0, 0.5, 0.5, 0.5])], "5 coordinates"),
    ([dataset_pb2.Annotation(label="dent")], "0 different corners"),
    ([region(" dent")], "begins or ends with a space"),
    ([region("")], "is empty"),
    ([region("dent", confidence=0.5)], "0.5 without a model"),
    ([region("dent", model=MODEL)], "confidence 0 of a model"),
    ([region("dent", model=MODEL, confidence=1.5)], "confidence 1.5 of a model"),
    ([region("dent", model=MODEL, confidence=math.nan)], "confidence nan of a model"),
    ([region("dent", model="m", confidence=0.5)], "the model 'm'; \"projects/{project}/models"),
    ([region("dent", model="projects/other/models/m/versions/1", confidence=0.5)], "a version of projects/line-7"),
    ([region("dent", model=f"{LINE}/models/m/versions/latest", confidence=0.5)], "with its number"),
]


async def test_annotations_that_cannot_be_are_refused_with_field_and_picture(anna: Client, plates: str) -> None:
    """In items and in changes: the second region of a picture is named, and what would be right; nothing is made."""
    digest = sha256(PICTURES[0])
    for regions, said in BAD_REGIONS:
        two = [region("dent"), *regions]
        with pytest.raises(InvalidArgument) as caught:
            await anna.make_version(plates, [seen(PICTURES[0], *two, filename="a.jpg")])
        assert caught.value.metadata["field"] == "annotations[1]"
        assert said in caught.value.message and "a.jpg" in caught.value.message
        with pytest.raises(InvalidArgument) as caught:
            await derive(anna, plates, annotated=[annotated(digest, *two)])
        assert caught.value.metadata["field"] == "annotated.annotations[1]"
        assert said in caught.value.message and digest[:12] in caught.value.message
    many = [region("dent", (0, 0, 0.5, (number + 1) / 2000)) for number in range(1001)]
    with pytest.raises(InvalidArgument, match="at most 1000"):
        await anna.make_version(plates, [seen(PICTURES[0], *many)])
    with pytest.raises(InvalidArgument, match="nothing_there"):
        await anna.make_version(plates, [seen(PICTURES[0], region("dent"), nothing_there=True)])
    with pytest.raises(InvalidArgument, match=r"annotated\.digest"):
        await derive(anna, plates, annotated=[annotated("x", region("dent"))])
    assert (await version_of(anna, f"{plates}/versions/latest")).name == f"{plates}/versions/1"


async def test_unlabelled_pictures_wait_in_no_split(anna: Client) -> None:
    """They can be all that there is; a split given for them is left out; once labelled they are placed as new ones."""
    near = [encode(photograph(seed), "JPEG", quality=60) for seed in range(20)]
    await anna.upload([*PICTURES, *near])
    dataset = await anna.make_dataset("raw")
    made = await anna.make_version(dataset, [seen(each, split=TEST) for each in [*PICTURES, *near]])
    assert (made.dataset_version.unlabelled_count, made.dataset_version.picture_count) == (60, 60)
    assert not made.dataset_version.split.given and not made.dataset_version.labels
    assert any("60 pictures have neither" in said for said in made.warnings)
    assert any("none of the 60 pictures has a class" in said for said in made.warnings)
    assert set((await splits_of(anna, made.dataset_version.name)).values()) == {NOWHERE}
    labels = [(sha256(each), "ab"[number % 2]) for number, each in enumerate(PICTURES[:30])]
    first = await derive(anna, dataset, relabelled=labels, annotated=[annotated(sha256(PICTURES[30]), region("c"))])
    splits = await splits_of(anna, first.dataset_version.name)
    counts = {
        each.label: (each.train_count, each.validation_count, each.test_count) for each in first.dataset_version.labels
    }
    assert counts["a"] == counts["b"] == (9, 3, 3)
    assert first.dataset_version.unlabelled_count == 29
    second = await derive(anna, dataset, annotated=[annotated(sha256(each), region("dent")) for each in near])
    after = await splits_of(anna, second.dataset_version.name)
    assert {digest: after[digest] for digest in splits if splits[digest]} == {d: s for d, s in splits.items() if s}
    assert [after[sha256(each)] for each in near] == [after[sha256(each)] for each in PICTURES[:20]]
    assert second.dataset_version.near_duplicate_clusters == 20
    (tested,) = some(after, TEST)
    with pytest.raises(BadDataset) as caught:
        await derive(anna, dataset, relabelled=[(tested, "")], annotated=[annotated(tested)])
    assert caught.value.metadata["problem"] == "test_picture_changed"
    third = await derive(anna, dataset, relabelled=[(tested, "")], annotated=[annotated(tested)], force=True)
    assert (await splits_of(anna, third.dataset_version.name))[tested] == NOWHERE
    fourth = await derive(anna, dataset, annotated=[annotated(tested, nothing_there=True)])
    assert (await splits_of(anna, fourth.dataset_version.name))[tested] == TEST


async def test_half_a_split_is_refused_unless_the_rest_is_unlabelled(anna: Client) -> None:
    """A given split holds of labelled pictures alone."""
    await anna.upload(PICTURES)
    dataset = await anna.make_dataset("given")
    items = [seen(each, region("dent"), split=(TRAIN, VALIDATION)[number % 2]) for number, each in enumerate(PICTURES)]
    items[0] = seen(PICTURES[0])
    made = await anna.make_version(dataset, items)
    assert made.dataset_version.split.given and made.dataset_version.unlabelled_count == 1
    grown = await derive(anna, dataset, annotated=[annotated(sha256(PICTURES[0]), region("dent"))])
    assert (await splits_of(anna, grown.dataset_version.name))[sha256(PICTURES[0])] in (TRAIN, VALIDATION)
    items[1].ClearField("split")
    with pytest.raises(InvalidArgument, match="38 of 39 items"):
        await anna.make_version(dataset, items)


async def test_a_derived_version_is_exactly_that_of_a_full_push(anna: Client, plates: str) -> None:
    """Items, splits, counts and digest, also of pictures that were unlabelled; the document counts what changed."""
    splits = await splits_of(anna, f"{plates}/versions/1")
    gone, changed = some(splits, TRAIN, 3)[0], some(splits, TRAIN, 3)[1:]
    files = {each.digest: each for each in dents()}
    waiting = sha256(PICTURES[36])
    changes = {
        changed[0]: annotated(changed[0], region("scratch"), outline("dent")),
        changed[1]: annotated(changed[1], nothing_there=True),
        waiting: annotated(waiting, region("hole"), region("hole", (0, 0, 1, 1))),
    }
    fresh = [seen(each, region("hole"), region("dent")) for each in MORE]
    made = await derive(anna, plates, fresh, removed=[gone], annotated=list(changes.values()))
    version = made.dataset_version
    assert (version.added_count, version.removed_count, version.annotated_count, version.relabelled_count) == (
        10,
        1,
        3,
        0,
    )
    whole = [each for digest, each in files.items() if digest != gone and digest not in changes]
    whole += [
        dataset_pb2.DatasetItem(digest=each.digest, annotations=each.annotations, nothing_there=each.nothing_there)
        for each in changes.values()
    ]
    other = await anna.make_dataset("whole")
    await anna.make_version(other, dents())
    pushed = (await anna.make_version(other, [*whole, *fresh])).dataset_version
    assert (pushed.digest, pushed.labels, pushed.byte_count) == (version.digest, version.labels, version.byte_count)
    for counted in ("picture_count", "unlabelled_count", "nothing_there_count", "near_duplicate_clusters"):
        assert getattr(pushed, counted) == getattr(version, counted)


async def test_test_pictures_are_annotated_by_force_only(anna: Client, plates: str) -> None:
    """By changes and by a full list; to say of what a model drew that it is right changes nothing that is tested."""
    splits = await splits_of(anna, f"{plates}/versions/1")
    files = {each.digest: each for each in dents()}
    tested = next(digest for digest in some(splits, TEST, 40) if files[digest].annotations)
    for regions in ([region("dent", (0, 0, 1, 1))], [*files[tested].annotations, region("new")], []):
        change = annotated(tested, *regions, nothing_there=not regions)
        full = [each for each in dents() if each.digest != tested]
        full.append(dataset_pb2.DatasetItem(digest=tested, annotations=regions, nothing_there=not regions))
        for refused in (
            lambda change=change, **how: derive(anna, plates, annotated=[change], **how),
            lambda full=full, **how: anna.make_version(plates, full, **how),
        ):
            with pytest.raises(BadDataset) as caught:
                await refused()
            assert caught.value.metadata["problem"] == "test_picture_changed"
            assert caught.value.metadata["digest"] == tested
    same = await derive(anna, plates, annotated=[annotated(tested, *files[tested].annotations)])
    assert same.dataset_version.name == f"{plates}/versions/1"
    drawn = [region(each.label, (0, 0, 1, 1), model=MODEL, confidence=0.5) for each in files[tested].annotations]
    forced = await derive(anna, plates, annotated=[annotated(tested, *drawn)], force=True)
    assert (await splits_of(anna, forced.dataset_version.name))[tested] == TEST
    right = [region(each.label, (0, 0, 1, 1), verified=True) for each in drawn]
    verified = await derive(anna, plates, annotated=[annotated(tested, *right)])
    assert verified.dataset_version.annotated_count == 1


async def test_bad_changes_are_named_and_make_nothing(anna: Client, plates: str) -> None:
    """Pictures that the base does not have, contradictions, a wrong count, no base."""
    digest, unknown = sha256(PICTURES[0]), "ab" * 32
    dent, hole = annotated(digest, region("dent")), annotated(digest, region("hole"))
    for changes, problem in (
        ({"annotated": [annotated(unknown, region("dent"))]}, "not_in_base"),
        ({"annotated": [dent], "removed": [digest]}, "contradiction"),
        ({"annotated": [dent, hole]}, "contradiction"),
        ({"annotated": [hole], "items": [seen(PICTURES[0], region("dent"))]}, "contradiction"),
    ):
        with pytest.raises(BadDataset) as caught:
            await derive(anna, plates, force=True, **changes)
        assert caught.value.metadata["problem"] == problem
        assert caught.value.metadata["digest"] in (digest, unknown)
    with pytest.raises(Exception, match="2 changes, but 1 came"):
        await derive(anna, plates, annotated=[dent], announced=2)
    twice = await derive(anna, plates, annotated=[dent, dent], force=True)
    assert twice.dataset_version.annotated_count == 1


async def test_other_annotations_of_one_file_are_a_conflict(anna: Client, plates: str) -> None:
    """In a full list both are left out; an addition is refused unless it says the same, or nothing."""
    full = await anna.make_version(plates, [*dents(), seen(PICTURES[1], region("hole"))], force=True)
    assert Counter(each.problem for each in full.verdicts) == {PictureProblem.PICTURE_PROBLEM_CONFLICTING_LABEL: 2}
    assert full.dataset_version.picture_count == 39
    wrong = seen(PICTURES[2], region("hole"), filename="new.jpg")
    same, silent = dents()[3], seen(PICTURES[4])
    answer = await derive(anna, plates, [wrong, same, silent, seen(MORE[0], region("dent"))], base="1")
    assert [each.problem for each in answer.verdicts] == [PictureProblem.PICTURE_PROBLEM_CONFLICTING_LABEL]
    assert "new.jpg" in answer.verdicts[0].message and "with other annotations" in answer.verdicts[0].message
    assert answer.dataset_version.added_count == 1
    with pytest.raises(BadDataset, match="strict"):
        await derive(anna, plates, [wrong], strict=True)


async def test_where_a_region_comes_from_stays_with_it(house: House, anna: Client, plates: str) -> None:
    """Whoever annotates a picture again, in changes or a full list, what is unchanged keeps model and author."""
    house.auth.levels["vera", "line-7"] = 20
    vera = house.client("vera")
    (digest,) = some(await splits_of(anna, f"{plates}/versions/1"), TRAIN)
    whole = (0, 0, 1, 1)
    drawn = [region("dent", model=MODEL, confidence=0.5), region("hole", whole, model=MODEL, confidence=0.25)]
    await derive(anna, plates, annotated=[annotated(digest, *drawn)])

    async def known() -> dict[str, dataset_pb2.Annotation]:
        items = await anna.items(f"{plates}/versions/latest")
        return {each.label: each for item in items if item.digest == digest for each in item.annotations}

    again = [region("dent"), region("scratch", (0, 0, 0.1, 0.1)), region("hole", whole, verified=True)]
    await derive(vera, plates, annotated=[annotated(digest, *again)])
    found = await known()
    dent, scratch, hole = found["dent"], found["scratch"], found["hole"]
    assert (dent.author, dent.model, dent.confidence, dent.verifier) == ("accounts/anna", MODEL, 0.5, "")
    assert (scratch.author, scratch.model, scratch.verifier) == ("accounts/vera", "", "")
    assert (hole.author, hole.model, hole.confidence, hole.verifier) == ("accounts/anna", MODEL, 0.25, "accounts/vera")
    assert hole.verify_time.seconds > 1_600_000_000 and not hole.verified and not dent.HasField("verify_time")
    full = [each for each in await anna.items(f"{plates}/versions/latest") if each.digest != digest]
    bare = [region("dent"), region("hole", whole), region("new", (0.5, 0.5, 1, 1))]
    await vera.make_version(plates, [*full, dataset_pb2.DatasetItem(digest=digest, annotations=bare, split=TRAIN)])
    after = await known()
    assert (after["dent"], after["hole"], after["new"].author) == (dent, hole, "accounts/vera")


def test_carrying_over_takes_nothing_from_what_was_sent() -> None:
    """Regions that are gone stay gone, and silence is no annotation."""
    before = write([box("dent", SQUARE, ANNA), box("hole", (0, 0, 1, 1), ANNA)])
    vera = Provenance("accounts/vera")
    assert carry_over(write([box("hole", (0, 0, 1, 1), vera)]), before, 5) == write([box("hole", (0, 0, 1, 1), ANNA)])
    assert carry_over(NOTHING_THERE, before, 5) == NOTHING_THERE
    assert carry_over("", before, 5) == ""
    new = write([box("dent", SQUARE, Provenance("accounts/vera", verifier="accounts/vera"))])
    verified = Provenance("accounts/vera", verifier="accounts/vera", verified_at=5)
    assert carry_over(new, "", 5) == write([box("dent", SQUARE, verified)])


async def test_annotated_pictures_need_one_class(anna: Client) -> None:
    """Nothing to be seen at all, and half a split, are refused."""
    await anna.upload(PICTURES)
    dataset = await anna.make_dataset("classes")
    both = [seen(each, region("dent")) for each in PICTURES[:20]]
    both += [dataset_pb2.DatasetItem(digest=sha256(each), label="dent") for each in PICTURES[20:]]
    mixed = (await anna.make_version(dataset, both)).dataset_version
    assert [(each.label, each.train_count, each.train_regions) for each in mixed.labels] == [("dent", 12, 12)]
    for items, problem in (
        ([seen(each, nothing_there=True) for each in PICTURES], "no_class"),
        ([seen(PICTURES[0], region("dent")), *map(seen, PICTURES[1:])], "empty_split"),
    ):
        with pytest.raises(BadDataset) as caught:
            await anna.make_version(dataset, items, resplit=True)
        assert caught.value.metadata["problem"] == problem


async def test_classes_that_look_like_one_are_warned_of(anna: Client, plates: str) -> None:
    """Those that differ by case or by the form of their characters, both named, whether of regions or of pictures."""
    names = ("Dent", "hole", "hole ² ", "ﬁne", "fine")
    items = [seen(each, *(region(name.strip()) for name in names)) for each in PICTURES[:20]]
    items += [dataset_pb2.DatasetItem(digest=sha256(each), label="dent") for each in PICTURES[20:]]
    said = (await anna.make_version(await anna.make_dataset("alike"), items)).warnings
    alike = [each for each in said if "differ only" in each]
    assert len(alike) == 2
    assert any("'Dent', 'dent'" in each for each in alike) and any("'fine', 'ﬁne'" in each for each in alike)
    assert not any("differ only" in each for each in (await anna.make_version(plates, dents())).warnings)


async def test_other_annotations_are_told_as_a_difference(anna: Client, plates: str) -> None:
    """Each picture once, beside what else differs; who drew them is none."""
    splits = await splits_of(anna, f"{plates}/versions/1")
    changed = some(splits, TRAIN, 3)
    changes = [annotated(each, region("scratch")) for each in changed[:2]]
    await derive(anna, plates, relabelled=[(changed[2], "x")], annotated=changes)
    summary, found = await diff(anna, f"{plates}/versions/1", f"{plates}/versions/2")
    assert (summary.annotated_count, summary.relabelled_count, summary.moved_count) == (2, 1, 0)
    kind = rpc.DATASET_DIFFERENCE_KIND_ANNOTATED
    assert sorted(each.digest for each in found if each.kind == kind) == sorted(changed[:2])
    _, few = await diff(anna, f"{plates}/versions/1", f"{plates}/versions/2", most=1)
    assert [each.digest for each in few if each.kind == kind] == [min(changed[:2])]
    verified = [region("scratch", verified=True)]
    await derive(anna, plates, removed=[changed[2]], annotated=[annotated(changed[0], *verified)])
    summary, _ = await diff(anna, f"{plates}/versions/2", f"{plates}/versions/3")
    assert (summary.removed_count, summary.annotated_count) == (1, 0)


async def test_who_may_only_look_does_not_annotate(house: House, anna: Client, plates: str) -> None:
    """Reading annotations takes the right to read, changing them the one to write."""
    house.auth.levels["vera", "line-7"] = 10
    vera = house.client("vera")
    items = await vera.items(f"{plates}/versions/1")
    assert any(each.annotations for each in items)
    with pytest.raises(PermissionDenied):
        await derive(vera, plates, annotated=[annotated(items[0].digest, region("dent"))])
    assert (await version_of(anna, f"{plates}/versions/latest")).name == f"{plates}/versions/1"


async def test_many_annotations_come_in_messages_of_some_size(anna: Client, plates: str) -> None:
    """1,000 regions of each of 40 pictures would be one large message: several come, in order, and none is left out."""
    rng = Random(1)
    crowd = [
        [
            region("dent", (x, y, x + 0.1, y + 0.1))
            for x, y in ((rng.random() / 2, rng.random() / 2) for _ in range(1000))
        ]
        for _ in PICTURES
    ]
    items = [seen(each, *regions) for each, regions in zip(PICTURES, crowd, strict=True)]
    name = (await anna.make_version(await anna.make_dataset("crowd"), items)).dataset_version.name
    messages = [each async for each in anna.datasets.ReadDatasetItems(rpc.ReadDatasetItemsRequest(name=name))]
    assert len(messages) > 2 and all(each.ByteSize() < 2 << 20 for each in messages)
    found = [item.digest for each in messages for item in each.items]
    assert found == sorted(sha256(each) for each in PICTURES)
    assert all(len(item.annotations) == 1000 for each in messages for item in each.items)
    assert [each.digest for each in await anna.items(name, offset=38)] == found[38:]


async def test_the_annotations_of_a_version_are_bounded(
    anna: Client, plates: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent, and what a derived version would have altogether."""

    def characters() -> int:
        with closing(sqlite3.connect(house.settings.state / "storage.db")) as tables:
            (found,) = tables.execute("SELECT SUM(LENGTH(text)) FROM annotation_texts").fetchone()
        return int(found)

    there = await asyncio.to_thread(characters)
    monkeypatch.setattr(versions, "MAX_ANNOTATION_CHARACTERS", there + 40)
    for growing in (
        lambda: anna.make_version(plates, [seen(each, *[region(f"dent {n}") for n in range(9)]) for each in PICTURES]),
        lambda: derive(anna, plates, [seen(MORE[0], region("dent"))]),
    ):
        with pytest.raises(ResourceExhausted) as caught:
            await growing()
        assert caught.value.metadata["limit"] == "dataset_annotations"
    await derive(anna, plates, [seen(MORE[0])])


async def test_large_polygons_are_checked_beside_the_calls() -> None:
    """A message of polygons of 1,000 corners takes a while, and comes in parts; everything else goes on meanwhile."""
    turn = 2 * math.pi / 1000
    circle = [0.5 + 0.4 * each(turn * number) for number in range(1000) for each in (math.cos, math.sin)]
    items = [seen(each, outline("dent", circle)) for each in 2 * [*PICTURES, *MORE]]
    order = VersionOrder(DatasetName("line-7", "d"), None, None, False, False, False, "", AccountName("anna"))

    async def coming() -> AsyncGenerator[rpc.CreateDatasetVersionRequest]:
        yield rpc.CreateDatasetVersionRequest(batch={"items": items})

    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    heart = asyncio.create_task(beat())
    found = [each async for each in unpack_parts(coming(), order, asyncio.Semaphore(1))]
    heart.cancel()
    assert len(found) == 2
    assert [item.digest for each in found if isinstance(each, list) for item in each] == [each.digest for each in items]
    assert beats > 20


def made_up(rng: Random, number: int, split: int | None = None) -> ItemRow:
    """made_up is an item with a class, regions, nothing there, or none of these."""
    kind = rng.choice(("label", "regions", "nothing", "none"))
    label = rng.choice("ab") if kind == "label" else ""
    squares = [box(rng.choice("abc"), (0, 0, 1, (n + 1) / 10)) for n in range(rng.randint(1, 4))]
    text = {"regions": write(squares), "nothing": NOTHING_THERE}.get(kind, "")
    where = 0 if kind == "none" else split or rng.randint(1, 3)
    return ItemRow(f"{number:064x}", label, where, "", 1, text)


@pytest.mark.parametrize("seed", range(20))
def test_counting_what_changes_gives_what_counting_all_gives(seed: int) -> None:
    """Whatever is removed, added, relabelled and annotated; and so for the classes that divide pictures."""
    rng = Random(seed)
    base = sorted((made_up(rng, number) for number in range(60)), key=lambda item: (item.label, item.digest))
    fresh = [made_up(rng, number, split=1) for number in range(60, 70)]
    gone, renamed, marked = (rng.sample(base, 8) for _ in range(3))
    gone = [item for item in gone if item not in renamed and item not in marked]
    changes = Changes(
        [item.digest for item in gone],
        {item.digest: rng.choice(("", "a", "new")) for item in renamed},
        {item.digest: rng.choice(("", NOTHING_THERE, write([box("c", SQUARE)]))) for item in marked},
    )
    made = work_out(base, "base", fresh, changes, {}, force=True)
    after = {item.digest: item for item in base} | {item.digest: item for item in made.put}
    left = [item for digest, item in after.items() if digest not in changes.removed]
    counts = counts_after(count(base), made)
    assert counts == count(left)
    strata = Strata(counts.regions)
    assert {k: v for k, v in placed_after(counts, made, strata).items() if v} == strata.count(left)


@pytest.mark.parametrize("classes", [5, 40])
def test_pictures_are_counted_by_the_class_that_each_is_divided_by(classes: int) -> None:
    """Whatever the classes are called, and how many there are."""
    rng = Random(classes)
    names = ["a", "a b", 'a "b],[["a",{"regions":', "ä,[[0.0", *(f"class {number}" for number in range(classes - 4))]
    texts = [
        write(box(rng.choice(names), (0, 0, 1, (n + 1) / 10), Provenance(rng.choice(names))) for n in range(4))
        for _ in range(300)
    ]
    items = [ItemRow(f"{number:064x}", "", 1 + number % 3, "", 1, text) for number, text in enumerate(texts)]
    strata = Strata(count(items).regions)
    taken_apart = Counter((strata.of(item), item.split) for item in items)
    counted = {(label, split): there for label, each in strata.count(items).items() for split, there in each.items()}
    assert counted == taken_apart


def test_a_picture_is_divided_by_its_class_or_its_rarest_region() -> None:
    """By how many regions the version has; the name decides between two; nothing there is a class of its own."""
    strata = Strata({"dent": {1: 5, 2: 1}, "hole": {1: 2}, "crack": {3: 2}})
    regions = [box(label, SQUARE) for label in ("dent", "hole", "crack")]
    assert strata.of(ItemRow("d", "good", 0, "", 0, write(regions))) == "good"
    assert strata.of(ItemRow("d", "", 0, "", 0, write(regions))) == "crack"
    assert strata.of(ItemRow("d", "", 0, "", 0, write(regions[:2]))) == "hole"
    assert strata.of(ItemRow("d", "", 0, "", 0, write(regions[:1]))) == "dent"
    assert strata.of(ItemRow("d", "", 0, "", 0, NOTHING_THERE)) == ""


async def test_a_derived_version_refers_to_the_annotations_of_its_base(
    anna: Client, plates: str, storage_settings: StorageSettings
) -> None:
    """Nothing is copied; what no item refers to any more can be taken away, and nothing else."""

    def texts() -> list[str]:
        with closing(sqlite3.connect(storage_settings.state / "storage.db")) as tables:
            return [row[0] for row in tables.execute("SELECT text FROM annotation_texts ORDER BY id")]

    async def forget() -> None:
        async with house_tables(storage_settings) as tables, tables.write() as session:
            await DatasetTable(session).forget_unused_annotations("line-7", "plates")

    there = await asyncio.to_thread(texts)
    items = await anna.items(f"{plates}/versions/1")
    gone = next(each for each in items if each.annotations and each.split == dataset_pb2.SPLIT_TRAIN)
    made = await derive(anna, plates, removed=[gone.digest])
    assert await asyncio.to_thread(texts) == there
    assert await anna.items(made.dataset_version.name) == [each for each in items if each != gone]
    await forget()
    assert await asyncio.to_thread(texts) == there
    await asyncio.to_thread(remove_items, storage_settings, gone.digest)
    await forget()
    assert len(await asyncio.to_thread(texts)) == len(there) - 1
    assert await anna.items(made.dataset_version.name) == [each for each in items if each != gone]


def remove_items(settings: StorageSettings, digest: str) -> None:
    with closing(sqlite3.connect(settings.state / "storage.db")) as tables, tables:
        tables.execute("DELETE FROM dataset_items WHERE digest = ?", (digest,))


@asynccontextmanager
async def house_tables(settings: StorageSettings) -> AsyncIterator[Database]:
    """The database of a storage, opened beside it."""
    tables = Database(database.create_engine(database.sqlite_url(settings.state, "storage")), RequestLog())
    try:
        yield tables
    finally:
        await tables.close()


async def test_annotations_of_before_are_moved_to_where_they_stand_once(tmp_path: Any) -> None:
    """Items keep what they were annotated with, and those without anything stay so."""
    engine = database.create_engine(database.sqlite_url(tmp_path, "storage"))
    async with database.transaction(engine) as connection:
        await connection.run_sync(upgraded, "0008")
    with closing(sqlite3.connect(tmp_path / "storage.db")) as old, old:
        old.executescript(
            """INSERT INTO projects (project, uid, display_name, creator, active, create_time)
            VALUES ('p', 'u', '', 'accounts/anna', 1, 0);
            INSERT INTO datasets (project, dataset, uid, display_name, latest, create_time)
            VALUES ('p', 'd', 'u', '', 2, 0);
            INSERT INTO dataset_versions (project, dataset, number, uid, digest, document)
            VALUES ('p', 'd', 1, 'v1', 'x', ''), ('p', 'd', 2, 'v2', 'y', '');
            INSERT INTO dataset_items (version, position, digest, label, split, filename, size, annotations)
            VALUES ('v1', 0, 'one', '', 3, '', 1, '[]'), ('v1', 1, 'two', '', 0, '', 1, ''),
            ('v2', 0, 'one', '', 3, '', 1, 'a text'), ('v2', 1, 'three', 'b', 3, '', 1, 'another');"""
        )
    tables = Database(engine, RequestLog())
    await tables.migrate()
    async with tables.read() as session:
        table = DatasetTable(session)
        assert [each.annotations for each in await table.items("v1", 0, 9)] == ["[]", ""]
        assert [each.annotations for each in await table.items("v2", 0, 9)] == ["a text", "another"]
    await tables.close()
