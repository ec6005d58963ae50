"""What others wrote reaches a terminal escaped and bounded: through every command, in words and in JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.testing import CliRunner

from loupe.terminal.cli import app
from loupe.terminal.escapes import blanked, decoded, escaped, escaped_json, escaped_lines
from loupe.terminal.profile import ProfileStore
from loupe.terminal.screen import Screen
from tests.terminal.fake_mesh import PASSWORD, FakeMesh, write_profile
from tests.terminal.hostile_mesh import TEXT
from tests.terminal.test_cli import every_command

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OUR_OWN = re.compile(r"\x1b\[([0-9;]*m|\?25[lh]|2K|1A)|\r")
"""Colours, and what a progress bar needs."""


@pytest.fixture
def hostile() -> Any:
    with FakeMesh(hostile=True).serve() as running:
        yield running


@pytest.fixture
def loupe(hostile: FakeMesh, tmp_path: Path) -> Callable[..., Any]:
    store: ProfileStore = write_profile(hostile, tmp_path / "profile.json")
    (tmp_path / "password").write_text(PASSWORD)
    environment = {
        "LOUPE_PROFILE": str(store.path),
        "LOUPE_PASSWORD_FILE": str(tmp_path / "password"),
        "LOUPE_NEW_PASSWORD_FILE": str(tmp_path / "password"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }

    def run(*words: str, **more: str) -> Any:
        return CliRunner().invoke(app, list(words), env=environment | more)

    return run


def arguments(path: list[str], folder: Path, tmp_path: Path) -> list[str] | None:
    """Return arguments that let a command reach the mesh; None for one that does not end by itself."""
    image = tmp_path / "image"
    image.mkdir(exist_ok=True)
    (image / "algorithm.toml").write_text(
        'format = 1\nid = "mine"\nversion = "1"\ntask = "classification"\nsummary = "x"\nentry = "a:b"\n'
    )
    by_verb: dict[str, list[str] | None] = {
        "login": ["anna"],
        "account create": ["bob", "--group", "viewers"],
        "account password": ["bob"],
        "algorithm push": [str(image)],
        "classify": ["screws", str(folder)],
        "dataset push": ["screws", str(folder)],
        "dataset export": ["screws", str(tmp_path / "out")],
        "blob push": [str(image / "algorithm.toml")],
        "group create": ["night", "--parameter", "20"],
        "group set": ["night", "--parameter", "20"],
        "group add": ["night", "bob"],
        "group remove": ["night", "bob"],
        "job label": ["j1", "line=7"],
        "job note": ["j1", "text"],
        "job show": ["j1", "--matrix"],
        "threshold set": ["jobs.read", "20"],
        "train": ["screws", "-t", "0.9", "--watch"],
        "why": ["jobs.read"],
        "follow": ["--once"],
    }
    words = " ".join(path)
    if words in by_verb:
        return by_verb[words]
    needs_none = {"logout", "whoami", "doctor"}
    return [] if words in needs_none or path[-1] == "list" else ["j1"]


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_no_command_lets_a_mesh_steer_the_terminal(
    path: list[str], loupe: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    words = arguments(path, folder, tmp_path)
    if words is None:
        pytest.skip("it ends by Ctrl-C only")
    for more, environment in (
        ([], {"COLUMNS": "80"}),
        ([], {"COLUMNS": "200", "FORCE_COLOR": "1", "TERM": "xterm-256color"}),
        (["--json"], {}),
    ):
        result = loupe(*path, *words, "--project", "line-7", *more, **environment)
        said = OUR_OWN.sub("", result.stdout + result.stderr)
        assert not STEERING.search(said), (path, STEERING.search(said), said[:2000])
        assert "a fault of loupe" not in said, said
        if not more:
            # A line of somebody else's must not look like one of ours.
            assert not re.search(r"^error: your", said, re.MULTILINE), said[:2000]
            assert len(said) < 200_000


def test_the_proof_of_an_escape_in_a_report_is_shown_not_sent() -> None:
    from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobResult, StateChange
    from loupe.terminal.live import JobView, job_display
    from loupe.terminal.verdict import render_result

    out = io.StringIO()
    screen = Screen(file=out, force_terminal=True, width=200)
    report = json.dumps({"labels": [TEXT], "test": {"confusion_matrix": [[1]], "worst_classes": [TEXT]}})
    screen.print(render_result(JobResult(outcome=TEXT, verdict=TEXT, report_json=report)))
    with job_display(screen, JobView()) as show:
        show(JobEvent(sequence=1, log=TEXT))
        show(JobEvent(sequence=2, state_change=StateChange(state="JOB_STATE_RUNNING", message=TEXT)))
    assert "\x1b]0;" not in out.getvalue() and "\x1b[2J" not in out.getvalue() and "\x9b" not in out.getvalue()
    assert r"\x1b]0;owned\x07\x1b[2J" in out.getvalue()


def test_what_a_printer_forgot_is_harmless_on_the_screen() -> None:
    out = io.StringIO()
    screen = Screen(file=out, width=80, color_system=None)
    screen.print("a\x1b[2Jb", Text("c\x9bd\u202e"), style="red")
    assert not STEERING.search(out.getvalue()) and "a\ufffd[2Jb" in out.getvalue()


def test_texts_are_bounded_and_stay_readable() -> None:
    assert escaped("ü 零件 \U0001f469\u200d\U0001f527") == "ü 零件 \U0001f469\u200d\U0001f527"
    assert len(escaped("\x1b" * 10_000)) == 500 and escaped("x" * 501).endswith("…")
    assert escaped_lines("a\nb\tc") == "a\nb\\tc"
    assert escaped_lines("x\n" * 1000).count("\n") == 40
    assert escaped(3) == "3"
    assert blanked("a\x1bb\n") == "a\ufffdb\n"
    assert decoded("\ud800") == "\\ud800"


def test_json_stays_the_same_json() -> None:
    value = {"a\x9b": ["\u202e\x7f", "\udcff", "零件\U000e0041"]}
    text = escaped_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert not STEERING.search(text)
