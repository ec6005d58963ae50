"""`loupe storage usage` and `loupe project quota`: what is shown, what is refused, and a push into a full project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loupe import errors
from loupe.storage.v1.project_pb2 import ProjectQuota, ProjectUsage, StoredCount
from loupe.terminal.cli import app
from loupe.terminal.exits import advice, exit_code
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh

USAGE = ProjectUsage(
    project="projects/line-7",
    pictures=StoredCount(count=4_000, byte_count=3_000_000_000),
    blobs=StoredCount(count=7, byte_count=1_000_000_000),
    checkpoints=StoredCount(count=2, byte_count=300_000_000),
    model_files=StoredCount(count=4, byte_count=600_000_000),
    dataset_versions=5,
    model_versions=3,
    quota=ProjectQuota(max_pictures=5_000, max_bytes=20_000_000_000),
)


@pytest.fixture
def loupe(mesh: FakeMesh, store: ProfileStore) -> Callable[..., Any]:
    """The command line, logged in at the fake mesh."""
    environment = {"LOUPE_PROFILE": str(store.path), "COLUMNS": "200"}
    return lambda *words: CliRunner().invoke(app, list(words), env=environment)


def test_usage_is_shown_beside_the_quota(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    """A bar and per cent where there is a quota, nothing where there is none; JSON has the numbers."""
    mesh.usage.CopyFrom(USAGE)
    lines = {one[:20].strip(): one.split() for one in loupe("storage", "usage", "-p", "line-7").stdout.splitlines()}
    assert lines["pictures"][1:] == ["4000", "3.0", "GB", "5000", "########..", "80.00", "%"]
    assert lines["all bytes"][2:] == ["4.0", "GB", "20.0", "GB", "##........", "20.00", "%"]
    assert lines["of checkpoints"][2:] == ["2", "300.0", "MB"]
    assert lines["data set versions"][-1] == "5"
    value = json.loads(loupe("storage", "usage", "-p", "line-7", "--json").stdout)
    assert value["pictures"] == {"count": 4000, "byte_count": 3_000_000_000}
    assert value["quota"] == {"max_pictures": 5000, "max_bytes": 20_000_000_000}
    mesh.usage.quota.Clear()
    assert "%" not in loupe("storage", "usage", "-p", "line-7").stdout
    assert loupe("storage", "usage", "-p", "other").exit_code == 4


def test_a_quota_is_set_and_taken_away(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    """What is left out stays."""
    result = loupe("project", "quota", "line-7", "--pictures", "50000", "--bytes", "20GB")
    assert (result.exit_code, result.stdout) == (0, "projects/line-7 may hold 50000 pictures and 20.0 GB\n")
    assert mesh.usage.quota == ProjectQuota(max_pictures=50_000, max_bytes=20 * 10**9)
    assert loupe("project", "quota", "line-7", "--bytes", "1.5 tb").exit_code == 0
    assert mesh.usage.quota == ProjectQuota(max_pictures=50_000, max_bytes=1_500 * 10**9)
    result = loupe("project", "quota", "line-7", "--pictures", "none", "--json")
    assert json.loads(result.stdout) == {"max_pictures": 0, "max_bytes": 1_500 * 10**9}


@pytest.mark.parametrize(
    "value", ["-1", "0", "nan", "inf", "1.5", "9223372036854775808", "1e3", "", "many", "5GB", "９"]
)
def test_what_is_no_number_of_pictures_is_refused(loupe: Callable[..., Any], mesh: FakeMesh, value: str) -> None:
    """Before anything is asked of the mesh."""
    result = loupe("project", "quota", "line-7", "--pictures", value, "--json")
    assert result.exit_code == 6
    assert json.loads(result.stderr)["error"]["metadata"]["field"] == "pictures"
    assert mesh.usage.quota == ProjectQuota()


@pytest.mark.parametrize("value", ["-1GB", "nan", "20XB", "0", "0.5", "9300000TB", "GB", "20 GB GB"])
def test_what_is_no_size_is_refused(loupe: Callable[..., Any], mesh: FakeMesh, value: str) -> None:
    result = loupe("project", "quota", "line-7", "--bytes", value)
    assert result.exit_code == 6 and "such as 500MB or 20GB" in result.stderr
    assert mesh.usage.quota == ProjectQuota()


def test_a_quota_of_nothing_is_refused(loupe: Callable[..., Any]) -> None:
    result = loupe("project", "quota", "line-7")
    assert result.exit_code == 6 and "--pictures N, --bytes SIZE or both" in result.stderr


def test_who_is_no_administrator_is_told_so(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.denied = errors.PermissionDenied("no", project="projects/system", action="quotas.write", threshold=90)
    result = loupe("project", "quota", "line-7", "--pictures", "9")
    assert result.exit_code == 5 and "loupe why quotas.write --project system" in result.stderr


def test_a_push_into_a_full_project_says_what_to_do_and_goes_on_later(
    loupe: Callable[..., Any], mesh: FakeMesh, folder: Path
) -> None:
    """What is full, how full, who raises it; then only the rest is sent."""
    mesh.full_at = 3
    result = loupe("dataset", "push", "screws", str(folder), "-p", "line-7")
    assert result.exit_code == 7
    words = " ".join(result.stderr.split())
    assert "it may hold 3 pictures and holds 3" in words
    assert "`loupe project quota line-7 --pictures N`" in words and "`loupe storage usage --project line-7`" in words
    sent = list(mesh.received)
    mesh.full_at = None
    assert loupe("dataset", "push", "screws", str(folder), "-p", "line-7").exit_code == 0
    assert len(sent) == 3 and len(mesh.received) == len(set(mesh.received)) > 3


def test_a_full_queue_has_its_own_advice() -> None:
    full = errors.QuotaExceeded("full", project="projects/line-7", quota="queued_jobs", used=5, limit=5)
    assert exit_code(full) == 7
    assert "loupe job list --state queued --project line-7" in advice(full)
