"""`delete`, `undelete` and `list --deleted` of data sets and models, and a push whose pictures were collected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loupe import errors
from loupe.names import DatasetName
from loupe.terminal.cli import app
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh

LINE = "projects/line-7"


@pytest.fixture
def loupe(mesh: FakeMesh, store: ProfileStore) -> Callable[..., Any]:
    """The command line, logged in at the fake mesh."""
    environment = {"LOUPE_PROFILE": str(store.path), "COLUMNS": "200", "TZ": "UTC"}
    return lambda *words: CliRunner().invoke(app, [*words, "-p", "line-7"], env=environment)


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_version_is_deleted_and_restored(loupe: Callable[..., Any], mesh: FakeMesh, kind: str) -> None:
    """It is said until when, and which version is the newest now; JSON has the resources."""
    name = f"{LINE}/{kind}s/screws/versions/2"
    result = loupe(kind, "delete", "screws/versions/2")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"deleted {name}, the newest ")
    assert "it can be restored until 2027-02-14" in result.stdout
    assert list(mesh.deleted) == [name]
    again = loupe(kind, "delete", "screws/versions/2", "--json")
    assert again.exit_code == 4
    assert json.loads(again.stderr)["error"]["reason"] == "NOT_FOUND"
    result = loupe(kind, "undelete", "screws/versions/2", "--json")
    assert json.loads(result.stdout)[f"{kind}_version"]["name"] == name
    assert mesh.deleted == {}
    assert loupe(kind, "undelete", "screws/versions/2").exit_code == 8


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_all_of_it_is_deleted_and_restored(loupe: Callable[..., Any], mesh: FakeMesh, kind: str) -> None:
    """A name without a version means the whole."""
    result = loupe(kind, "delete", "screws")
    assert result.stdout.startswith(f"deleted {LINE}/{kind}s/screws, with ")
    assert list(mesh.deleted) == [f"{LINE}/{kind}s/screws"]
    value = json.loads(loupe(kind, "undelete", "screws", "--json").stdout)
    assert value[kind]["name"] == f"{LINE}/{kind}s/screws"


def test_deleted_things_are_listed(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    """Only with --deleted."""
    mesh.deleted = {f"{LINE}/datasets/screws": None}
    assert "screws" not in loupe("dataset", "list").stdout
    shown = loupe("dataset", "list", "--deleted").stdout
    assert "screws" in shown and "2027-02-14" in shown
    (one,) = json.loads(loupe("dataset", "list", "--deleted", "--json").stdout)["deleted"]
    assert one["name"] == f"{LINE}/datasets/screws"


def test_who_may_not_delete_is_told(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    """With the exit code of a denied call."""
    mesh.denied = errors.PermissionDenied("accounts/anna may not do datasets.delete", action="datasets.delete")
    assert loupe("dataset", "delete", "screws").exit_code == 5
    assert mesh.deleted == {}


async def test_a_push_sends_again_what_was_collected_meanwhile(
    mesh: FakeMesh, store: ProfileStore, folder: Path
) -> None:
    """Storage had the pictures when it was asked, and lacks them when the version is made."""
    async with Terminal.connect(store) as loupe:
        await loupe.datasets.push(DatasetName("line-7", "screws"), folder)
        mesh.forgets = True
        report = await loupe.datasets.push(DatasetName("line-7", "screws"), folder)
    assert report.version.picture_count == report.uploaded.pictures > 0


async def test_a_push_into_a_deleted_data_set_says_so(mesh: FakeMesh, store: ProfileStore, folder: Path) -> None:
    """It is there, and to be restored; not absent or hidden."""
    async with Terminal.connect(store) as loupe:
        await loupe.datasets.push(DatasetName("line-7", "screws"), folder)
        await loupe.datasets.delete(f"{LINE}/datasets/screws")
        with pytest.raises(errors.AlreadyExists):
            await loupe.datasets.push(DatasetName("line-7", "screws"), folder)
