"""What stands on this machine: the newest released version is used, and the gate holds for each version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loupe import errors
from loupe.names import ModelName
from loupe.terminal.client import Terminal
from loupe.terminal.installed import NotInstalled, installed_model, installed_versions, newest_installed
from loupe.terminal.models import NotReleased
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh

SCREWS = ModelName("line-7", "screws")
NAME = "projects/line-7/models/screws/versions/{}"


async def pull(store: ProfileStore, *numbers: int, allow_below_target: bool = False) -> None:
    async with Terminal.connect(store) as loupe:
        for number in numbers:
            await loupe.models.pull(NAME.format(number), allow_below_target=allow_below_target)


async def test_the_newest_number_is_the_newest_and_not_the_last_text(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    for number in (2, 9, 10):
        add_version(number)
    await pull(store, 9, 10, 2)
    assert [one.name.number for one in installed_versions(SCREWS)] == ["10", "9", "2"]
    newest = newest_installed(SCREWS)
    assert newest.folder == data_folder / "line-7" / "screws" / "10" and newest.released


async def test_a_version_taken_below_its_target_is_used_for_nobody_who_did_not_ask(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1)
    add_version(2, released=False)
    add_version(3, released=False)
    await pull(store, 1)
    await pull(store, 2, allow_below_target=True)
    assert newest_installed(SCREWS).name.number == "1"
    assert newest_installed(SCREWS, allow_below_target=True).name.number == "2"
    with pytest.raises(errors.GateFailed):
        await pull(store, 3)


async def test_without_a_released_version_it_says_what_there_is_and_what_to_do(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    with pytest.raises(NotInstalled, match=r"`loupe model pull screws --project line-7` .* `loupe follow line-7`"):
        newest_installed(SCREWS)
    add_version(1, released=False)
    await pull(store, 1, allow_below_target=True)
    with pytest.raises(NotInstalled, match=r"the only version .* is not released: `screws/versions/1`"):
        newest_installed(SCREWS)


async def test_what_has_no_record_or_is_half_a_model_is_not_taken_for_a_release(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    for number in (1, 2, 3):
        add_version(number)
    await pull(store, 1, 2, 3)
    place = data_folder / "line-7" / "screws"
    (place / "3" / "model.json").unlink()
    (place / ".2.json").write_text("{")
    (place / "notes").mkdir()
    assert [one.name.number for one in installed_versions(SCREWS)] == ["2", "1"]
    assert newest_installed(SCREWS).name.number == "1"
    await pull(store, 2)  # it stands there whole, and its record is written anew
    assert newest_installed(SCREWS).name.number == "2"


async def test_a_folder_that_somebody_names_gets_no_record(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path, tmp_path: Path
) -> None:
    add_version(1)
    async with Terminal.connect(store) as loupe:
        await loupe.models.pull(NAME.format(1), tmp_path / "to" / "m")
    assert sorted(one.name for one in (tmp_path / "to").iterdir()) == [".m.lock", "m"]
    assert not installed_versions(SCREWS)


async def test_an_id_alone_finds_the_one_project_that_has_it(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    with pytest.raises(NotInstalled, match="a model screws"):
        installed_model("screws")
    add_version(1)
    await pull(store, 1)
    assert installed_model("screws") == SCREWS
    (data_folder / "line-8" / "screws" / "1").mkdir(parents=True)
    (data_folder / "line-8" / "screws" / "1" / "model.json").write_text("{}")
    with pytest.raises(errors.InvalidArgument, match=r"line-7, line-8.*--project"):
        installed_model("screws")


async def test_an_unreleased_model_is_told_apart_from_one_that_does_not_exist(
    mesh: FakeMesh, store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    async with Terminal.connect(store) as loupe:
        with pytest.raises(errors.NotFound, match="does not exist"):
            await loupe.models.version(NAME.format("latest"))
        add_version(1, released=False)
        with pytest.raises(NotReleased, match=r"the only version is not released: `screws/versions/1`") as caught:
            await loupe.models.version(NAME.format("latest"))
        assert caught.value.newest == NAME.format(1)
        add_version(2, released=False)
        with pytest.raises(NotReleased, match=r"no version of screws is released; the newest is `screws/versions/2`"):
            await loupe.models.pull(NAME.format("latest"))
        pulled = await loupe.models.pull(NAME.format("latest"), allow_below_target=True)
        assert pulled.version.name == NAME.format(2)
        add_version(3)
        assert (await loupe.models.version(NAME.format("latest"))).name == NAME.format(3)
