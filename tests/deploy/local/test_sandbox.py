"""Whether the sandbox is there, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.sandbox import sandbox_problem


def test_a_missing_bubblewrap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "bubblewrap is missing" in (sandbox_problem() or "")


def test_one_that_may_not_make_namespaces_is_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", encoding="utf-8")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No permissions to create new namespace" in (sandbox_problem() or "")


def test_one_that_works_is_found_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text('#!/bin/sh\nfor last; do :; done\nexec "$last"\n', encoding="utf-8")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert sandbox_problem() is None
