"""The algorithm image library: whole images only, one content per version, newest first."""

from __future__ import annotations

import gzip
import resource
import tarfile
from collections.abc import AsyncIterator

import pytest

from loupe.errors import (
    AlreadyExists,
    BadAlgorithm,
    DataLoss,
    DigestMismatch,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SizeMismatch,
    UploadIncomplete,
)
from loupe.limits import MAX_IMAGE_BYTES
from loupe.storage.v1 import algorithm_pb2
from loupe.storage.v1 import algorithm_service_pb2 as messages
from services.storage.algorithms import library
from services.storage.settings import StorageSettings
from tests.storage.apart import storage_apart
from tests.storage.archives import packed
from tests.storage.house import Client, House, insist, open_house
from tests.storage.photographs import sha256


async def image_stream(
    data: bytes, digest: str = "", size: int = -1, closed: bool = True
) -> AsyncIterator[messages.PublishAlgorithmVersionRequest]:
    announced = {"digest": digest or sha256(data), "size": size if size >= 0 else len(data)}
    yield messages.PublishAlgorithmVersionRequest(header=announced)
    for start in range(0, len(data), 1 << 18):
        yield messages.PublishAlgorithmVersionRequest(chunk=data[start : start + (1 << 18)])
    if closed:
        yield messages.PublishAlgorithmVersionRequest(closing=announced)


async def publish(client: Client, data: bytes, **fields: object) -> algorithm_pb2.AlgorithmVersion:
    async def once() -> algorithm_pb2.AlgorithmVersion:
        answer = await client.algorithms.PublishAlgorithmVersion(image_stream(data, **fields))  # type: ignore[arg-type]
        return answer.algorithm_version

    return await insist(once)


async def listed(client: Client, algorithm: str = "", size: int = 1) -> list[str]:
    names, token = [], ""
    while True:
        request = messages.ListAlgorithmVersionsRequest(algorithm=algorithm, page_size=size, page_token=token)
        page = await client.algorithms.ListAlgorithmVersions(request)
        names += [each.name for each in page.algorithm_versions]
        token = page.next_page_token
        if not token:
            return names


async def downloaded(client: Client, name: str) -> bytes:
    request = messages.DownloadAlgorithmVersionRequest(name=name)
    return b"".join([message.chunk async for message in client.algorithms.DownloadAlgorithmVersion(request)])


async def test_an_image_joins_the_library_and_comes_back(anna: Client, eve: Client) -> None:
    """Name and version stand in its manifest; every account reads it; the same image again is the same version."""
    image = packed(code=b"#" * 2_500_000)
    version = await publish(anna, image)
    assert version.name == "algorithms/mine/versions/1"
    assert (version.task, version.summary, version.built_in) == ("classification", "for a test", False)
    assert version.creator == "accounts/anna"
    assert 'entry = "train:run"' in version.manifest_toml
    assert await publish(eve, image) == version
    assert await downloaded(eve, "algorithms/mine/versions/latest") == image


async def test_another_image_under_a_taken_version_is_refused(anna: Client) -> None:
    """A version never changes its content."""
    await publish(anna, packed())
    with pytest.raises(AlreadyExists):
        await publish(anna, packed(code=b"other"))
    assert await downloaded(anna, "algorithms/mine/versions/1") == packed()


async def test_the_deployments_images_are_built_in(house: House, anna: Client) -> None:
    """What the deployment publishes is built in, also when an account was there with the same image before."""
    await publish(anna, packed())
    version = await publish(house.service("deploy"), packed())
    assert version.built_in
    assert (
        await anna.algorithms.GetAlgorithmVersion(messages.GetAlgorithmVersionRequest(name=version.name))
    ).algorithm_version.built_in
    assert not (await publish(house.service("deploy"), packed("base"))).creator


async def test_the_newest_is_the_one_that_joined_last(anna: Client) -> None:
    """latest, and both lists with their pages."""
    for name, version in (("mine", "2"), ("mine", "10"), ("mine", "1"), ("other", "1")):
        await publish(anna, packed(name, version))
    request = messages.GetAlgorithmVersionRequest(name="algorithms/mine/versions/latest")
    latest = await anna.algorithms.GetAlgorithmVersion(request)
    assert latest.algorithm_version.name == "algorithms/mine/versions/1"
    assert await listed(anna) == ["algorithms/mine/versions/1", "algorithms/other/versions/1"]
    expected = [f"algorithms/mine/versions/{version}" for version in ("1", "10", "2")]
    assert await listed(anna, "algorithms/mine") == expected
    with pytest.raises(NotFound):
        await downloaded(anna, "algorithms/mine/versions/3")


async def latest(client: Client, algorithm: str) -> algorithm_pb2.AlgorithmVersion:
    request = messages.GetAlgorithmVersionRequest(name=f"algorithms/{algorithm}/versions/latest")
    return (await client.algorithms.GetAlgorithmVersion(request)).algorithm_version


@pytest.mark.parametrize("name", ["finetune", "scratch", "loupe-next"])
async def test_the_names_of_what_ships_with_loupe_are_reserved(anna: Client, name: str) -> None:
    """Also before the deployment has published anything under them."""
    with pytest.raises(BadAlgorithm, match="ships with Loupe") as caught:
        await publish(anna, packed(name, "99"))
    assert caught.value.problem == "reserved_name"
    assert await listed(anna) == []


async def test_a_name_is_reserved_once_something_ships_under_it(house: House, anna: Client) -> None:
    """No other image joins as a newer version; the very image that ships may come again."""
    await publish(house.service("deploy"), packed("base", "1"))
    with pytest.raises(BadAlgorithm, match="ships with Loupe"):
        await publish(anna, packed("base", "99"))
    assert (await publish(anna, packed("base", "1"))).built_in
    assert (await latest(anna, "base")).built_in


