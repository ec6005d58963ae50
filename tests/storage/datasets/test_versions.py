"""Dataset versions: what joins, what is left out and why, that they never change and are found again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loupe.errors import (
    AlreadyExists,
    BadDataset,
    BadPageToken,
    BlobMissing,
    DataLoss,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    SizeMismatch,
    UploadIncomplete,
)
from loupe.storage.v1 import dataset_pb2, dataset_service_pb2
from loupe.storage.v1.blob_service_pb2 import PictureProblem
from services.storage.datasets.digest import version_digest
from services.storage.datasets.store import ItemRow
from tests.storage.house import LINE, OTHER, Client, House, version_stream
from tests.storage.photographs import encode, jpeg, photograph, sha256

PICTURES = [jpeg(seed) for seed in range(40)]
TRAIN, VALIDATION, TEST = dataset_pb2.SPLIT_TRAIN, dataset_pb2.SPLIT_VALIDATION, dataset_pb2.SPLIT_TEST


def item(data: bytes, label: str, **fields: Any) -> dataset_pb2.DatasetItem:
    return dataset_pb2.DatasetItem(digest=sha256(data), label=label, **fields)


def two_classes(pictures: list[bytes] = PICTURES) -> list[dataset_pb2.DatasetItem]:
    return [
        item(each, "good" if index % 2 else "零件 / a", filename=f"{index}.jpg") for index, each in enumerate(pictures)
    ]


@pytest.fixture
async def screws(anna: Client) -> str:
    """A data set in line-7, whose pictures are uploaded."""
    await anna.upload(PICTURES)
    return await anna.make_dataset("screws")


async def test_a_version_holds_every_picture_with_label_split_and_size(anna: Client, screws: str) -> None:
    """Labels of any script come back, each class is divided 60/20/20, and the digest is that of the items."""
    answer = await anna.make_version(screws, two_classes())
    version = answer.dataset_version
    assert version.name == f"{screws}/versions/1"
    assert version.picture_count == 40
    assert version.byte_count == sum(len(each) for each in PICTURES)
    assert version.creator == "accounts/anna"
    assert [(each.label, each.train_count, each.validation_count, each.test_count) for each in version.labels] == [
        ("good", 12, 4, 4),
        ("零件 / a", 12, 4, 4),
    ]
    items = await anna.items(version.name)
    assert {each.digest: each.size for each in items} == {sha256(each): len(each) for each in PICTURES}
    assert {each.filename for each in items} == {f"{index}.jpg" for index in range(40)}
    assert Counter(each.split for each in items) == {TRAIN: 24, VALIDATION: 8, TEST: 8}
    rows = [ItemRow(each.digest, each.label, each.split, each.filename, each.size) for each in items]
    assert version_digest(rows) == version.digest
    assert not answer.warnings
    assert await anna.items(f"{screws}/versions/latest", offset=38) == items[38:]


async def test_the_same_items_in_any_order_are_the_same_version(anna: Client, screws: str) -> None:
    """Pushing the same folder again makes nothing new; another label does."""
    first = (await anna.make_version(screws, two_classes())).dataset_version
    again = (await anna.make_version(screws, two_classes()[::-1])).dataset_version
    assert again == first
    changed = two_classes()
    changed[0].label = "good"
    second = (await anna.make_version(screws, changed)).dataset_version
    assert second.name == f"{screws}/versions/2"
    latest = await anna.datasets.GetDatasetVersion(
        dataset_service_pb2.GetDatasetVersionRequest(name=f"{screws}/versions/latest")
    )
    assert latest.dataset_version == second
    request = dataset_service_pb2.ListDatasetVersionsRequest(parent=screws, page_size=1)
    page = await anna.datasets.ListDatasetVersions(request)
    assert [each.name for each in page.dataset_versions] == [second.name]
    request.page_token = page.next_page_token
    page = await anna.datasets.ListDatasetVersions(request)
    assert [each.name for each in page.dataset_versions] == [first.name]
    assert not page.next_page_token
    request.page_token = "x"
    with pytest.raises(BadPageToken):
        await anna.datasets.ListDatasetVersions(request)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
async def test_one_broken_picture_among_many_is_left_out_and_named(anna: Client, screws: str, kind: str) -> None:
    """A picture whose header is right and whose data are cut off is left out with its name; strict fails instead."""
    whole = encode(photograph(99), kind)
    broken = whole[: len(whole) // 2]
    await anna.upload([broken])
    items = [*two_classes(), item(broken, "good", filename="cut.jpg")]
    with pytest.raises(BadDataset) as caught:
        await anna.make_version(screws, items, strict=True)
    assert caught.value.metadata["digest"] == sha256(broken)
    answer = await anna.make_version(screws, items)
    assert answer.left_out_count == 1
    assert answer.verdicts[0].problem == PictureProblem.PICTURE_PROBLEM_BROKEN
    assert "cut.jpg" in answer.verdicts[0].message
    assert answer.dataset_version.picture_count == 40
    assert answer.dataset_version.name.endswith("/versions/1")


async def test_one_file_under_two_labels_is_left_out_under_both(anna: Client, screws: str) -> None:
    """Conflicting labels leave the file out; the very same item twice is a duplicate, and nothing is wrong."""
    items = [*two_classes(), item(PICTURES[1], "零件 / a"), item(PICTURES[2], "零件 / a", filename="copy.jpg")]
    answer = await anna.make_version(screws, items)
    problems = Counter(verdict.problem for verdict in answer.verdicts)
    assert problems == {
        PictureProblem.PICTURE_PROBLEM_CONFLICTING_LABEL: 2,
        PictureProblem.PICTURE_PROBLEM_DUPLICATE: 1,
    }
    assert answer.left_out_count == 3
    assert answer.dataset_version.picture_count == 39


@pytest.mark.parametrize("label", [" ", " a", "a ", "a\nb", "a\0", "x" * 129, "a\u202eb"])
async def test_a_label_that_cannot_be_is_refused(anna: Client, screws: str, label: str) -> None:
    """Blank, too long, control characters, a space at an end, a character that reverses text: refused."""
    with pytest.raises(InvalidArgument) as caught:
        await anna.make_version(screws, [item(PICTURES[0], label), item(PICTURES[1], "b")])
    assert caught.value.metadata["field"] == "label"


async def test_one_word_typed_in_two_ways_is_one_class(anna: Client, screws: str) -> None:
    """Labels are normalised, so that é is é."""
    items = [
        item(each, "e\u0301" if index % 3 == 0 else "\u00e9" if index % 3 == 1 else "b")
        for index, each in enumerate(PICTURES)
    ]
    version = (await anna.make_version(screws, items)).dataset_version
    assert [each.label for each in version.labels] == ["b", "\u00e9"]


async def test_what_cannot_be_trained_on_is_refused_in_clear_words(anna: Client, screws: str) -> None:
    """Nothing at all, nothing to validate on; of one class only it is said that this makes no classifier."""
    with pytest.raises(BadDataset) as caught:
        await anna.make_version(screws, [])
    assert caught.value.metadata["problem"] == "empty"
    alone = await anna.make_version(screws, [item(each, "only") for each in PICTURES])
    assert "a classifier needs at least two classes" in alone.warnings[0]
    with pytest.raises(BadDataset, match="validation"):
        await anna.make_version(screws, [item(each, str(index), split=TRAIN) for index, each in enumerate(PICTURES)])


async def test_a_class_with_one_picture_is_warned_of(anna: Client, screws: str) -> None:
    """It joins, and the answer says what that means."""
    items = [item(each, "rare" if index == 0 else "ab"[index % 2]) for index, each in enumerate(PICTURES)]
    answer = await anna.make_version(screws, items)
    assert any("'rare'" in warning for warning in answer.warnings)


async def test_what_was_done_with_deep_and_many_paged_pictures_is_said(anna: Client) -> None:
    """Each kind once, with how many and some names: which frame was taken, what became white, and who said so."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    deep = [encode(ramp - number, "TIFF") for number in range(1, 7)]
    dark, told = encode(ramp % 200, "PNG"), encode(ramp, "TIFF", tiffinfo={281: 8191})
    unit = encode((ramp / 4096).astype(np.float32), "TIFF")
    colour = encode(photograph(3), "TIFF", save_all=True, append_images=[Image.fromarray(photograph(4))])
    named = {f"deep-{number}.tif": data for number, data in enumerate(deep)}
    named |= {"dark.png": dark, "told.tif": told, "unit.tif": unit, "pages.tif": colour}
    named |= {f"{number}.jpg": data for number, data in enumerate(PICTURES)}
    await anna.upload(list(named.values()))
    items = [item(data, "ab"[index % 2], filename=name) for index, (name, data) in enumerate(named.items())]
    answer = await anna.make_version(await anna.make_dataset("deep"), items)
    assert list(answer.warnings) == [
        "more than 8 bits, white is 65535 by the picture's own range: 6 pictures "
        "(deep-0.tif, deep-1.tif, deep-2.tif, deep-3.tif, deep-4.tif and 1 more)",
        "more than 8 bits, white is 1 by the picture's own range: 1 picture (unit.tif)",
        "more than 8 bits, white is 255 by the picture's own range: 1 picture (dark.png)",
        "more than 8 bits, white is 8191 as the file says: 1 picture (told.tif)",
        "several pages or frames, of which the first was taken: 1 picture (pages.tif)",
        "white is not the same in all pictures of more than 8 bits, so one grey is brighter in some than in others; "
        "where one camera took them, let the files say it: TIFF's MaxSampleValue, or PNG's sBIT",
    ]


