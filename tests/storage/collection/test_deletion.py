"""Deleting and restoring: who may, what is seen meanwhile, which version is the latest, and who reads on."""

from __future__ import annotations

import pytest

from loupe.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from loupe.storage.v1 import dataset_pb2
from loupe.storage.v1 import dataset_service_pb2 as datasets
from loupe.storage.v1 import model_service_pb2 as models
from tests.storage.house import LINE, Client, House
from tests.storage.photographs import jpeg, sha256

PICTURES = [jpeg(seed) for seed in range(24)]
SCREWS = f"{LINE}/datasets/screws"
MODEL = f"{LINE}/models/screws"


def items(pictures: list[bytes] = PICTURES) -> list[dataset_pb2.DatasetItem]:
    return [dataset_pb2.DatasetItem(digest=sha256(each), label="ab"[index % 2]) for index, each in enumerate(pictures)]


@pytest.fixture
async def screws(anna: Client) -> str:
    """A data set with two versions."""
    await anna.upload(PICTURES)
    name = await anna.make_dataset("screws")
    await anna.make_version(name, items(PICTURES[:20]))
    await anna.make_version(name, items())
    return name


async def dataset(client: Client, **fields: bool) -> dataset_pb2.Dataset:
    return (await client.datasets.GetDataset(datasets.GetDatasetRequest(name=SCREWS, **fields))).dataset


async def version(client: Client, number: str, **fields: bool) -> dataset_pb2.DatasetVersion:
    request = datasets.GetDatasetVersionRequest(name=f"{SCREWS}/versions/{number}", **fields)
    return (await client.datasets.GetDatasetVersion(request)).dataset_version


async def delete_version(client: Client, number: str, request_id: str = "") -> datasets.DeleteDatasetVersionResponse:
    request = datasets.DeleteDatasetVersionRequest(name=f"{SCREWS}/versions/{number}", request_id=request_id)
    return await client.datasets.DeleteDatasetVersion(request)


async def restore_version(client: Client, number: str) -> datasets.UndeleteDatasetVersionResponse:
    request = datasets.UndeleteDatasetVersionRequest(name=f"{SCREWS}/versions/{number}")
    return await client.datasets.UndeleteDatasetVersion(request)


async def publish(scheduler: Client, job: str, *, released: bool = True) -> str:
    version = {"released": released, "lineage": {"job": f"{LINE}/jobs/{job}", "attempt": 1}}
    request = models.PublishModelVersionRequest(parent=MODEL, model_version=version)
    return (await scheduler.models.PublishModelVersion(request)).model_version.name


async def test_a_deleted_version_is_hidden_and_the_one_before_is_the_latest(anna: Client, screws: str) -> None:
    """Get and List do not tell of it unless they are asked to; deleting it again finds nothing."""
    answer = await delete_version(anna, "latest")
    assert answer.dataset_version.name == f"{screws}/versions/2"
    kept = answer.dataset_version.expire_time.seconds - answer.dataset_version.delete_time.seconds
    assert kept == 30 * 24 * 3600
    assert answer.dataset.latest_version == f"{screws}/versions/1"
    assert (await version(anna, "latest")).name == f"{screws}/versions/1"
    for call in (version(anna, "2"), delete_version(anna, "2"), anna.items(f"{screws}/versions/2")):
        with pytest.raises(NotFound):
            await call
    assert (await version(anna, "2", show_deleted=True)).delete_time == answer.dataset_version.delete_time
    for show_deleted, expected in ((False, ["1"]), (True, ["2", "1"])):
        request = datasets.ListDatasetVersionsRequest(parent=screws, show_deleted=show_deleted)
        page = await anna.datasets.ListDatasetVersions(request)
        assert [each.name.rpartition("/")[2] for each in page.dataset_versions] == expected


async def test_a_restored_version_is_as_it_was(anna: Client, screws: str) -> None:
    """The same items, the latest again, and nothing says that it ever was deleted; restoring it twice is told."""
    before, there = await version(anna, "2"), await anna.items(f"{screws}/versions/2")
    await delete_version(anna, "2")
    answer = await restore_version(anna, "2")
    assert answer.dataset.latest_version == f"{screws}/versions/2"
    assert answer.dataset_version == before == await version(anna, "latest")
    assert await anna.items(f"{screws}/versions/2") == there
    with pytest.raises(AlreadyExists):
        await restore_version(anna, "2")


async def test_numbers_are_not_given_again(anna: Client, screws: str) -> None:
    """The same pictures make a new version while the old one is deleted, which cannot come back beside it."""
    await delete_version(anna, "2")
    assert (await anna.make_version(screws, items())).dataset_version.name == f"{screws}/versions/3"
    with pytest.raises(AlreadyExists) as caught:
        await restore_version(anna, "2")
    assert caught.value.resource == f"{screws}/versions/3"
    await delete_version(anna, "3")
    await restore_version(anna, "2")