async def squat(house: House, *images: bytes) -> None:
    """Put images of anna's into the library as they were taken before names were reserved."""
    for archive in images:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "is_reserved", lambda algorithm: False)
            await publish(house.client("anna"), archive)


async def test_what_was_squatted_makes_way(house: House, anna: Client) -> None:
    """The deployment's image takes the place of an upload under its very version, and is the newest at once."""
    await squat(house, packed("finetune", "1", b"evil"), packed("finetune", "99", b"evil"))
    version = await publish(house.service("deploy"), packed("finetune", "1"))
    assert version.built_in
    assert not version.creator
    assert (await latest(anna, "finetune")).name == version.name
    assert await downloaded(anna, version.name) == packed("finetune", "1")
    assert await listed(anna) == [version.name]
    assert await publish(house.service("deploy"), packed("finetune", "1")) == version
    with pytest.raises(AlreadyExists):
        await publish(house.service("deploy"), packed("finetune", "1", b"another build of the same version"))


async def test_what_was_squatted_is_no_default_after_a_start(storage_settings: StorageSettings) -> None:
    """Before the deployment has published, "latest" of a reserved name is nothing; a squatter is not taken for it."""
    async with open_house(storage_settings) as house:
        await squat(house, packed("finetune", "99", b"evil"), packed("mine", "1"))
        assert (await latest(house.client(), "finetune")).creator == "accounts/anna"
    async with open_house(storage_settings) as house:
        with pytest.raises(NotFound):
            await latest(house.client(), "finetune")
        assert (await latest(house.client(), "mine")).creator == "accounts/anna"
        await publish(house.service("deploy"), packed("finetune", "1"))
        assert (await latest(house.client(), "finetune")).built_in


EVIL = {
    "path_outside": packed(entry="../evil.py", data=b"x"),
    "absolute": packed(entry="/etc/cron.d/evil", data=b"x"),
    "symlink": packed(entry="link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink": packed(entry="link", type=tarfile.LNKTYPE, linkname="train.py"),
    "device": packed(entry="device", type=tarfile.CHRTYPE),
    "twice": packed(entry="train.py", data=b"x"),
    "no manifest": b"\0" * 10240,
    "no archive": b"#!/bin/sh\n" * 1000,
    "cut off": packed(code=b"#" * 5000)[:3000],
    "latest": packed(version="latest"),
    "gzip bomb": gzip.compress(packed(code=b"\0" * (100 << 20))),
}


@pytest.mark.parametrize("kind", EVIL)
async def test_an_image_that_breaks_the_format_is_refused_whole(anna: Client, house: House, kind: str) -> None:
    """Nothing of it stays, and memory does not grow with what it would unpack to."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadAlgorithm):
        await publish(anna, EVIL[kind])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert await listed(anna) == []
    left = [
        path for part in ("staging", "files") for path in (house.settings.state / part).rglob("*") if path.is_file()
    ]
    assert left == []


def folders(count: int) -> bytes:
    """So many entries of 512 bytes, all of them the same folder."""
    header = tarfile.TarInfo("folder")
    header.type = tarfile.DIRTYPE
    return header.tobuf() * count


async def test_floods_are_refused_with_the_memory_of_the_process_bounded(storage_settings: StorageSettings) -> None:
    """A million entries in gzip, as many as the largest image that is taken has room for, and a gzip bomb."""
    floods = [
        (gzip.compress(folders(2_000)) * 500, "more than 2000 entries"),
        (folders(MAX_IMAGE_BYTES // 512), "more than 2000 entries"),
        (EVIL["gzip bomb"], "unpacks to more than"),
    ]
    async with storage_apart(storage_settings) as (anna, memory):
        await publish(anna, packed())
        before = memory.now()
        memory.forget_peak()
        for archive, problem in floods:
            with pytest.raises(BadAlgorithm, match=problem):
                await publish(anna, archive)
            assert memory.peak() - before < 64 << 20
        assert await listed(anna) == ["algorithms/mine/versions/1"]
    left = [path for path in (storage_settings.state / "staging").rglob("*") if path.is_file()]
    assert left == []


async def test_an_upload_that_does_not_agree_is_refused(anna: Client) -> None:
    """Wrong digest, wrong size, too large, cut off: each with its error."""
    image = packed()
    with pytest.raises(DigestMismatch):
        await publish(anna, image, digest="0" * 64)
    with pytest.raises(SizeMismatch):
        await publish(anna, image, size=len(image) + 1)
    with pytest.raises(SizeMismatch):
        await publish(anna, image, size=len(image) - 1)
    with pytest.raises(ResourceExhausted):
        await publish(anna, image, size=(64 << 20) + 1)
    with pytest.raises(UploadIncomplete):
        await publish(anna, image, closed=False)
    with pytest.raises(InvalidArgument):
        await publish(anna, image, digest="no digest")
    assert await listed(anna) == []


async def test_an_account_below_the_threshold_may_not_publish(house: House) -> None:
    """The library is guarded by a system-wide action."""
    with pytest.raises(PermissionDenied):
        await publish(house.client("vera"), packed())


async def test_a_damaged_image_is_never_served(anna: Client, house: House) -> None:
    """A flipped bit is DataLoss."""
    version = await publish(anna, packed())
    path = house.settings.state / "files" / "algorithms" / version.digest
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataLoss):
        await downloaded(anna, version.name)
