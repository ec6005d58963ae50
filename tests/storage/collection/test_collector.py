"""The collector: what expired goes with its room, what something needs stays, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from loupe.errors import BlobMissing, NotFound
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as datasets
from loupe.storage.v1 import model_service_pb2 as models
from loupe.storage.v1 import project_service_pb2 as projects
from loupe.storage.v1.project_pb2 import ProjectUsage
from services.storage.collection.collector import Collected
from services.storage.collection.store import CollectionTable
from services.storage.database.metadata import metadata
from services.storage.pictures.store import PictureRow
from services.storage.settings import StorageSettings
from tests.storage.collection.test_deletion import SCREWS, items
from tests.storage.house import LINE, Client, House, open_house
from tests.storage.photographs import jpeg, sha256

PICTURES = [jpeg(seed) for seed in range(60)]
DIGESTS = [sha256(each) for each in PICTURES]
KEPT = PICTURES[::3]
DAY = 24 * 3600.0
MODEL = f"{LINE}/models/screws"


class Clock:
    """Wall-clock seconds that a test sets forward."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    """The time in the house."""
    return Clock()


@pytest.fixture
async def house(storage_settings: StorageSettings, clock: Clock) -> AsyncIterator[House]:
    """A storage service with small packs and a clock that is set by hand."""
    async with open_house(storage_settings, now=clock) as running:
        yield running


@pytest.fixture
async def screws(anna: Client) -> str:
    """A data set whose version 1 has every third picture, and version 2 all of them."""
    await anna.upload(PICTURES, batch=7)
    name = await anna.make_dataset("screws")
    await anna.make_version(name, items(KEPT))
    await anna.make_version(name, items(PICTURES))
    return name


async def delete(client: Client, number: int) -> None:
    request = datasets.DeleteDatasetVersionRequest(name=f"{SCREWS}/versions/{number}")
    await client.datasets.DeleteDatasetVersion(request)


async def expire(house: House, clock: Clock) -> None:
    """Let what was deleted be purged, and what nothing names then be due."""
    clock.time += 31 * DAY
    await house.storage.collector.collect()
    clock.time += 8 * DAY


async def usage(client: Client) -> ProjectUsage:
    return (await client.projects.GetProjectUsage(projects.GetProjectUsageRequest(name=LINE))).usage


def pack_bytes(house: House) -> int:
    state = house.settings.state
    files = [*(state / "open").iterdir(), *(state / "files" / "packs" / "line-7").glob("*")]
    return sum(path.stat().st_size for path in files)


async def test_a_deleted_version_gives_its_room_back(house: House, anna: Client, screws: str, clock: Clock) -> None:
    """Not before it has expired, nor before its pictures have gone unnamed for a while; what others name stays."""
    before = pack_bytes(house)
    await delete(anna, 2)
    assert await house.storage.collector.collect() == Collected()
    clock.time += 31 * DAY
    collected = await house.storage.collector.collect()
    assert (collected.dataset_versions, collected.pictures) == (1, 0)
    with pytest.raises(NotFound):
        await anna.datasets.UndeleteDatasetVersion(datasets.UndeleteDatasetVersionRequest(name=f"{SCREWS}/versions/2"))
    waiting = await usage(anna)
    assert (waiting.unnamed_pictures.count, waiting.dataset_versions) == (40, 1)
    clock.time += 8 * DAY
    collected = await house.storage.collector.collect()
    assert collected.pictures == 40
    size = sum(len(each) for each in KEPT)
    now = await usage(anna)
    assert (now.pictures.count, now.pictures.byte_count) == (len(KEPT), size)
    assert now.dead_bytes < pack_bytes(house) / 2
    assert size <= pack_bytes(house) < before / 2 + 1
    assert await anna.download([sha256(each) for each in KEPT]) == {sha256(each): each for each in KEPT}
    assert await anna.missing(DIGESTS) == [digest for digest in DIGESTS if digest not in set(map(sha256, KEPT))]
    assert await house.storage.collector.collect() == Collected()
    again = await anna.upload(PICTURES)
    assert again[-1].complete
    assert (await anna.make_version(screws, items(PICTURES))).dataset_version.name == f"{SCREWS}/versions/3"


async def test_a_whole_data_set_goes_and_its_name_is_free(
    house: House, anna: Client, screws: str, clock: Clock
) -> None:
    """Nothing is left of it but its numbers, which go on under another uid."""
    old = (await anna.datasets.GetDataset(datasets.GetDatasetRequest(name=screws))).dataset.uid
    await anna.datasets.DeleteDataset(datasets.DeleteDatasetRequest(name=screws))
    await expire(house, clock)
    await house.storage.collector.collect()
    assert (await usage(anna)).pictures.count == 0
    assert pack_bytes(house) == 0
    with pytest.raises(NotFound):
        await anna.datasets.GetDataset(datasets.GetDatasetRequest(name=screws, show_deleted=True))
    await anna.make_dataset("screws")
    await anna.upload(PICTURES)
    assert (await anna.make_version(screws, items(PICTURES))).dataset_version.name == f"{SCREWS}/versions/3"
    new = (await anna.datasets.GetDataset(datasets.GetDatasetRequest(name=screws))).dataset
    assert new.uid != old and new.latest_version == f"{SCREWS}/versions/3"


async def test_what_a_model_was_trained_on_stays(house: House, anna: Client, screws: str, clock: Clock) -> None:
    """However long ago it was deleted, until the model is purged, too."""
    lineage = {"job": f"{LINE}/jobs/j1", "attempt": 1, "dataset_version": f"{SCREWS}/versions/2"}
    request = models.PublishModelVersionRequest(parent=MODEL, model_version={"lineage": lineage})
    await house.service("scheduler").models.PublishModelVersion(request)
    await delete(anna, 2)
    await expire(house, clock)
    assert await house.storage.collector.collect() == Collected()
    assert await anna.missing(DIGESTS) == []
    await anna.datasets.UndeleteDatasetVersion(datasets.UndeleteDatasetVersionRequest(name=f"{SCREWS}/versions/2"))
    await delete(anna, 2)
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    await expire(house, clock)
    await house.storage.collector.collect()
    assert (await usage(anna)).pictures.count == len(KEPT)


async def publish(house: House, job: str, files: Iterable[bytes] = (), model: str = "screws", **lineage: str) -> str:
    """Put the model that a job made into the library and return its name."""
    said = {"job": f"{LINE}/jobs/{job}", "attempt": 1, **lineage}
    made = [{"filename": f"file-{n}", "digest": sha256(data), "size": len(data)} for n, data in enumerate(files)]
    version = {"lineage": said, "files": made, "released": True}
    request = models.PublishModelVersionRequest(parent=f"{LINE}/models/{model}", model_version=version)  # type: ignore[arg-type]
    return (await house.service("scheduler").models.PublishModelVersion(request)).model_version.name


async def test_a_base_model_stays_while_what_was_made_from_it_lives(house: House, anna: Client, clock: Clock) -> None:
    """It can be restored with its weights, and so can the one that it was made from in turn."""
    weights = [b"weights of %d" % number * 1000 for number in range(3)]
    name = ""
    for number, data in enumerate(weights):
        await house.client(f"attempt {LINE}/jobs/j{number} 1").upload_blob(data)
        given = {"parameters_json": json.dumps({"weights": sha256(weights[number - 1])})} if number else {}
        name = await publish(house, f"j{number}", [data], f"m{number}", base_model=name, **given)
    for number in range(2):
        await anna.models.DeleteModel(models.DeleteModelRequest(name=f"{LINE}/models/m{number}"))
    await expire(house, clock)
    clock.time += 100 * DAY
    assert await house.storage.collector.collect() == Collected()
    await anna.models.UndeleteModel(models.UndeleteModelRequest(name=f"{LINE}/models/m0"))
    assert len(await anna.download(list(map(sha256, weights)))) == 3
    for number in (0, 2):
        await anna.models.DeleteModel(models.DeleteModelRequest(name=f"{LINE}/models/m{number}"))
    clock.time += 31 * DAY
    assert (await house.storage.collector.collect()).model_versions == 3
    clock.time += 91 * DAY
    await house.storage.collector.collect()
    assert (await usage(anna)).blobs.count == 0


async def test_files_that_a_job_was_given_stay_with_its_model(house: House, anna: Client, clock: Clock) -> None:
    """For as long as the model is there the job can be repeated; then they go as what nobody asks for."""
    given = [b"pushed weights" * 1000, PICTURES[0]]
    await anna.upload_blob(given[0])
    await anna.upload(given[1:])
    digests = [sha256(each) for each in given]
    parameters = {"weights": digests[0], "look": digests[1], "gone": "0" * 64, "size": 128, "rest": None}
    await publish(house, "j1", parameters_json=json.dumps(parameters))
    for _ in range(2):
        clock.time += 100 * DAY
        assert await house.storage.collector.collect() == Collected()
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    await expire(house, clock)
    collected = await house.storage.collector.collect()
    assert (collected.blobs, collected.pictures) == (0, 1)
    assert (await usage(anna)).blobs.count == 0


async def test_weights_that_an_attempt_reads_outlive_their_model(house: House, anna: Client, clock: Clock) -> None:
    """A job that is interrupted finds them again when it goes on."""
    weights = b"weights" * 1000
    await house.client(f"attempt {LINE}/jobs/j1 1").upload_blob(weights)
    await publish(house, "j1", [weights])
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    clock.time += 29 * DAY
    await house.client(f"attempt {LINE}/jobs/j2 1").download([sha256(weights)])
    clock.time += 2 * DAY
    assert (await house.storage.collector.collect()).model_versions == 1
    again = house.client(f"attempt {LINE}/jobs/j2 2")
    assert await again.download([sha256(weights)]) == {sha256(weights): weights}


async def rows_with(house: House, *wanted: str) -> set[str]:
    """Return the tables in which any column of a row says one of these."""
    found = set()
    async with house.storage.database.read() as session:
        for table in metadata.sorted_tables:
            for row in (await session.connection.execute(sa.select(table))).all():
                if any(
                    each in (said.decode(errors="replace") if isinstance(said, bytes) else str(said))
                    for said in row
                    for each in wanted
                ):
                    found.add(table.name)
    return found


async def test_no_row_of_what_is_purged_is_left(house: House, anna: Client, clock: Clock) -> None:
    """Of a version its number is remembered, and of a picture that was in test that it was."""
    await anna.upload(PICTURES)
    name = await anna.make_dataset("screws")
    drawn = {"label": "mark of the annotation", "box": {"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}}
    said = [dataset_pb2.DatasetItem(digest=each, annotations=[drawn]) for each in DIGESTS]  # type: ignore[list-item]
    version = (await anna.make_version(name, said)).dataset_version
    held = [b"weights" * 1000, PICTURES[0]]
    await anna.upload_blob(held[0])
    given = json.dumps({"weights": sha256(held[0])})
    model = await publish(house, "j1", held, dataset_version=version.name, parameters_json=given)
    tables = {"dataset_items", "dataset_tested_pictures", "pictures", "held_pictures", "held_blobs", "blobs"}
    assert await rows_with(house, *DIGESTS, sha256(held[0]), version.uid, "mark of the annotation") >= {
        *tables,
        "dataset_versions",
        "dataset_version_hashes",
        "model_versions",
    }
    await anna.datasets.DeleteDatasetVersion(datasets.DeleteDatasetVersionRequest(name=version.name))
    await anna.models.DeleteModelVersion(models.DeleteModelVersionRequest(name=model))
    await expire(house, clock)
    clock.time += 91 * DAY
    await house.storage.collector.collect()
    assert await rows_with(house, version.uid) == {"dataset_versions"}
    assert await rows_with(house, "mark of the annotation") == {"dataset_versions"}
    assert await rows_with(house, *DIGESTS) == {"dataset_tested_pictures"}
    assert await rows_with(house, sha256(held[0])) == {"model_versions"}
    assert await rows_with(house, model) == {"model_versions", "audit_log"}


async def test_what_an_attempt_reads_is_not_purged_under_it(
    house: House, anna: Client, screws: str, clock: Clock
) -> None:
    """A job that begins on the last day has a week from its first look on."""
    await delete(anna, 2)
    clock.time += 29 * DAY
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.items(f"{SCREWS}/versions/2")
    clock.time += 2 * DAY
    assert (await house.storage.collector.collect()).dataset_versions == 0
    clock.time += 6 * DAY
    assert (await house.storage.collector.collect()).dataset_versions == 1


async def test_pictures_that_a_push_was_told_are_there_stay(house: House, anna: Client, clock: Clock) -> None:
    """A push that asked what is missing has its pictures for as long as one that sent them."""
    await anna.upload(PICTURES)
    await anna.make_dataset("screws")
    await house.storage.collector.collect()
    clock.time += 8 * DAY
    assert await anna.missing(DIGESTS[:30]) == []
    assert (await house.storage.collector.collect()).pictures == 30
    assert await anna.missing(DIGESTS) == DIGESTS[30:]
    await anna.make_version(SCREWS, items(PICTURES[:30]))
    clock.time += 8 * DAY
    assert (await house.storage.collector.collect()).pictures == 0


async def test_sending_a_picture_again_keeps_it(house: House, anna: Client, clock: Clock) -> None:
    """Whoever sends without asking is told that it is there, and it is still there then."""
    await anna.upload(PICTURES[:20])
    await house.storage.collector.collect()
    clock.time += 8 * DAY
    await anna.upload(PICTURES[:20])
    assert (await house.storage.collector.collect()).pictures == 0
    assert await anna.missing(DIGESTS[:20]) == []


def before_each(house: House, method: str, act: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something before each call of a method by which versions are written."""
    versions = house.storage._versions
    original = getattr(versions, method)

    async def call(*args: Any) -> Any:
        await act()
        return await original(*args)

    monkeypatch.setattr(versions, method, call)


