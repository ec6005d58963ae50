"""What `make lint` runs, and what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy import lint


def test_every_check_runs_also_after_one_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(command: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        name = Path(command[0]).name
        ran.append(name)
        return subprocess.CompletedProcess(command, 1 if name in {"ruff", "lint-imports"} else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert lint.main() == 1
    assert [name for name in ran if name != "git"] == ["ruff", "ruff", "buf", "buf", "lint-imports", "mypy", "mypy"]
    said = capsys.readouterr().err.splitlines()
    assert said[-3:] == [f"lint: {name} failed" for name in ("ruff check", "ruff format", "import-linter")]


def test_without_failures_it_says_so_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    assert lint.main() == 0
