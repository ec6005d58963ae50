"""Files that are whole or not there, and secrets that are made once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from deploy.local.files import ensure_secret, write_private


def test_a_secret_is_made_once_and_an_empty_one_again(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert ensure_secret(file, lambda: "first") == "first"
    assert ensure_secret(file, lambda: "second") == "first"
    file.write_text("\n", encoding="utf-8")  # what a full disk can leave behind
    assert ensure_secret(file, lambda: "third") == "third"


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "mesh.json"
    write_private(file, "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.json"]
    assert file.read_text(encoding="utf-8") == "old"