async def test_what_was_in_test_stays_there_when_all_versions_are_deleted(anna: Client, screws: str) -> None:
    """Deleting versions is no way to train on test pictures."""
    tested = {each.digest for each in await anna.items(f"{screws}/versions/2") if each.split == dataset_pb2.SPLIT_TEST}
    for number in "12":
        await delete_version(anna, number)
    again = await anna.make_version(screws, items())
    assert again.dataset_version.name == f"{screws}/versions/3"
    found = {each.digest: each.split for each in await anna.items(f"{screws}/versions/3")}
    assert {found[digest] for digest in tested} == {dataset_pb2.SPLIT_TEST}


async def test_a_repeated_call_has_one_effect(anna: Client, screws: str) -> None:
    """The same request_id gets the same answer, also after the version was restored."""
    first = await delete_version(anna, "latest", "r1")
    assert await delete_version(anna, "latest", "r1") == first
    assert (await version(anna, "latest")).name == f"{screws}/versions/1"


async def test_a_data_set_goes_and_comes_with_its_versions(anna: Client, screws: str) -> None:
    """Those that were deleted before stay deleted; its id is not free meanwhile."""
    await delete_version(anna, "1")
    gone = await anna.datasets.DeleteDataset(datasets.DeleteDatasetRequest(name=screws))
    assert (gone.version_count, gone.dataset.latest_version) == (1, "")
    for call in (dataset(anna), version(anna, "2"), delete_version(anna, "2"), anna.make_version(screws, items())):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(AlreadyExists, match="restore"):
        await anna.make_dataset("screws")
    with pytest.raises(FailedPrecondition):
        await restore_version(anna, "2")
    assert (await dataset(anna, show_deleted=True)).HasField("delete_time")
    page = await anna.datasets.ListDatasets(datasets.ListDatasetsRequest(parent=LINE))
    assert list(page.datasets) == []
    back = await anna.datasets.UndeleteDataset(datasets.UndeleteDatasetRequest(name=screws))
    assert (back.version_count, back.dataset.latest_version) == (1, f"{screws}/versions/2")
    with pytest.raises(NotFound):
        await version(anna, "1")


async def test_a_running_job_reads_on(house: House, anna: Client, screws: str) -> None:
    """An attempt reads a version that was deleted after its job began; the scheduler takes none for a new job."""
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await delete_version(anna, "2")
    assert (await version(trainer, "2")).name == f"{screws}/versions/2"
    assert len(await trainer.items(f"{screws}/versions/2")) == len(PICTURES)
    with pytest.raises(NotFound):
        await version(house.service("scheduler"), "2")


async def test_deleting_takes_more_than_writing(house: House, screws: str) -> None:
    """An engineer may push and train, an owner may delete."""
    house.auth.levels["emil", "line-7"] = 30
    with pytest.raises(PermissionDenied) as caught:
        await delete_version(house.client("emil"), "2")
    assert (caught.value.action, caught.value.threshold) == ("datasets.delete", 40)
    request = models.DeleteModelRequest(name=MODEL)
    with pytest.raises(PermissionDenied) as caught:
        await house.client("emil").models.DeleteModel(request)
    assert (caught.value.action, caught.value.threshold) == ("models.delete", 40)


async def test_the_latest_released_model_is_the_newest_that_is_left(house: House, anna: Client) -> None:
    """The answer says which versions are the newest ones now; numbers go on."""
    scheduler = house.service("scheduler")
    for job, released in (("j1", True), ("j2", True), ("j3", False)):
        await publish(scheduler, job, released=released)
    request = models.DeleteModelVersionRequest(name=f"{MODEL}/versions/latest")
    answer = await anna.models.DeleteModelVersion(request)
    assert answer.model_version.name == f"{MODEL}/versions/2"
    assert answer.model.latest_version == f"{MODEL}/versions/3"
    assert answer.model.latest_released_version == f"{MODEL}/versions/1"
    latest = await anna.models.GetModelVersion(models.GetModelVersionRequest(name=f"{MODEL}/versions/latest"))
    assert latest.model_version.name == f"{MODEL}/versions/1"
    back = await anna.models.UndeleteModelVersion(models.UndeleteModelVersionRequest(name=f"{MODEL}/versions/2"))
    assert back.model.latest_released_version == f"{MODEL}/versions/2"
    assert await publish(scheduler, "j4") == f"{MODEL}/versions/4"


async def test_what_a_job_makes_is_not_lost_with_its_model(house: House, anna: Client) -> None:
    """A version that is published into a deleted model brings the model back, and not its other versions."""
    scheduler = house.service("scheduler")
    await publish(scheduler, "j1")
    gone = await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    assert gone.version_count == 1 and gone.model.latest_version == ""
    assert await publish(scheduler, "j2") == f"{MODEL}/versions/2"
    page = await anna.models.ListModelVersions(models.ListModelVersionsRequest(parent=MODEL))
    assert [each.name for each in page.model_versions] == [f"{MODEL}/versions/2"]
    await anna.models.UndeleteModelVersion(models.UndeleteModelVersionRequest(name=f"{MODEL}/versions/1"))
    with pytest.raises(AlreadyExists):
        await anna.models.UndeleteModel(models.UndeleteModelRequest(name=MODEL))
