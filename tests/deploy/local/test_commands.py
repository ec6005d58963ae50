"""The commands behind make up, down and status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.mesh import LocalMesh

ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_status_of_a_mesh_that_is_down(tmp_path: Path) -> None:
    done = command("status", "--json", "--state", str(tmp_path / "none"))
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert document["supervised"] is False
    assert {process["state"] for process in document["processes"]} == {"stopped"}
    assert not (tmp_path / "none").exists()


def test_status_tells_what_runs_and_what_does_not(infrastructure: LocalMesh) -> None:
    infrastructure.wait_healthy()
    done = command("status", "--json", "--state", str(infrastructure.state.root))
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    states = {process["name"]: (process["state"], process["pid"]) for process in document["processes"]}
    assert states["consul"] == ("healthy", infrastructure.pid("consul"))
    assert states["auth"] == ("stopped", None)
    assert document["supervised"] is True
    table = command("status", "--state", str(infrastructure.state.root)).stdout
    assert "Sandbox:" in table
    assert "trainer-north-a" in table


def test_logs_are_shown(infrastructure: LocalMesh) -> None:
    done = command("logs", "nats", "--state", str(infrastructure.state.root))
    assert done.returncode == 0
    assert "Server is ready" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logs", "natz"], "No process is called natz"),
        (["up", "--trainers", "north"], "write cluster/trainer"),
        (["up", "--trainers", "a-b/c,a/b-c"], "trainer-a-b-c"),
        (["up", "--state", "/proc/nowhere"], "/proc/nowhere cannot be used"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    state = [] if "--state" in arguments else ["--state", str(tmp_path / "state")]
    done = command(*arguments, *state)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