async def test_a_version_is_not_made_of_pictures_that_were_collected_meanwhile(
    house: House, anna: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal is told which are missing, sends them again, and nothing was made."""
    await anna.upload(PICTURES)
    await anna.make_dataset("screws")

    async def collect() -> None:
        clock.time += 8 * DAY
        await house.storage.collector.collect()

    await house.storage.collector.collect()
    with monkeypatch.context() as patch:
        before_each(house, "_write", collect, patch)
        with pytest.raises(BlobMissing) as caught:
            await anna.make_version(SCREWS, items(PICTURES))
    assert caught.value.count == len(PICTURES)
    await anna.upload(PICTURES)
    assert (await anna.make_version(SCREWS, items(PICTURES))).dataset_version.picture_count == len(PICTURES)


async def test_a_version_is_not_derived_of_one_that_is_deleted_meanwhile(
    house: House, anna: Client, screws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the newest one, nor of one before it."""
    extra = jpeg(1000)
    await anna.upload([extra])
    for base in (1, 2):
        numbers = iter([base])

        async def act(numbers: Any = numbers) -> None:
            for number in numbers:
                await delete(anna, number)

        with monkeypatch.context() as patch:
            before_each(house, "_write", act, patch)
            with pytest.raises(NotFound):
                await anna.make_version(screws, items([extra]), base=f"{SCREWS}/versions/{base}")


async def test_pictures_are_not_marked_when_a_version_is_made_meanwhile(
    house: House, anna: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found to be unnamed before the version was made is looked for again."""
    await anna.upload(PICTURES)
    await anna.make_dataset("screws")
    collector = house.storage.collector
    unnamed = CollectionTable.unnamed

    async def then_a_version(table: CollectionTable, project: str) -> Any:
        found = await unnamed(table, project)
        await anna.make_version(SCREWS, items(PICTURES))
        return found

    monkeypatch.setattr(CollectionTable, "unnamed", then_a_version)
    await collector.collect()
    monkeypatch.undo()
    clock.time += 8 * DAY
    assert (await collector.collect()).pictures == 0
    assert await anna.missing(DIGESTS) == []


async def test_two_collectors_at_once_do_the_work_of_one(house: House, anna: Client, screws: str, clock: Clock) -> None:
    """Each picture is removed and counted once, and every file belongs to a row."""
    await delete(anna, 2)
    clock.time += 31 * DAY
    await asyncio.gather(*(house.storage.collector.collect() for _ in range(3)))
    clock.time += 8 * DAY
    await asyncio.gather(*(house.storage.collector.collect() for _ in range(3)))
    now = await usage(anna)
    assert (now.pictures.count, now.pictures.byte_count) == (len(KEPT), sum(len(each) for each in KEPT))
    assert await anna.download([sha256(each) for each in KEPT]) == {sha256(each): each for each in KEPT}


async def test_downloads_go_on_while_packs_are_compacted(house: House, anna: Client, screws: str, clock: Clock) -> None:
    """A download that began before reads what was moved from where it is now."""
    await delete(anna, 2)
    await expire(house, clock)
    wanted = [sha256(each) for each in KEPT]
    found: dict[str, bytes] = {}
    located = await house.storage.downloads._locate("line-7", wanted, None)
    assert (await house.storage.collector.collect()).pack_bytes > 0
    rows = await house.storage._packs.read("line-7", located)  # type: ignore[arg-type]
    found.update(zip(wanted, rows, strict=True))
    assert found == {sha256(each): each for each in KEPT}


async def test_reading_what_was_removed_meanwhile_says_so(
    house: House, anna: Client, screws: str, clock: Clock
) -> None:
    """It is missing, and not damaged."""
    await delete(anna, 2)
    await expire(house, clock)
    located = await house.storage.downloads._locate("line-7", DIGESTS, None)
    await house.storage.collector.collect()
    with pytest.raises(BlobMissing):
        await house.storage._packs.read("line-7", located)  # type: ignore[arg-type]


def damage(state: Path, row: PictureRow) -> None:
    (path,) = [each for each in state.rglob(row.pack) if each.is_file()]
    with path.open("r+b") as file:
        file.seek(row.position + 40)
        file.write(b"\0" * 8)


async def test_a_damaged_picture_is_moved_as_it_is(house: House, anna: Client, screws: str, clock: Clock) -> None:
    """Compaction neither heals nor hides it, and does not stop at it."""
    await delete(anna, 2)
    (row,) = await house.storage.downloads._locate("line-7", [sha256(KEPT[0])], None)
    assert isinstance(row, PictureRow)
    await asyncio.to_thread(damage, house.settings.state, row)
    await expire(house, clock)
    assert (await house.storage.collector.collect()).pack_bytes > 0
    assert await anna.download([sha256(each) for each in KEPT[1:]]) == {sha256(each): each for each in KEPT[1:]}
    await anna.upload(KEPT[:1])


async def test_blobs_that_nobody_asks_for_go(house: House, anna: Client, clock: Clock) -> None:
    """Asking whether it is there, reading it, and being part of a model each keep a blob."""
    data = [b"weights of %d" % number * 1000 for number in range(5)]
    digests = [sha256(each) for each in data]
    for each in data:
        await anna.upload_blob(each)
    files = [{"filename": "model.onnx", "digest": digests[0], "size": len(data[0])}]
    version = {"files": files, "lineage": {"job": f"{LINE}/jobs/j1", "attempt": 1}}
    request = models.PublishModelVersionRequest(parent=MODEL, model_version=version)
    await house.service("scheduler").models.PublishModelVersion(request)
    clock.time += 80 * DAY
    await anna.missing([digests[1]])
    await anna.download([digests[2]])
    await anna.query(digests[3])
    clock.time += 20 * DAY
    assert (await house.storage.collector.collect()).blobs == 1
    assert await anna.missing(digests) == digests[4:]
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    clock.time += 91 * DAY
    collected = await house.storage.collector.collect()
    assert (collected.model_versions, collected.blobs) == (1, 4)
    assert (await usage(anna)).blobs.count == 0


async def test_a_model_file_that_is_a_picture_stays(house: House, anna: Client, clock: Clock) -> None:
    """It is read for as long as the model is there, though no version of a data set names it."""
    await anna.upload(PICTURES[:1])
    file = {"filename": "confusion.jpg", "digest": DIGESTS[0], "size": len(PICTURES[0])}
    version = {"files": [file], "lineage": {"job": f"{LINE}/jobs/j1", "attempt": 1}}
    request = models.PublishModelVersionRequest(parent=MODEL, model_version=version)
    await house.storage.collector.collect()
    await house.service("scheduler").models.PublishModelVersion(request)
    await expire(house, clock)
    assert (await house.storage.collector.collect()).pictures == 0
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    await expire(house, clock)
    assert (await house.storage.collector.collect()).pictures == 1


async def test_projects_are_apart(house: House, anna: Client, eve: Client, clock: Clock) -> None:
    """What one project names does not keep the same picture of another, nor is it taken with it."""
    other = "projects/other"
    for client, project in ((anna, LINE), (eve, other)):
        await client.upload(PICTURES, project)
    await eve.make_dataset("screws", other)
    await eve.make_version(f"{other}/datasets/screws", items(PICTURES))
    await house.storage.collector.collect()
    clock.time += 8 * DAY
    assert (await house.storage.collector.collect()).pictures == len(PICTURES)
    assert await eve.missing(DIGESTS, other) == []
    assert dict(await eve.download(DIGESTS, other)) == dict(zip(DIGESTS, PICTURES, strict=True))


async def test_a_clock_that_jumps_takes_nothing_away(
    house: House, anna: Client, screws: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass after the jump is left out; one that finds the clock set back as it was collects nothing either."""
    await delete(anna, 2)
    collector, passes = house.storage.collector, asyncio.Event()
    collect = collector.collect

    async def noted() -> Collected:
        collected = await collect()
        passes.set()
        return collected

    monkeypatch.setattr(collector, "collect", noted)
    with capture_logs() as logs:
        task = asyncio.create_task(collector.keep(0.2))
        async with asyncio.timeout(30):
            await asyncio.sleep(0)  # it has looked at the clock then
            clock.time += 400 * DAY
            while not any("clock was set" in each["event"] for each in logs):
                await asyncio.sleep(0.01)
            clock.time -= 400 * DAY
            await passes.wait()
        task.cancel()
    await anna.datasets.UndeleteDatasetVersion(datasets.UndeleteDatasetVersionRequest(name=f"{SCREWS}/versions/2"))
    assert await anna.missing(DIGESTS) == []


async def test_a_purged_model_begins_anew(house: House, anna: Client, clock: Clock) -> None:
    """Under another uid, and its numbers go on; of the purged version nothing is shown."""
    scheduler = house.service("scheduler")
    for job, number in (("j1", 1), ("j2", 2)):
        version = {"lineage": {"job": f"{LINE}/jobs/{job}", "attempt": 1}, "report_json": "{}"}
        request = models.PublishModelVersionRequest(parent=MODEL, model_version=version)
        answer = await scheduler.models.PublishModelVersion(request)
        assert answer.model_version.name == f"{MODEL}/versions/{number}"
        uid = (await anna.models.GetModel(models.GetModelRequest(name=MODEL))).model.uid
        if number == 1:
            first = uid
            await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
            await expire(house, clock)
    assert uid != first
    page = await anna.models.ListModelVersions(models.ListModelVersionsRequest(parent=MODEL, show_deleted=True))
    assert [each.name for each in page.model_versions] == [f"{MODEL}/versions/2"]
