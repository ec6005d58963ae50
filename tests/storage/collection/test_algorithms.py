"""Deleting versions of algorithms: who may, what is seen meanwhile, and what a model was made with stays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from loupe.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from loupe.storage.v1 import algorithm_pb2
from loupe.storage.v1 import algorithm_service_pb2 as algorithms
from loupe.storage.v1 import model_service_pb2 as models
from services.storage.collection.collector import Collected
from services.storage.settings import StorageSettings
from tests.storage.algorithms.test_library import publish
from tests.storage.archives import packed
from tests.storage.collection.test_collector import DAY, MODEL, Clock
from tests.storage.collection.test_collector import publish as publish_model
from tests.storage.house import LINE, Client, House, open_house
from tests.storage.photographs import sha256
from tests.storage.test_audit import SYSTEM, listed, told

ONE, TWO = packed(version="1"), packed(version="2")
MINE = "algorithms/mine/versions"


@pytest.fixture
def clock() -> Clock:
    """The time in the house."""
    return Clock()


@pytest.fixture
async def house(storage_settings: StorageSettings, clock: Clock) -> AsyncIterator[House]:
    """A storage service with a clock that is set by hand, and two versions of anna's algorithm, who may delete them."""
    async with open_house(storage_settings, now=clock) as running:
        running.auth.levels["anna", "system"] = 40
        for image in (ONE, TWO):
            await publish(running.client(), image)
        yield running


async def delete(client: Client, version: str, request_id: str = "") -> algorithm_pb2.AlgorithmVersion:
    request = algorithms.DeleteAlgorithmVersionRequest(name=f"{MINE}/{version}", request_id=request_id)
    return (await client.algorithms.DeleteAlgorithmVersion(request)).algorithm_version


async def restore(client: Client, version: str) -> algorithm_pb2.AlgorithmVersion:
    request = algorithms.UndeleteAlgorithmVersionRequest(name=f"{MINE}/{version}")
    return (await client.algorithms.UndeleteAlgorithmVersion(request)).algorithm_version


async def get(client: Client, version: str, *, show_deleted: bool = False) -> algorithm_pb2.AlgorithmVersion:
    request = algorithms.GetAlgorithmVersionRequest(name=f"{MINE}/{version}", show_deleted=show_deleted)
    return (await client.algorithms.GetAlgorithmVersion(request)).algorithm_version


async def download(client: Client, version: str) -> bytes:
    request = algorithms.DownloadAlgorithmVersionRequest(name=f"{MINE}/{version}")
    return b"".join([message.chunk async for message in client.algorithms.DownloadAlgorithmVersion(request)])


async def versions(client: Client, algorithm: str = "", *, show_deleted: bool = False) -> list[str]:
    request = algorithms.ListAlgorithmVersionsRequest(algorithm=algorithm, show_deleted=show_deleted)
    return [each.name for each in (await client.algorithms.ListAlgorithmVersions(request)).algorithm_versions]


def image_files(house: House) -> set[str]:
    return {path.name for path in (house.settings.state / "files" / "algorithms").iterdir()}


async def test_a_deleted_version_is_hidden_and_the_one_before_is_the_latest(house: House, anna: Client) -> None:
    """It comes back as it was, and is the latest again."""
    before = await get(anna, "2")
    gone = await delete(anna, "latest")
    assert gone.name == f"{MINE}/2"
    assert gone.expire_time.seconds - gone.delete_time.seconds == 30 * DAY
    for call in (get(anna, "2"), delete(anna, "2"), download(anna, "2")):
        with pytest.raises(NotFound):
            await call
    assert (await get(anna, "latest")).name == f"{MINE}/1"
    assert await get(anna, "2", show_deleted=True) == gone
    assert await versions(anna) == [f"{MINE}/1"]
    assert await versions(anna, show_deleted=True) == [f"{MINE}/2"]
    assert await versions(anna, "algorithms/mine") == [f"{MINE}/1"]
    assert await versions(anna, "algorithms/mine", show_deleted=True) == [f"{MINE}/2", f"{MINE}/1"]
    assert await restore(anna, "2") == before == await get(anna, "latest")
    with pytest.raises(AlreadyExists):
        await restore(anna, "2")


async def test_an_algorithm_of_which_all_is_deleted_has_no_latest_version(house: House, anna: Client) -> None:
    """It is in no list but in that of deleted ones."""
    for version in "12":
        await delete(anna, version)
    with pytest.raises(NotFound):
        await get(anna, "latest")
    assert (await versions(anna), await versions(anna, show_deleted=True)) == ([], [f"{MINE}/2"])
    await restore(anna, "1")
    assert (await get(anna, "latest")).name == f"{MINE}/1"


