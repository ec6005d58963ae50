"""`delete`, `undelete` and `list --deleted`, and a push whose pictures were collected."""

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


@pytest.mark.parametrize(
    ("kind", "said", "name"),
    [("project", "line-9", "projects/line-9"), ("algorithm", "mine/versions/1", "algorithms/mine/versions/1")],
)
def test_projects_and_algorithms_are_deleted_and_restored(
    loupe: Callable[..., Any], mesh: FakeMesh, kind: str, said: str, name: str
) -> None:
    """It is said until when; the list of deleted ones has it, and JSON the resource."""
    result = loupe(kind, "delete", said)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"deleted {name}, ")
    assert "it can be restored until 2027-02-14" in " ".join(result.stdout.split())
    assert list(mesh.deleted) == [name]
    assert loupe(kind, "delete", said).exit_code == 4
    shown = json.loads(loupe(kind, "list", "--deleted", "--json").stdout)["deleted"]
    assert [one["name"] for one in shown] == [name]
    assert said.partition("/")[0] not in loupe(kind, "list").stdout
    assert json.loads(loupe(kind, "undelete", said, "--json").stdout)["name"] == name
    assert mesh.deleted == {}
    assert loupe(kind, "undelete", said).exit_code == 8


def test_which_version_of_an_algorithm_is_to_be_said(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    """Nobody deletes the newest one who did not name it."""
    result = loupe("algorithm", "delete", "mine")
    assert (result.exit_code, mesh.deleted) == (6, {})
    assert "mine/versions/1.2" in result.stderr


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
