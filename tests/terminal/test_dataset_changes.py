"""`loupe dataset add | remove | relabel | diff | log`: what is sent, which pictures are meant, what is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loupe.errors import BadDataset
from loupe.storage.v1.dataset_pb2 import DatasetItem
from loupe.terminal.named_pictures import match_pictures
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh

SCREWS = "projects/line-7/datasets/screws"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pushed(command_line: Callable[..., Any], folder: Path) -> Path:
    """A folder that is the data set's first version."""
    assert command_line("dataset", "push", "screws", str(folder)).exit_code == 0
    return folder


def test_add_sends_only_what_is_missing(
    command_line: Callable[..., Any], mesh: FakeMesh, pushed: Path, tmp_path: Path
) -> None:
    """One class is enough; the base is the newest version, and only the new file is sent."""
    more = tmp_path / "more" / "scratch"
    more.mkdir(parents=True)
    (more / "new.png").write_bytes(picture_bytes(99))
    (more / "old.png").write_bytes((pushed / "scratch" / "02.png").read_bytes())
    before = len(mesh.received)
    result = command_line("dataset", "add", "screws", str(tmp_path / "more"), "--json", "--force")
    assert result.exit_code == 0, result.output
    assert mesh.received[before:] == [digest_of(more / "new.png")]
    assert json.loads(result.stdout)["sent"]["pictures"] == 1
    header = mesh.headers[-1]
    assert (header.base, header.force, header.resplit) == (f"{SCREWS}/versions/latest", True, False)
    assert command_line("dataset", "add", "nuts", str(tmp_path / "more")).exit_code == 4


def test_push_passes_force_and_resplit_on(command_line: Callable[..., Any], mesh: FakeMesh, pushed: Path) -> None:
    """A seed alone leaves the fractions to the data set."""
    words = ("dataset", "push", "screws", str(pushed), "--resplit", "--force", "--seed", "4")
    assert command_line(*words).exit_code == 0
    header = mesh.headers[-1]
    assert (header.base, header.force, header.resplit, header.split.seed) == ("", True, True, 4)
    assert header.split.train_fraction == 0


def test_remove_and_relabel_take_names_digests_and_files(
    command_line: Callable[..., Any], mesh: FakeMesh, pushed: Path
) -> None:
    """A name in the version, a beginning of a digest, a file here; each picture once."""
    files = [pushed / "scratch" / f"{number:02}.png" for number in (2, 4, 6)]
    digests = [digest_of(file) for file in files]
    named = ("scratch/02.png", digests[1][:8], str(files[2]), digests[0])
    assert command_line("dataset", "remove", "screws", *named, "--force").exit_code == 0
    assert list(mesh.changes[-1].removed_digests) == digests
    assert (mesh.headers[-1].base, mesh.headers[-1].force) == (f"{SCREWS}/versions/latest", True)


def test_relabel_sends_the_label(command_line: Callable[..., Any], mesh: FakeMesh, pushed: Path) -> None:
    """Only the pairs are sent."""
    assert command_line("dataset", "relabel", "screws", "rust", "scratch/02.png").exit_code == 0
    (one,) = mesh.changes[-1].relabelled
    assert (one.digest, one.label) == (digest_of(pushed / "scratch" / "02.png"), "rust")
    missing = command_line("dataset", "relabel", "screws", "rust", "scratch/77.png", "abc")
    assert missing.exit_code == 6
    assert "2 pictures cannot be told" in missing.stderr and "scratch/77.png is neither" in missing.stderr


def test_ambiguous_names_are_named() -> None:
    """Two pictures of one name, or of one beginning of a digest, are told with their digests."""
    items = [DatasetItem(digest=f"{number}".rjust(64, "a"), filename="same.png") for number in (1, 2)]
    for name in ("same.png", "a" * 8):
        with pytest.raises(BadDataset, match=f"{name} is 2 pictures: {items[0].digest}, {items[1].digest}"):
            match_pictures(items, "v", [name], {})
    assert match_pictures(items, "v", [items[1].digest], {}) == [items[1].digest]


def test_diff_and_log_are_shown(command_line: Callable[..., Any], pushed: Path) -> None:
    """People see counts and the first of each kind, programs all of them."""
    words = ("dataset", "diff", "screws/versions/1", "screws")
    told = command_line(*words)
    assert told.exit_code == 0, told.output
    assert "30 added, 0 removed, 0 relabelled, 1 moved" in " ".join(told.stdout.split())
    assert "added: 30 (the first 20; all with --json)" in told.stdout
    value = json.loads(command_line(*words, "--json").stdout)
    assert value["summary"]["added_count"] == len(value["differences"]) == 30
    log = command_line("dataset", "log", "screws")
    assert log.exit_code == 0 and "+3 −0 ~0" in log.stdout and "anna" in log.stdout
    assert json.loads(command_line("dataset", "log", "screws", "--json").stdout)["versions"][0]["added_count"] == 3