async def test_a_given_split_is_taken_as_it_is(anna: Client, screws: str) -> None:
    """The user's own split stands; near-duplicates on both sides are warned of; half a split is refused."""
    near = encode((photograph(0).astype(np.int16) + 3).clip(0, 255).astype(np.uint8), "JPEG", quality=60)
    await anna.upload([near])
    splits = (TRAIN, VALIDATION, TEST, TEST)
    items = [item(each, "ab"[index % 2], split=splits[index // 2 % 4]) for index, each in enumerate(PICTURES)]
    items.append(item(near, "a", split=TEST))
    answer = await anna.make_version(screws, items)
    assert answer.dataset_version.split.given
    there = {each.digest: each.split for each in await anna.items(answer.dataset_version.name)}
    assert there == {each.digest: each.split for each in items}
    assert any("both sides" in warning for warning in answer.warnings)
    items[0].ClearField("split")
    with pytest.raises(InvalidArgument, match="for every item or for none"):
        await anna.make_version(screws, items)


async def test_near_duplicates_stay_on_one_side(anna: Client, screws: str) -> None:
    """Copies at other qualities of twenty pictures never part, and the version says how many clusters it kept."""
    copies = [encode(photograph(seed), "JPEG", quality=quality) for seed in range(20) for quality in (60, 95)]
    await anna.upload(copies)
    origin = {sha256(each): seed // 2 for seed, each in enumerate(copies)}
    origin |= {sha256(each): seed for seed, each in enumerate(PICTURES)}
    items = [dataset_pb2.DatasetItem(digest=digest, label="ab"[seed % 2]) for digest, seed in origin.items()]
    answer = await anna.make_version(screws, items)
    sides: dict[int, set[int]] = {}
    for each in await anna.items(answer.dataset_version.name):
        sides.setdefault(origin[each.digest], set()).add(each.split)
    assert all(len(each) == 1 for each in sides.values())
    assert answer.dataset_version.near_duplicate_clusters == 20


async def test_pictures_that_were_not_uploaded_are_named(anna: Client, eve: Client, screws: str) -> None:
    """An unknown digest, or one that only another project has, is BlobMissing; nothing is made."""
    foreign = jpeg(999)
    await eve.upload([foreign], OTHER)
    with pytest.raises(BlobMissing) as caught:
        await anna.make_version(screws, [*two_classes(), item(foreign, "good")])
    assert caught.value.metadata == {"digest": sha256(foreign), "count": "1"}
    with pytest.raises(NotFound):
        await anna.items(f"{screws}/versions/latest")


async def test_another_projects_data_set_looks_like_none(eve: Client, anna: Client, screws: str) -> None:
    """Every call with a foreign or absent data set gives the same NotFound."""
    await anna.make_version(screws, two_classes())
    for name in (screws, f"{LINE}/datasets/absent"):
        with pytest.raises(NotFound):
            await eve.make_version(name, two_classes())
        with pytest.raises(NotFound):
            await eve.datasets.GetDataset(dataset_service_pb2.GetDatasetRequest(name=name))
        with pytest.raises(NotFound):
            await eve.items(f"{name}/versions/1")
    with pytest.raises(NotFound):
        await anna.make_version(f"{LINE}/datasets/absent", two_classes())


async def test_a_stream_without_its_closing_makes_nothing(anna: Client, screws: str) -> None:
    """A cut stream is UploadIncomplete, a closing that does not agree SizeMismatch."""

    async def cut(closing: int | None) -> AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]:
        async for message in version_stream(screws, two_classes()):
            if message.WhichOneof("part") != "closing":
                yield message
        if closing is not None:
            yield dataset_service_pb2.CreateDatasetVersionRequest(closing={"item_count": closing})

    with pytest.raises(UploadIncomplete):
        await anna.stream_version(partial(cut, None))
    with pytest.raises(SizeMismatch):
        await anna.stream_version(partial(cut, 39))
    with pytest.raises(NotFound):
        await anna.items(f"{screws}/versions/latest")


async def test_fifty_times_the_same_request_make_one_version_and_get_one_answer(anna: Client, screws: str) -> None:
    """A request id has one effect; with another body it is refused."""
    calls = [anna.make_version(screws, two_classes(), request_id="r1") for _ in range(50)]
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    with pytest.raises(RequestIdReused):
        await anna.make_version(screws, two_classes()[:30], request_id="r1")


async def test_fifty_times_the_same_creation_make_one_data_set(anna: Client) -> None:
    """The same request id gives the same data set fifty times; another request for the id is AlreadyExists."""
    request = dataset_service_pb2.CreateDatasetRequest(parent=LINE, dataset_id="nuts", request_id="r2")
    answers = await asyncio.gather(*(anna.datasets.CreateDataset(request) for _ in range(50)))
    assert len({answer.dataset.uid for answer in answers}) == 1
    request.request_id = "r3"
    with pytest.raises(AlreadyExists):
        await anna.datasets.CreateDataset(request)
    request.request_id, request.dataset_id = "r2", "bolts"
    with pytest.raises(RequestIdReused):
        await anna.datasets.CreateDataset(request)


async def test_data_sets_are_listed_by_id_page_by_page(anna: Client) -> None:
    """Pages follow each other without gap or repetition."""
    for name in ("c", "a", "b"):
        await anna.make_dataset(name)
    seen, token = [], ""
    while True:
        request = dataset_service_pb2.ListDatasetsRequest(parent=LINE, page_size=2, page_token=token)
        page = await anna.datasets.ListDatasets(request)
        seen += [each.name for each in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"{LINE}/datasets/{name}" for name in "abc"]


async def test_items_that_changed_in_the_database_are_noticed(anna: Client, screws: str, house: House) -> None:
    """Reading a version whose rows are not what was stored ends with DataLoss."""
    version = (await anna.make_version(screws, two_classes())).dataset_version
    with sqlite3.connect(house.settings.state / "storage.db") as database:
        database.execute("UPDATE dataset_items SET label = 'good' WHERE position = 39")
    with pytest.raises(DataLoss):
        await anna.items(version.name)