async def test_what_ships_with_loupe_is_not_deleted(house: House, anna: Client) -> None:
    """It is said why, and it stays."""
    await publish(house.service("deploy"), ONE)
    with pytest.raises(FailedPrecondition) as caught:
        await delete(anna, "1")
    assert caught.value.state == "BUILT_IN"
    assert await download(anna, "1") == ONE


async def test_what_ships_with_loupe_comes_back(house: House, anna: Client) -> None:
    """An upload of before that was deleted is the built-in version once the deployment brings it."""
    await delete(anna, "1")
    assert (await publish(house.service("deploy"), ONE)).built_in
    assert not (await get(anna, "1")).HasField("delete_time")
    assert await versions(anna) == [f"{MINE}/1"]


async def test_deleting_takes_more_than_publishing(house: House) -> None:
    """It is a right in the whole mesh; who was refused leaves a row in its log."""
    house.auth.levels["emil", "system"] = 30
    emil = house.client("emil")
    for call in (delete, restore):
        with pytest.raises(PermissionDenied) as caught:
            await call(emil, "1")
        assert (caught.value.action, caught.value.threshold) == ("algorithms.delete", 40)
    await delete(house.client(), "1")
    rows = {told(entry) for entry in await listed(house, SYSTEM) if "DeleteAlgorithm" in entry.method}
    assert rows == {
        ("accounts/emil", "DeleteAlgorithmVersion", f"{MINE}/1", "PERMISSION_DENIED"),
        ("accounts/anna", "DeleteAlgorithmVersion", f"{MINE}/1", "OK"),
    }


async def test_a_repeated_call_has_one_effect(house: House, anna: Client) -> None:
    """The same request_id gets the same answer, also after the version was restored."""
    gone = await delete(anna, "latest", "r1")
    await restore(anna, "2")
    assert await delete(anna, "latest", "r1") == gone
    assert (await get(anna, "latest")).name == f"{MINE}/2"


async def test_what_a_model_was_made_with_stays(house: House, anna: Client, clock: Clock) -> None:
    """It can be downloaded for as long as the model can be restored; then its image goes."""
    await publish_model(house, "j1", algorithm_version=f"{MINE}/1")
    for version in "12":
        await delete(anna, version)
    assert await download(anna, "1") == ONE
    clock.time += 31 * DAY
    assert await house.storage.collector.collect() == Collected(algorithm_versions=1)
    assert image_files(house) == {sha256(ONE)}
    assert await download(anna, "1") == ONE
    await restore(anna, "1")
    await delete(anna, "1")
    await anna.models.DeleteModel(models.DeleteModelRequest(name=MODEL))
    clock.time += 31 * DAY
    assert await house.storage.collector.collect() == Collected(model_versions=1, algorithm_versions=1)
    assert image_files(house) == set()
    for call in (download(anna, "1"), restore(anna, "1"), get(anna, "1", show_deleted=True)):
        with pytest.raises(NotFound):
            await call


async def test_a_running_job_reads_on(house: House, anna: Client, clock: Clock) -> None:
    """An attempt gets a version that was deleted after its job began, which is not purged under it."""
    await delete(anna, "1")
    clock.time += 29 * DAY
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    assert (await get(trainer, "1")).name == f"{MINE}/1"
    assert await download(trainer, "1") == ONE
    with pytest.raises(NotFound):
        await get(house.service("scheduler"), "1")
    clock.time += 2 * DAY
    assert (await house.storage.collector.collect()).algorithm_versions == 0
    assert await download(trainer, "1") == ONE
    clock.time += 8 * DAY
    assert (await house.storage.collector.collect()).algorithm_versions == 1


async def test_no_other_image_takes_the_name(house: House, anna: Client, clock: Clock) -> None:
    """Models of before were made with the old one; the very same may come again once it is purged."""
    await delete(anna, "1")
    other = packed(version="1", code=b"def run(context): return 1\n")
    with pytest.raises(AlreadyExists) as caught:
        await publish(anna, ONE)
    assert caught.value.state == "DELETED"
    for days in (0, 31):
        clock.time += days * DAY
        await house.storage.collector.collect()
        with pytest.raises(AlreadyExists):
            await publish(anna, other)
    assert image_files(house) == {sha256(TWO)}
    assert not (await publish(anna, ONE)).HasField("delete_time")
    assert await download(anna, "latest") == ONE
