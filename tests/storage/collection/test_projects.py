"""Deleting a project: nobody is let at anything in it, it comes back as it was, or goes with all that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from loupe.errors import AlreadyExists, NotFound, PermissionDenied, Unavailable
from loupe.rpc.gate import access_table
from loupe.storage.v1 import blob_service_pb2 as blobs
from loupe.storage.v1 import dataset_service_pb2 as datasets
from loupe.storage.v1 import model_service_pb2 as models
from loupe.storage.v1 import project_service_pb2 as projects
from loupe.storage.v1.project_pb2 import Project
from services.storage.collection.collector import Collected
from services.storage.database.metadata import metadata
from services.storage.settings import StorageSettings
from tests.storage.collection.test_collector import DAY, Clock, publish
from tests.storage.collection.test_deletion import items
from tests.storage.house import LINE, OTHER, Client, House, blob_stream, open_house, picture_stream, version_stream
from tests.storage.photographs import jpeg, sha256
from tests.storage.test_audit import listed, told

PICTURES = [jpeg(seed) for seed in range(24)]
DIGEST = sha256(PICTURES[0])
WEIGHTS, TENSORS = b"weights" * 1000, b"tensors" * 1000
DATASET, MODEL, JOB = f"{LINE}/datasets/screws", f"{LINE}/models/screws", f"{LINE}/jobs/j1"
VERSION, MODEL_VERSION = f"{DATASET}/versions/1", f"{MODEL}/versions/1"


@pytest.fixture
def clock() -> Clock:
    """The time in the house."""
    return Clock()


@pytest.fixture
async def house(storage_settings: StorageSettings, clock: Clock) -> AsyncIterator[House]:
    """A storage service with a clock that is set by hand, in which anna's project has something of everything."""
    async with open_house(storage_settings, now=clock) as running:
        await fill(running)
        yield running


async def fill(house: House) -> None:
    anna, eve = house.client(), house.client("eve")
    await anna.upload(PICTURES)
    await anna.make_dataset("screws")
    await anna.make_version(DATASET, items(PICTURES))
    await anna.make_dataset("empty")
    await anna.upload_blob(WEIGHTS)
    attempt = house.client(f"attempt {JOB} 1")
    await attempt.upload_blob(TENSORS)
    file = {"filename": "tensors", "digest": sha256(TENSORS), "size": len(TENSORS)}
    checkpoint = {"job": JOB, "attempt": 1, "files": [file]}
    await attempt.models.SaveCheckpoint(models.SaveCheckpointRequest(checkpoint=checkpoint))
    await house.service("scheduler").models.RaiseFence(models.RaiseFenceRequest(job=JOB, attempt=1))
    given = f'{{"weights": "{sha256(WEIGHTS)}"}}'
    await publish(house, "j2", [WEIGHTS, PICTURES[0]], dataset_version=VERSION, parameters_json=given)
    await eve.upload(PICTURES, OTHER)
    await eve.make_dataset("screws", OTHER)
    await eve.make_version(f"{OTHER}/datasets/screws", items(PICTURES))


async def delete(client: Client, request_id: str = "") -> Project:
    request = projects.DeleteProjectRequest(name=LINE, request_id=request_id)
    return (await client.projects.DeleteProject(request)).project


async def restore(client: Client) -> Project:
    return (await client.projects.UndeleteProject(projects.UndeleteProjectRequest(name=LINE))).project


async def get(client: Client, **fields: bool) -> Project:
    return (await client.projects.GetProject(projects.GetProjectRequest(name=LINE, **fields))).project


async def names(client: Client, *, show_deleted: bool = False) -> list[str]:
    answer = await client.projects.ListProjects(projects.ListProjectsRequest(show_deleted=show_deleted))
    return [each.name for each in answer.projects]


def of_its_own_project() -> set[str]:
    """Return the RPCs of storage that are about something in one project, and take no deleted one."""
    pool = descriptor_pool.Default()
    services = ("Project", "Blob", "Dataset", "Algorithm", "Model")
    table = access_table(pool.FindServiceByName(f"loupe.storage.v1.{name}Service") for name in services)
    without = {"CreateProject", "ListProjects", "UndeleteProject"}
    about = {path.rpartition("/")[2] for path in table if "Algorithm" not in path}
    return about - without - {"RaiseFence", "RemoveCheckpoint"}


