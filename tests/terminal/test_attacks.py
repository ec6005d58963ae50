"""The command line as a process, under what factories do to it: no traceback, and the exit code that is documented."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.terminal.cli import app
from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import FakeMesh, certificate

pytestmark = pytest.mark.attack

PROGRAM = [sys.executable, "-c", "from loupe.terminal.cli import main; main()"]
ASCII = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def environment(store: ProfileStore, tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LOUPE_", "XDG_"))}
    return kept | {
        "LOUPE_PROFILE": str(store.path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COLUMNS": "80",
    }


@pytest.fixture
def loupe(environment: dict[str, str]) -> Run:
    def run(
        *words: str | bytes | Path, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
        done: Any = subprocess.run(
            [*PROGRAM, *words], env=environment | (env or {}), timeout=60, check=False, **options
        )
        assert b"Traceback" not in (done.stdout or b"") + (done.stderr or b""), done.stderr
        assert b"a fault of loupe" not in (done.stderr or b""), done.stderr
        return done

    return run


@pytest.fixture
def here(environment: dict[str, str]) -> Callable[..., Result]:
    """The same in this process: quicker, where only words and exit code are of interest."""

    def run(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words), env=environment)
        assert "a fault of loupe" not in result.stderr and isinstance(result.exception, (SystemExit, type(None)))
        return result

    return run


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode().split())


@pytest.mark.parametrize(
    "words",
    [
        ("train", "screws", "-t", "0.9", "--seed", "9" * 30),
        ("train", "screws", "-t", "0.9", "--seed", str(-(1 << 63) - 1)),
        ("train", "screws", "-t", "0.9", "--max-epochs", str(1 << 31)),
        ("train", "screws", "-t", "0.9", "--max-minutes", "1e300"),
        ("train", "screws", "-t", "0.9", "--max-minutes", "inf"),
        ("train", "screws", "-t", "0.9", "--max-minutes", "nan"),
        ("dataset", "push", "screws", ".", "--seed", "9" * 30),
        ("job", "watch", "j1", "--after", "9" * 30),
        ("job", "list", "--state", "sleeping"),
        ("nonsense",),
    ],
)
def test_a_wrong_command_line_is_told_as_json_too(here: Callable[..., Result], words: tuple[str, ...]) -> None:
    done = here(*words, "--json")
    assert done.exit_code == 2 and done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "USAGE" and error["message"] and "--help" in error["advice"]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "screws", "-t", "nan"),
        ("train", "screws", "-t", "zero"),
        ("train", "screws", "-t", "0.9", "--param", f"n={'9' * 400}"),
        ("dataset", "push", "screws", ".", "--split", "nan,0.5,0.5"),
    ],
)
def test_numbers_that_are_none_are_bad_input(here: Callable[..., Result], words: tuple[str, ...]) -> None:
    result = here(*words)
    assert result.exit_code == 6, result.stderr


def test_numbers_that_just_fit_are_sent(loupe: Run, mesh: FakeMesh) -> None:
    words = ("--seed", str(-(1 << 63)), "--max-epochs", str((1 << 31) - 1), "--param", "lr=1e999", "--param", "x=NaN")
    assert loupe("train", "screws", "-t", "0.9", *words).returncode == 0
    sent = mesh.jobs["projects/line-7/jobs/j1"]
    assert (sent.seed, sent.max_epochs) == (-(1 << 63), (1 << 31) - 1)
    assert dict(sent.parameters) == {"lr": "1e999", "x": "NaN"}


@pytest.mark.parametrize("words", [("--help",), ("job", "list"), ("job", "list", "--json")])
def test_a_full_disk_behind_stdout_ends_with_7(loupe: Run, mesh: FakeMesh, words: tuple[str, ...]) -> None:
    mesh.jobs["projects/line-7/jobs/j1"] = jobs.TrainingJob(name="projects/line-7/jobs/j1")
    with Path("/dev/full").open("wb") as full:
        done = loupe(*words, stdout=full)
    assert done.returncode == 7
    assert "standard output: no space left on device" in told(done) and "free some space" in told(done)


def test_a_full_disk_behind_stderr_is_no_further_error(loupe: Run) -> None:
    with Path("/dev/full").open("wb") as full:
        assert loupe("job", "show", "j9", stderr=full).returncode == 4


def test_a_full_disk_behind_a_file_ends_with_7(loupe: Run, mesh: FakeMesh) -> None:
    report = {"labels": ["a", "b"], "test": {"confusion_matrix": [[1, 2], [3, 4]]}}
    name = "projects/line-7/jobs/j1"
    mesh.jobs[name] = jobs.TrainingJob(name=name, result=jobs.JobResult(report_json=json.dumps(report)))
    for option in ("--csv", "--png"):
        done = loupe("job", "show", "j1", option, "/dev/full")
        assert done.returncode == 7 and "no space left" in told(done), done.stderr


def test_a_reader_that_goes_away_is_no_error_to_tell(loupe: Run, mesh: FakeMesh) -> None:
    for index in range(200):
        mesh.jobs[f"projects/line-7/jobs/j{index}"] = jobs.TrainingJob(name=f"projects/line-7/jobs/j{index}")
    reader, writer = os.pipe()
    os.close(reader)
    done = loupe("job", "list", stdout=writer)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == b""


@pytest.fixture(params=["folder", "binary", "device", "pipe", "list", "deep", "numbers", "in a file", "huge"])
def broken_profile(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "broken"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path = Path("/dev/zero")
    elif request.param == "pipe":
        os.mkfifo(path, 0o600)
    elif request.param == "in a file":
        path.touch()
        path /= "profile.json"
    else:
        content = {
            "binary": os.urandom(2000),
            "list": b"[1]",
            "deep": b"[" * 200_000,
            "numbers": b'{"server": 1, "ca": 2}',
            "huge": b" " * (2 << 20),
        }
        path.touch(mode=0o600)
        path.write_bytes(content[request.param])
    yield path


def test_a_profile_that_is_none_is_told(here: Callable[..., Result], broken_profile: Path) -> None:
    done = here("whoami", "--profile", str(broken_profile))
    assert done.exit_code == 8, done.stderr
    assert str(broken_profile) in done.stderr
    assert "--profile" in done.stderr or "chmod" in done.stderr


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """Two classes, one in Chinese; a file name in Latin-1, one with a newline, one that steers terminals."""
    root = tmp_path / "pictures"
    for index, name in enumerate([b"1.png", b"pr\xfcf.png", b"a\nb.png", b"\x1b[2Jx.png", "ü.png".encode()]):
        for label in ("零件", "ok"):
            place = os.fsencode(root) + b"/" + label.encode()
            os.makedirs(place, exist_ok=True)  # noqa: PTH103 - bytes
            Path(os.fsdecode(place + b"/" + name)).write_bytes(picture_bytes(2 * index + (label == "ok")))
    return root


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["utf-8", "ascii"])
def test_names_in_any_encoding_are_pushed_in_any_locale(
    loupe: Run, mesh: FakeMesh, latin: Path, locale: dict[str, str]
) -> None:
    done = loupe("dataset", "push", "screws", latin, env=locale)
    assert done.returncode == 0, done.stderr
    (items,) = mesh.datasets["projects/line-7/datasets/screws"]
    assert {item.label for item in items} == {"零件", "ok"}
    names = {item.filename for item in items}
    assert {"ok/pr\\xfcf.png", "ok/a\\nb.png", "ok/\\x1b[2Jx.png", "零件/ü.png"} <= names
    assert ("零件" in done.stdout.decode()) == (not locale)
    assert b"\\u96f6\\u4ef6" in done.stdout or not locale


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["utf-8", "ascii"])
def test_a_class_that_is_no_text_is_told(loupe: Run, latin: Path, locale: dict[str, str]) -> None:
    os.rename(latin / "ok", os.fsencode(latin) + b"/schlie\xdfen\xff\x9b")  # noqa: PTH104 - bytes
    done = loupe("dataset", "push", "screws", latin, env=locale)
    # Its bytes are shown, and it is a class whose name is those.
    assert done.returncode in (0, 6)
    assert b"\xdf" not in done.stdout + done.stderr and b"\x9b" not in done.stdout.replace("零".encode(), b"")


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["utf-8", "ascii"])
def test_text_of_the_command_line_is_utf8_in_any_locale(loupe: Run, mesh: FakeMesh, locale: dict[str, str]) -> None:
    assert loupe("train", "screws", "-t", "0.9", "--param", "name=零件", env=locale).returncode == 0
    assert mesh.jobs["projects/line-7/jobs/j1"].parameters["name"] == "零件"
    refused = loupe("train", "screws", "-t", "0.9", "--param", b"name=\xff", env=locale)
    assert refused.returncode == 6 and "text in UTF-8" in told(refused)


def test_every_help_prints_in_an_ascii_locale(loupe: Run) -> None:
    for words in (("--help",), ("train", "--help"), ("job", "watch", "--help")):
        done = loupe(*words, env=ASCII)
        assert done.returncode == 0 and done.stdout.isascii()


def test_a_folder_full_of_traps_is_pushed_without_them(loupe: Run, mesh: FakeMesh, folder: Path) -> None:
    (folder / "up").symlink_to("..")
    (folder / "scratch" / "round").symlink_to(".")
    (folder / "scratch" / "dead.png").symlink_to("/proc/self/mem")  # can be opened, and never read
    (folder / "scratch" / "secret.png").symlink_to("/etc/passwd")
    (folder / "scratch" / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "scratch" / "pipe.png")
    done = loupe("dataset", "push", "screws", folder, "--json")
    assert done.returncode == 6, done.stderr
    value = json.loads(done.stdout)
    (problem,) = [one for one in value["problems"] if one["filename"] == "scratch/dead.png"]
    assert problem["kind"] == "unreadable" and problem["remedy"]
    reasons = {one["filename"]: one["reason"] for one in value["skipped"] + value["problems"] if "reason" in one}
    assert reasons["up"] == reasons["scratch/round"] == "a link to another folder"
    assert reasons["scratch/secret.png"].startswith("not a picture")
    assert reasons["scratch/pipe.png"].startswith("not a file")
    assert value["version"]["picture_count"] == 12 and len(mesh.blobs) == 12


def test_strict_lists_every_problem_and_sends_nothing(loupe: Run, mesh: FakeMesh, folder: Path) -> None:
    for index in range(30):
        (folder / "scratch" / f"bad{index}.png").write_bytes(picture_bytes(100 + index)[:-40])
    (folder / "scratch" / "dead.png").symlink_to("/proc/self/mem")
    (folder / "scratch" / "both.png").write_bytes((folder / "零件 ok" / "01.png").read_bytes())
    done = loupe("dataset", "push", "screws", folder, "--strict")
    assert done.returncode == 6
    text = done.stdout.decode()
    assert all(f"scratch/bad{index}.png" in text for index in range(30))
    assert "scratch/dead.png" in text and "scratch/both.png" in text and "labelled 'scratch'" in text
    assert "without --strict" in told(done)
    assert not mesh.blobs and not mesh.datasets
    value = json.loads(loupe("dataset", "push", "screws", folder, "--strict", "--json").stdout)
    assert len(value["problems"]) == 33


def test_ctrl_c_while_watching_says_that_the_job_goes_on(environment: dict[str, str], mesh: FakeMesh) -> None:
    name = "projects/line-7/jobs/j1"
    mesh.events = [jobs.JobEvent(job=name, sequence=1, state_change=jobs.StateChange(state=jobs.JOB_STATE_RUNNING))]
    words = [*PROGRAM, "train", "screws", "-t", "0.9", "--watch"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert b"running" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    text = " ".join(stderr.decode().split())
    assert process.returncode == 130, text
    assert f"{name} goes on" in text and f"loupe job watch {name}" in text and f"loupe job cancel {name}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("other authority", "not signed by the CA"),
        ("closed", "the connection was refused"),
        ("plain", "speaks no TLS"),
        ("services only", "for services only"),
        ("no Loupe", "is not Loupe's auth"),
    ],
)
def test_a_login_at_a_wrong_door_is_told_what_stands_there(
    loupe: Run, mesh: FakeMesh, tmp_path: Path, door: str, words: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate()[0] if door == "other authority" else mesh.ca)
    (tmp_path / "password").write_text("x")
    with mesh.other_door(door) as address:
        began = time.monotonic()
        done = loupe(
            "login", "--server", address, "--ca", tmp_path / "ca.pem", "anna",
            "--password-file", tmp_path / "password", env={"LOUPE_PROFILE": str(tmp_path / "new.json")},
        )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert words in told(done), done.stderr
    assert time.monotonic() - began < 15
    assert len(done.stderr.splitlines()) == 1  # and nothing of gRPC's own log
