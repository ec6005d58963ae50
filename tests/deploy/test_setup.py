"""Set-up: does only what is missing, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import setup

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as a set-up checkout does."""
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bench").mkdir()
    for name, value in {
        "CHECKOUT": tmp_path,
        "VENV": venv,
        "PYTHON": venv / "bin" / "python",
        "UV": venv / "bin" / "uv",
        "STAMP": venv / "loupe-setup.json",
        "LOCK": tmp_path / "requirements.lock",
        "BENCH_LOCK": tmp_path / "bench" / "requirements.lock",
    }.items():
        monkeypatch.setattr(setup, name, value)
    monkeypatch.delenv("LOUPE_CONSUL", raising=False)
    for file in ("requirements.lock", "pyproject.toml", "bench/requirements.lock"):
        (tmp_path / file).write_text(f"uv==1.2.3 \\\n    --hash=sha256:00\n# {file}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What set-up did; nothing is done for real."""
    done: list[str] = []
    monkeypatch.setattr(setup, "_bootstrap_uv", lambda: done.append("uv"))
    monkeypatch.setattr(setup, "_install", lambda lock, _: done.append(f"install {lock.parent.name}/{lock.name}"))
    monkeypatch.setattr(setup, "_install_project", lambda: done.append("project"))
    monkeypatch.setattr(setup, "_compile_what_starts", lambda: done.append("bytecode"))
    monkeypatch.setattr(setup, "_ensure_bubblewrap", lambda: done.append("bubblewrap"))
    monkeypatch.setattr(setup, "_ensure_consul", lambda: done.append("consul") or sys.executable)
    return done


def test_only_what_is_missing_is_done(checkout: Path, steps: list[str]) -> None:
    first = f"install {checkout.name}/requirements.lock"
    assert setup.main([]) == 0
    assert steps == ["uv", first, "project", "bytecode", "bubblewrap", "consul"]
    steps.clear()
    assert setup.main([]) == 0
    assert steps == []
    assert setup.main(["bench"]) == 0
    assert steps == ["install bench/requirements.lock", "bubblewrap", "consul"]
    steps.clear()
    assert setup.main(["bench"]) == setup.main([]) == 0
    assert steps == []


def test_bytecode_that_an_earlier_set_up_left_out_is_made(checkout: Path, steps: list[str]) -> None:
    setup.main([])
    stamp = json.loads(setup.STAMP.read_text())
    setup.STAMP.write_text(json.dumps({name: value for name, value in stamp.items() if name != "bytecode"}))
    steps.clear()
    setup.main([])
    assert steps == ["bytecode", "bubblewrap", "consul"]


def test_bytecode_is_left_also_where_python_is_told_to_write_none(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(checkout / "elsewhere"))
    monkeypatch.setattr(setup, "STARTED", ("started",))
    (checkout / "started.py").touch()
    setup._compile_what_starts()
    assert list((checkout / "__pycache__").glob("started.*.pyc"))


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_a_changed_file_is_noticed(checkout: Path, steps: list[str], file: str) -> None:
    setup.main([])
    steps.clear()
    with (checkout / file).open("a", encoding="utf-8") as opened:
        opened.write("# more\n")
    setup.main([])
    assert steps[0] == "uv"


def test_a_set_up_that_failed_half_way_is_not_taken_for_done(
    checkout: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.main([])
    (checkout / "requirements.lock").write_text("uv==1.2.4\n", encoding="utf-8")

    def fail() -> None:
        raise setup.SetUpError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(setup, "_install_project", fail)
        assert setup.main([]) == 1
    assert "set-up failed: the disk is full" in capsys.readouterr().err
    steps.clear()
    setup.main([])
    assert steps[0] == "uv"


def test_a_consul_that_vanished_is_fetched_again(checkout: Path, steps: list[str]) -> None:
    setup.main([])
    stamp = json.loads(setup.STAMP.read_text())
    setup.STAMP.write_text(json.dumps({**stamp, "consul": str(checkout / "gone")}))
    steps.clear()
    setup.main([])
    assert steps == ["bubblewrap", "consul"]


def test_an_old_python_is_told_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup.sys, "version_info", (3, 10, 12))
    assert setup.main([]) == 1
    assert "3.11 or newer" in capsys.readouterr().err


def test_uv_is_pinned_by_the_lock(checkout: Path) -> None:
    assert setup._uv_requirement() == ("1.2.3", "uv==1.2.3 \\\n    --hash=sha256:00")
    (checkout / "requirements.lock").write_text("uvloop==1.0\n", encoding="utf-8")
    with pytest.raises(setup.SetUpError, match="holds no uv"):
        setup._uv_requirement()


def test_without_a_network_the_cache_is_tried(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append([str(part) for part in command])
        return subprocess.CompletedProcess(command, 0 if "--offline" in command else 2, "", "")

    monkeypatch.setattr(setup.subprocess, "run", run)
    setup._install(setup.LOCK, "packages")
    installs = [command for command in commands if "install" in command]
    assert ["--offline" in command for command in installs] == [False, True]
    assert all("--require-hashes" in command for command in installs)


@pytest.mark.parametrize("name", ["requirements.lock", "bench/requirements.lock"])
def test_the_locks_pin_by_hash_and_name_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in pin and pin.endswith("\\") for pin in pins)
    assert {"uv", "hatchling", "editables", "supervisor"} <= {pin.partition("==")[0] for pin in pins}