class Calls:
    """One call of each RPC that is about something in the project, by those who may make it."""

    def __init__(self, house: House) -> None:
        self.anna = house.client()
        self.attempt = house.client(f"attempt {JOB} 1")
        self.scheduler = house.service("scheduler")

    def all(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield them by the RPCs' names."""
        anna, version = self.anna, {"lineage": {"job": JOB, "attempt": 1}}
        checkpoint = {"job": JOB, "attempt": 1}
        unary: dict[Any, list[Message]] = {
            anna.projects: [
                projects.GetProjectRequest(name=LINE),
                projects.GetProjectUsageRequest(name=LINE),
                projects.DeleteProjectRequest(name=LINE),
            ],
            anna.blobs: [
                blobs.FindMissingBlobsRequest(parent=LINE, digests=[DIGEST]),
                blobs.QueryUploadRequest(parent=LINE, digest=DIGEST),
                blobs.DownloadBlobsRequest(parent=LINE, digests=[DIGEST]),
            ],
            anna.datasets: [
                datasets.CreateDatasetRequest(parent=LINE, dataset_id="new"),
                datasets.GetDatasetRequest(name=DATASET, show_deleted=True),
                datasets.ListDatasetsRequest(parent=LINE, show_deleted=True),
                datasets.GetDatasetVersionRequest(name=VERSION, show_deleted=True),
                datasets.ListDatasetVersionsRequest(parent=DATASET, show_deleted=True),
                datasets.ReadDatasetItemsRequest(name=VERSION),
                datasets.DiffDatasetVersionsRequest(base=VERSION, name=VERSION),
                datasets.DeleteDatasetVersionRequest(name=VERSION),
                datasets.UndeleteDatasetVersionRequest(name=VERSION),
                datasets.DeleteDatasetRequest(name=DATASET),
                datasets.UndeleteDatasetRequest(name=DATASET),
            ],
            anna.models: [
                models.GetModelRequest(name=MODEL, show_deleted=True),
                models.ListModelsRequest(parent=LINE, show_deleted=True),
                models.GetModelVersionRequest(name=MODEL_VERSION, show_deleted=True),
                models.ListModelVersionsRequest(parent=MODEL, show_deleted=True),
                models.DownloadModelFileRequest(name=MODEL_VERSION, filename="file-0"),
                models.DeleteModelVersionRequest(name=MODEL_VERSION),
                models.UndeleteModelVersionRequest(name=MODEL_VERSION),
                models.DeleteModelRequest(name=MODEL),
                models.UndeleteModelRequest(name=MODEL),
            ],
            self.scheduler.datasets: [datasets.GetDatasetVersionRequest(name=VERSION)],
            self.scheduler.models: [
                models.PublishModelVersionRequest(parent=MODEL, model_version=version),
                models.GetModelVersionRequest(name=MODEL_VERSION),
                models.CopyCheckpointRequest(job=f"{LINE}/jobs/j2", source=JOB),
            ],
            self.attempt.models: [
                models.SaveCheckpointRequest(checkpoint=checkpoint),
                models.GetCheckpointRequest(job=JOB),
            ],
            self.attempt.blobs: [
                blobs.FindMissingBlobsRequest(parent=LINE, digests=[DIGEST]),
                blobs.DownloadBlobsRequest(parent=LINE, digests=[DIGEST]),
            ],
            self.attempt.datasets: [
                datasets.GetDatasetVersionRequest(name=VERSION),
                datasets.ReadDatasetItemsRequest(name=VERSION),
            ],
        }
        for stub, requests in unary.items():
            for request in requests:
                method = type(request).__name__.removesuffix("Request")
                yield method, partial(getattr(stub, method), request)
        quota = projects.SetProjectQuotaRequest(name=LINE, max_pictures=1)
        yield "SetProjectQuota", lambda: self.anna.projects.SetProjectQuota(quota)
        fresh = [jpeg(1000)]
        yield "UploadPictures", lambda: self.anna.blobs.UploadPictures(picture_stream(fresh, LINE))
        yield "UploadBlob", lambda: self.anna.blobs.UploadBlob(blob_stream(b"new", LINE))
        again = items(PICTURES)
        yield "CreateDatasetVersion", lambda: self.anna.datasets.CreateDatasetVersion(version_stream(DATASET, again))


async def ended(call: Any) -> None:
    """Wait for a call of any kind."""
    if isinstance(call, Awaitable):
        await call
    else:
        async for _ in call:
            pass


async def test_nothing_in_a_deleted_project_is_found(house: House) -> None:
    """By nobody: not by its owner, an attempt or the scheduler. No call of the contract is forgotten here."""
    house.auth.levels["anna", "system"] = 90
    await delete(house.client())
    seen = set()
    for method, call in Calls(house).all():
        for _ in range(50):
            try:
                with pytest.raises(NotFound):
                    await ended(call())
            except Unavailable:
                continue  # the status of a stream that the server ended early was lost
            break
        seen.add(method)
    assert seen == of_its_own_project()


async def test_a_restored_project_is_as_it_was(house: House, clock: Clock) -> None:
    """Whatever is in it, with its checkpoint, on the last day."""
    anna = house.client()
    before, there = await get(anna), await anna.items(VERSION)
    gone = await delete(anna)
    assert gone.expire_time.seconds - gone.delete_time.seconds == 30 * DAY
    clock.time += 29 * DAY
    assert await house.storage.collector.collect() == Collected()
    assert await restore(anna) == before == await get(anna)
    assert await anna.items(VERSION) == there
    assert await anna.missing(map(sha256, [*PICTURES, WEIGHTS])) == []
    request = models.GetCheckpointRequest(job=JOB)
    assert len((await house.client(f"attempt {JOB} 1").models.GetCheckpoint(request)).checkpoint.files) == 1
    with pytest.raises(AlreadyExists):
        await restore(anna)


async def test_who_may_restore_it_sees_it(house: House) -> None:
    """An owner, who asks for deleted ones; neither an engineer of the project nor a stranger."""
    house.auth.levels["emil", "line-7"] = 30
    anna, emil, eve = (house.client(each) for each in ("anna", "emil", "eve"))
    await delete(anna)
    assert (await get(anna, show_deleted=True)).HasField("expire_time")
    assert (await names(anna), await names(anna, show_deleted=True)) == ([], [LINE])
    for client in (emil, eve):
        with pytest.raises(NotFound):
            await get(client, show_deleted=True)
        assert LINE not in await names(client, show_deleted=True)


async def test_only_owners_delete(house: House) -> None:
    """Below the threshold it is refused with what would be needed; a stranger finds nothing. Each leaves its row."""
    house.auth.levels["emil", "line-7"] = 30
    for call in (delete, restore):
        with pytest.raises(PermissionDenied) as caught:
            await call(house.client("emil"))
        assert (caught.value.action, caught.value.threshold) == ("projects.delete", 40)
        with pytest.raises(NotFound):
            await call(house.client("eve"))
    await delete(house.client())
    rows = [told(entry) for entry in await listed(house, LINE) if "DeleteProject" in entry.method]
    assert set(rows) == {
        ("accounts/anna", "DeleteProject", LINE, "OK"),
        ("accounts/eve", "DeleteProject", LINE, "NOT_FOUND"),
        ("accounts/emil", "DeleteProject", LINE, "PERMISSION_DENIED"),
    }


async def test_a_repeated_call_has_one_effect(house: House) -> None:
    """The same request_id gets the same answer, also after the project was restored."""
    anna = house.client()
    gone = await delete(anna, "r1")
    await restore(anna)
    assert await delete(anna, "r1") == gone
    assert not (await get(anna)).HasField("delete_time")


async def rows_of(house: House, project: str) -> dict[str, int]:
    """Count, by table, the rows that say the project's id or a name in it."""
    found: dict[str, int] = {}
    async with house.storage.database.read() as session:
        for table in metadata.sorted_tables:
            for row in (await session.connection.execute(sa.select(table))).all():
                said = [each for each in row if isinstance(each, str)]
                if any(each == project or each.startswith(f"projects/{project}/") for each in said):
                    found[table.name] = found.get(table.name, 0) + 1
    return found


async def count(house: House, table: str) -> int:
    async with house.storage.database.read() as session:
        query = sa.select(sa.func.count()).select_from(metadata.tables[table])
        return int((await session.connection.execute(query)).scalar_one())


async def test_an_expired_project_goes_with_all_that_it_holds(house: House, clock: Clock) -> None:
    """In one pass; its id is never given again, and another project has what it had."""
    anna, eve = house.client(), house.client("eve")
    assert len(await rows_of(house, "line-7")) >= 12
    uid = (await get(anna)).uid
    await delete(anna)
    clock.time += 31 * DAY
    collected = await house.storage.collector.collect()
    assert (collected.projects, collected.pictures, collected.model_versions) == (1, len(PICTURES), 1)
    assert house.auth.forgotten == [("line-7", uid)]
    left = await rows_of(house, "line-7")
    left.pop("audit_log")
    assert left == {"projects": 1}
    for table, expected in (("dataset_items", len(PICTURES)), ("dataset_version_hashes", 1)):
        assert await count(house, table) == expected, "those of the other project"
    state = house.settings.state
    assert [path for path in state.rglob("*line-7/*") if path.is_file()] == []
    with pytest.raises(NotFound):
        await restore(anna)
    with pytest.raises(AlreadyExists):
        await anna.make_project(LINE)
    assert await eve.download([DIGEST], OTHER) == {DIGEST: PICTURES[0]}
    assert await house.storage.collector.collect() == Collected()


async def test_a_project_is_not_gone_before_auth_has_forgotten_it(house: House, clock: Clock) -> None:
    """The next pass goes on, when auth can be reached again."""
    await delete(house.client())
    clock.time += 31 * DAY
    house.auth.away = True
    with pytest.raises(Unavailable):
        await house.storage.collector.collect()
    house.auth.away = False
    assert (await house.storage.collector.collect()).projects == 1


async def test_what_was_written_while_a_project_was_purged_goes_too(house: House, clock: Clock) -> None:
    """A stream that began before the project was deleted is refused its next pictures, and leaves nothing."""
    anna = house.client()
    stopped, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[blobs.UploadPicturesRequest]:
        messages = picture_stream([jpeg(seed) for seed in range(1000, 1004)], LINE, batch=2)
        yield await anext(messages)
        yield await anext(messages)
        stopped.set()
        await goes_on.wait()
        async for message in messages:
            yield message

    async def upload() -> None:
        async for _ in anna.blobs.UploadPictures(slowly()):
            pass

    uploading = asyncio.create_task(upload())
    await stopped.wait()
    await delete(anna)
    clock.time += 31 * DAY
    await house.storage.collector.collect()
    goes_on.set()
    with pytest.raises((NotFound, Unavailable)):
        await uploading
    await house.storage.collector.collect()
    left = await rows_of(house, "line-7")
    left.pop("audit_log")
    assert left == {"projects": 1}


async def test_passes_side_by_side_do_the_work_of_one(house: House, clock: Clock) -> None:
    """Nothing is counted twice, and the project is gone afterwards."""
    await delete(house.client())
    clock.time += 31 * DAY
    passes = await asyncio.gather(*(house.storage.collector.collect() for _ in range(3)))
    passes.append(await house.storage.collector.collect())
    assert sum(each.projects for each in passes) == 1
    left = await rows_of(house, "line-7")
    assert left.keys() == {"projects", "audit_log"}
    async with house.storage.database.read() as session:
        row = (await session.connection.execute(sa.text("SELECT * FROM projects WHERE project = 'line-7'"))).one()
    assert (row.purged, row.pictures, row.picture_bytes, row.blobs, row.blob_bytes) == (2, 0, 0, 0, 0)
