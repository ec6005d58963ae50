"""The command line: output for people and programs, errors with advice, exit codes, and what it may import."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from loupe import errors
from loupe.common.v1.objective_pb2 import Objective
from loupe.scheduler.v1 import cluster_pb2
from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.storage.v1 import model_pb2
from loupe.storage.v1.dataset_pb2 import SPLIT_UNIT_CLASS, DatasetVersion, SplitPolicy
from loupe.terminal.cli import app
from loupe.terminal.codes import MEANINGS
from loupe.terminal.commands.data import show_version
from loupe.terminal.exits import advice, exit_code
from loupe.terminal.profile import ProfileStore
from tests.terminal.conftest import picture_bytes
from tests.terminal.fake_mesh import PASSWORD, FakeMesh
from tests.terminal.test_pull import NAME as MODEL
from tests.terminal.test_pull import publish

JOB = "projects/line-7/jobs/j1"


@pytest.fixture
def loupe(mesh: FakeMesh, store: ProfileStore, tmp_path: Path) -> Callable[..., Any]:
    """The command line, logged in at the fake mesh."""
    environment = {"LOUPE_PROFILE": str(store.path), "XDG_DATA_HOME": str(tmp_path / "data"), "COLUMNS": "200"}

    def run(*words: str, env: dict[str, str] | None = None) -> Any:
        return CliRunner().invoke(app, list(words), env=environment | (env or {}))

    return run


def job_events(state: jobs.JobState) -> list[jobs.JobEvent]:
    placement = cluster_pb2.Placement(
        trainer="clusters/hall/trainers/t1",
        summary="hall has the lowest load",
        load_threshold=0.8,
        considered=[
            cluster_pb2.ConsideredCluster(
                cluster="clusters/hall", load=0.1, free_slots=2, candidate=True, chosen=True, explanation="lowest load"
            ),
            cluster_pb2.ConsideredCluster(cluster="clusters/attic", load=0.95, explanation="load is not below 0.80"),
        ],
    )
    progress = jobs.JobProgress(
        phase="head", epoch=3, metrics={"validation_accuracy": 0.981, "pictures_per_second": 300}
    )
    return [
        jobs.JobEvent(job=JOB, sequence=1, state_change=jobs.StateChange(state=jobs.JOB_STATE_QUEUED)),
        jobs.JobEvent(job=JOB, sequence=2, placement=placement),
        jobs.JobEvent(job=JOB, sequence=3, progress=progress),
        jobs.JobEvent(job=JOB, sequence=4, log="[bold]not markup[/bold]"),
        jobs.JobEvent(job=JOB, sequence=5, state_change=jobs.StateChange(state=state, message="it is over")),
    ]


def finished(state: jobs.JobState) -> jobs.TrainingJob:
    report = {
        "labels": ["ok", "零件"],
        "test": {
            "worst_classes": ["零件"],
            "per_class": [{"label": "零件", "recall": 0.5, "precision": 0.75, "f1": 0.6, "pictures": 4}],
            "confusion_matrix": [[9, 1], [2, 2]],
        },
        "label_errors": [{"digest": "ab" * 32, "label": "ok", "suggested": "零件", "score": 0.03}],
    }
    metrics = model_pb2.ModelMetrics(
        validation_accuracy=0.98, test_accuracy=0.79, test_accuracy_low=0.52, test_accuracy_high=0.92,
        test_pictures=14, objective=Objective(at_least=0.97), validation_score=0.98,
    )  # fmt: skip
    result = jobs.JobResult(
        outcome="plateau", model_version=MODEL, metrics=metrics, verdict="Too few 零件.", report_json=json.dumps(report)
    )
    return jobs.TrainingJob(name=JOB, state=state, objective=Objective(at_least=0.97), result=result)


def test_login_stores_tokens_and_says_who(loupe: Callable[..., Any], mesh: FakeMesh, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(mesh.ca)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    env = {"LOUPE_PROFILE": str(tmp_path / "fresh" / "profile.json")}
    words = ("login", "--server", mesh.address, "--ca", str(tmp_path / "ca.pem"), "anna")
    result = loupe(*words, "--password-file", str(tmp_path / "password"), env=env)
    assert (result.exit_code, result.stdout) == (0, f"logged in as accounts/anna at {mesh.address}\n")
    assert json.loads(loupe("whoami", "--json", env=env).stdout)["account"]["name"] == "accounts/anna"
    again = loupe("login", "anna", env=env | {"LOUPE_PASSWORD_FILE": str(tmp_path / "password")})
    assert again.exit_code == 0
    assert loupe("logout", env=env).exit_code == 0
    assert loupe("whoami", env=env).exit_code == 5


def test_a_wrong_password_keeps_the_old_login(loupe: Callable[..., Any], store: ProfileStore, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    before = store.load()
    result = loupe("login", "anna", "--password-file", str(tmp_path / "password"))
    assert result.exit_code == 5
    assert result.stderr.startswith("error: unknown account or wrong password")
    assert "check the account's name" in result.stderr
    assert store.load() == before


def test_a_password_file_is_utf8_text_and_may_have_a_mark_at_its_beginning(
    loupe: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_bytes(PASSWORD.encode("utf-8-sig"))
    assert loupe("login", "anna", "--password-file", str(file)).exit_code == 0
    file.write_bytes("Schlüssel".encode("latin-1"))
    refused = loupe("login", "anna", "--password-file", str(file))
    assert refused.exit_code == 6 and "UTF-8" in refused.stderr


def test_there_is_no_password_in_the_arguments(loupe: Callable[..., Any]) -> None:
    assert loupe("login", "anna", "--password", "x").exit_code == 2
    nowhere = loupe("login", "anna")
    assert nowhere.exit_code == 6 and "--password-file" in nowhere.stderr


def test_push_reports_problems_and_ends_with_6(loupe: Callable[..., Any], folder: Path) -> None:
    (folder / "scratch" / "bad.png").write_bytes(b"BAD")
    result = loupe("dataset", "push", "screws", str(folder))
    assert result.exit_code == 6, result.output
    assert re.search(r"scratch/bad.png\s+no picture\s+send a PNG", result.stdout)
    assert "零件 ok" in result.stdout
    machine = loupe("dataset", "push", "screws", str(folder), "--json", "--split", "0.5,0.25,0.25", "--seed", "7")
    value = json.loads(machine.stdout)
    assert value["version"]["picture_count"] == 12
    assert value["problems"][0]["filename"] == "scratch/bad.png"
    assert value["sent"]["pictures"] == 1


def test_push_by_class(loupe: Callable[..., Any], mesh: FakeMesh, folder: Path) -> None:
    pushed = loupe("dataset", "push", "screws", str(folder), "--split-by", "class", "--json")
    assert pushed.exit_code == 0, pushed.output
    assert mesh.split == SplitPolicy(unit=SPLIT_UNIT_CLASS)
    said = loupe("dataset", "push", "screws", str(folder), "--split-by", "classes")
    assert said.exit_code == 2 and "picture, class" in said.stderr


def test_a_version_tells_that_it_is_split_by_class() -> None:
    split = SplitPolicy(train_fraction=0.6, validation_fraction=0.2, test_fraction=0.2, seed=3, unit=SPLIT_UNIT_CLASS)
    shown = io.StringIO()
    Console(file=shown, width=100).print(show_version(DatasetVersion(split=split)))
    assert "by class, 0.6, 0.2, 0.2, seed 3" in shown.getvalue()


def test_push_says_what_was_done_with_pictures(loupe: Callable[..., Any], mesh: FakeMesh, folder: Path) -> None:
    mesh.warnings = ["several pages or frames, of which the first was taken: 1 picture (\x1bpages.tif)"]
    result = loupe("dataset", "push", "screws", str(folder))
    assert (
        result.exit_code == 0
        and r"note: several pages or frames, of which the first was taken: 1 picture (\x1bpages"
        in (" ".join(result.stdout.split()))
    )
    assert json.loads(loupe("dataset", "push", "screws", str(folder), "--json").stdout)["warnings"] == mesh.warnings


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("dataset", "push", "screws", "/nowhere"), 6, "a folder with a folder of pictures per class"),
        (("dataset", "push", "Screws!", "."), 6, "dataset is 'Screws!'; expected a lower-case letter, then"),
        (("dataset", "push", "screws", ".", "--split", "0.5,0.6,0.2"), 6, "add up to 1"),
        (("dataset", "show", "nuts"), 4, "does not exist, or you may not see it"),
        (("train", "screws", "--target-accuracy", "1.2"), 6, "above 0 and at most 1"),
        (
            ("train", "screws", "--target", "f1=0.9"),
            6,
            "the metric accuracy, balanced_accuracy, lowest_recall, recall[CLASS], map50",
        ),
        (("train", "screws", "-t", "0.9", "--param", "epochs"), 6, "NAME=VALUE"),
        (("train", "screws"), 2, "--target"),
        (("job", "show", "j9"), 4, "projects/line-7/jobs/j9"),
        (("classify", "gears", "x.png"), 4, "no version of projects/line-7/models/gears is installed"),
        (("classify", "gears/versions/1", "x.png"), 4, "does not exist"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors_have_their_exit_code_and_no_traceback(
    loupe: Callable[..., Any], words: tuple[str, ...], code: int, message: str
) -> None:
    result = loupe(*words)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_errors_in_json(loupe: Callable[..., Any]) -> None:
    result = loupe("--json", "job", "show", "j9")
    assert result.exit_code == 4 and result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == "NOT_FOUND" and error["metadata"]["resource"] == "projects/line-7/jobs/j9"


def test_a_denial_names_group_parameter_and_threshold(loupe: Callable[..., Any], mesh: FakeMesh, folder: Path) -> None:
    mesh.denied = errors.PermissionDenied(
        "its group projects/line-7/groups/viewers has the permission parameter 10, and datasets.write needs 20",
        account="accounts/anna",
        action="datasets.write",
        project="projects/line-7",
        group="projects/line-7/groups/viewers",
        parameter=10,
        threshold=20,
    )
    result = loupe("dataset", "push", "screws", str(folder))
    assert result.exit_code == 5
    told = " ".join(result.stderr.split())
    assert "groups/viewers has the permission parameter 10, and datasets.write needs 20" in told
    assert "a group whose permission parameter is 20 or more" in told
    assert "`loupe why datasets.write --project line-7`" in told
    error = json.loads(loupe("dataset", "push", "screws", str(folder), "--json").stderr)["error"]
    assert error["reason"] == "PERMISSION_DENIED" and error["metadata"]["parameter"] == "10"


def test_a_mesh_that_is_not_there(
    loupe: Callable[..., Any], store: ProfileStore, mesh: FakeMesh, tmp_path: Path
) -> None:
    from dataclasses import replace

    away = ProfileStore(tmp_path / "away.json")
    away.save(replace(store.load(), server="127.0.0.1:1", access_expires=0))
    result = loupe("whoami", "--profile", str(away.path))
    assert result.exit_code == 7
    assert "auth cannot be reached through 127.0.0.1:1" in " ".join(result.stderr.split())


def test_no_project_chosen(loupe: Callable[..., Any], store: ProfileStore) -> None:
    from dataclasses import replace

    store.save(replace(store.load(), project=""))
    result = loupe("dataset", "list")
    assert result.exit_code == 6 and "loupe project use" in result.stderr
    assert loupe("job", "show", "j9", "--project", "line-7").exit_code == 4
    assert loupe("--project", "line-7", "job", "show", "j9").exit_code == 4
    assert loupe("job", "show", "j9", env={"LOUPE_PROJECT": "line-7"}).exit_code == 4


def test_the_option_after_the_verb_wins(loupe: Callable[..., Any]) -> None:
    assert "projects/b/jobs/j" in loupe("--project", "a", "job", "show", "j", "-p", "b").stderr


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (jobs.JOB_STATE_SUCCEEDED, 0),
        (jobs.JOB_STATE_TARGET_MISSED, 3),
        (jobs.JOB_STATE_FAILED, 1),
        (jobs.JOB_STATE_CANCELLED, 1),
    ],
)
def test_watch_ends_with_the_jobs_exit_code(
    loupe: Callable[..., Any], mesh: FakeMesh, state: jobs.JobState, code: int
) -> None:
    mesh.jobs[JOB] = finished(state)
    mesh.events = job_events(state)
    mesh.watch_cuts = 2
    result = loupe("job", "watch", "j1", "--json")
    assert result.exit_code == code
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == [1, 2, 3, 4, 5]


def test_train_and_watch_shows_placement_progress_and_verdict(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.events = job_events(jobs.JOB_STATE_TARGET_MISSED)
    words = (
        "train",
        "screws",
        "-t",
        "0.97",
        "--param",
        "epochs=20",
        "--param",
        "backbone=resnet18",
        "--max-minutes",
        "1.5",
    )
    assert loupe(*words).exit_code == 0
    sent = mesh.jobs[JOB]
    assert dict(sent.parameters) == {"epochs": 20.0, "backbone": "resnet18"}
    assert sent.max_duration.seconds == 90
    assert sent.dataset_version == "projects/line-7/datasets/screws/versions/latest"
    assert sent.algorithm_version == ""
    mesh.jobs[JOB].CopyFrom(finished(jobs.JOB_STATE_TARGET_MISSED))
    result = loupe("job", "watch", "j1")
    assert result.exit_code == 3, result.output
    for pattern in (
        r"hall\s+10.00 %\s+2\s+taken\s+lowest load",
        r"attic\s+95.00 %\s+0\s+passed over\s+load is not below 0.80",
        r"head epoch 3\s+validation accuracy 98.10 % of 97.00 %\s+300 pictures/s",
        r"\[bold\]not markup\[/bold\]",
        r"target missed: it is over",
        r"79.00 % of 14 pictures \(95 % interval 52.00 % to 92.00 %\)",
        r"Too few 零件\.",
        r"2 零件\s+2\s+2",
        r"abababababab\s+ok\s+零件\s+3.00 %",
    ):
        assert re.search(pattern, result.stdout), (pattern, result.stdout)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--target-accuracy", "0.97"), ("accuracy", 0.97, False)),
        (("--target", "0.97"), ("", 0.97, False)),
        (("--target", "accuracy=0.97"), ("accuracy", 0.97, False)),
        (("-t", "balanced_accuracy=0.95"), ("balanced_accuracy", 0.95, False)),
        (("--target", "lowest_recall=0.9", "--allow-small-validation"), ("lowest_recall", 0.9, True)),
        (("--target", "recall[deep crack]=0.9"), ("recall[deep crack]", 0.9, False)),
    ],
)
def test_a_target_is_a_number_or_a_metric_with_one(
    loupe: Callable[..., Any], mesh: FakeMesh, words: tuple[str, ...], asked: tuple[str, float, bool]
) -> None:
    assert loupe("train", "screws", *words).exit_code == 0
    sent = mesh.jobs[JOB]
    assert (sent.objective.metric, sent.objective.at_least, sent.allow_small_validation) == asked


def test_a_job_with_another_metric_is_shown_by_it(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    job = finished(jobs.JOB_STATE_TARGET_MISSED)
    job.objective.metric = job.result.metrics.objective.metric = "lowest_recall"
    job.result.metrics.validation_score, job.result.metrics.test_lowest_recall = 0.75, 0.5
    mesh.jobs[JOB] = job
    mesh.events = job_events(jobs.JOB_STATE_TARGET_MISSED)
    mesh.events[2].progress.metrics["validation_score"] = 0.75
    assert re.search(r"lowest recall\s+97.00 %", loupe("job", "list").stdout)
    watched = loupe("job", "watch", "j1").stdout
    for pattern in (
        r"validation accuracy 98.10 %  lowest recall 75.00 % of 97.00 %",
        r"target\s+lowest recall 97.00 %",
        r"validation lowest recall\s+75.00 %",
        r"lowest recall\s+50.00 %",
    ):
        assert re.search(pattern, watched), (pattern, watched)


def test_lists_follow_every_page(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    for index in range(5):
        name = f"projects/line-7/jobs/j{index}"
        mesh.jobs[name] = jobs.TrainingJob(name=name, state=jobs.JOB_STATE_QUEUED, seed=2**40)
    found = json.loads(loupe("job", "list", "--json").stdout)["jobs"]
    assert [one["name"][-2:] for one in found] == ["j0", "j1", "j2", "j3", "j4"]
    assert found[0]["state"] == "JOB_STATE_QUEUED" and found[0]["seed"] == 2**40


def test_classify_pulls_the_model_and_goes_on_past_broken_pictures(
    loupe: Callable[..., Any], mesh: FakeMesh, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    publish(mesh, make_model())
    pictures = tmp_path / "new"
    pictures.mkdir()
    (pictures / "1 bright.png").write_bytes(picture_bytes(1))
    (pictures / "2 broken.png").write_bytes(picture_bytes(2)[:100])
    (pictures / "3 dark.png").write_bytes(picture_bytes(2))
    result = loupe("classify", "screws/versions/latest", str(pictures))
    assert result.exit_code == 6, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[1] for row in rows] == ["bright 零件", "error: the PNG data are cut off or damaged", "dark"]
    downloads = len(mesh.download_offsets)
    machine = loupe("classify", "screws/versions/1", str(pictures / "3 dark.png"), "--json")
    assert machine.exit_code == 0
    value = json.loads(machine.stdout)
    assert value["label"] == "dark" and value["confidence"] == value["probabilities"]["dark"]
    folder = tmp_path / "data" / "loupe" / "models" / "line-7" / "screws" / "1"
    assert loupe("classify", str(folder), str(pictures / "1 bright.png")).exit_code == 0
    assert len(mesh.download_offsets) == downloads


def test_lists_of_some_states_only(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    for index, state in enumerate((jobs.JOB_STATE_QUEUED, jobs.JOB_STATE_TARGET_MISSED, jobs.JOB_STATE_RUNNING)):
        name = f"projects/line-7/jobs/j{index}"
        mesh.jobs[name] = jobs.TrainingJob(name=name, state=state)
    words = ("job", "list", "--state", "target-missed", "--state", "RUNNING", "--json")
    assert [one["name"][-2:] for one in json.loads(loupe(*words).stdout)["jobs"]] == ["j1", "j2"]


def test_the_verdict_is_said_once(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    verdict = "Too few 零件."
    ended = finished(jobs.JOB_STATE_TARGET_MISSED)
    ended.state_message = verdict
    mesh.jobs[JOB] = ended
    mesh.events = job_events(jobs.JOB_STATE_TARGET_MISSED)
    mesh.events[-1].state_change.message = verdict
    assert loupe("job", "show", "j1").stdout.count(verdict) == 1
    assert loupe("job", "watch", "j1").stdout.count(verdict) == 1


def test_a_cluster_is_passed_over_once(loupe: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = finished(jobs.JOB_STATE_SUCCEEDED)
    mesh.events = job_events(jobs.JOB_STATE_SUCCEEDED)
    mesh.events[1].placement.considered[1].explanation = "passed over: load 0.95 is not below 0.80"
    assert loupe("job", "watch", "j1").stdout.count("passed over") == 1


def test_the_matrix_is_written_and_shown(loupe: Callable[..., Any], mesh: FakeMesh, tmp_path: Path) -> None:
    mesh.jobs[JOB] = finished(jobs.JOB_STATE_TARGET_MISSED)
    csv_file, png_file = tmp_path / "m.csv", tmp_path / "m.png"
    result = loupe("job", "show", "j1", "--matrix", "--csv", str(csv_file), "--png", str(png_file))
    assert result.exit_code == 0 and "wrote the confusion matrix" in result.stderr
    assert csv_file.read_text(encoding="utf-8").splitlines()[1:] == ["ok,9,1", "零件,2,2"]
    assert png_file.read_bytes().startswith(b"\x89PNG")
    assert re.search(r"零件\s+ok\s+2\s+4\s+50%", result.stdout)
    mesh.jobs[JOB].ClearField("result")
    assert loupe("job", "show", "j1", "--csv", str(csv_file)).exit_code == 4


def test_version_and_completion(loupe: Callable[..., Any]) -> None:
    assert re.match(r"loupe \S+ .*\(Python 3\.", loupe("--version").stdout)
    asked = {"_LOUPE_COMPLETE": "complete_bash", "COMP_WORDS": "loupe job ", "COMP_CWORD": "2"}
    found = CliRunner().invoke(app, [], prog_name="loupe", env=asked)
    assert {"list", "show", "watch", "cancel", "explain"} <= set(found.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset", "show", "screws/versions/zero"), "number is 'zero'; expected the number of a version, or latest"),
        (("job", "show", "J1"), "job is 'J1'; expected a lower-case letter, then up to 62 letters"),
        (("job", "list", "--project", "Line_7"), "project is 'Line_7'; expected a lower-case letter"),
        (("threshold", "set", "everything", "3"), "action is 'everything'; expected an action such as datasets.write"),
        (("algorithm", "show", "finetune/versions/!"), "version is '!'; expected a version such as 1.2, or latest"),
        (("job", "show", "projects/line-7/models/x"), 'expected "projects/{project}/jobs/{job}"'),
    ],
)
def test_a_wrong_id_is_told_with_its_rule(loupe: Callable[..., Any], words: tuple[str, ...], message: str) -> None:
    result = loupe(*words)
    assert result.exit_code == 6 and message in result.stderr, result.stderr


def test_the_exit_codes_are_documented(loupe: Callable[..., Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in page


def every_command() -> list[list[str]]:
    found = []

    def walk(command: Any, path: list[str]) -> None:
        for name, one in getattr(command, "commands", {}).items():
            walk(one, [*path, name])
        if not getattr(command, "commands", None):
            found.append(path)

    walk(typer.main.get_command(app), [])
    return found


def test_every_command_teaches_an_example_and_takes_json(loupe: Callable[..., Any]) -> None:
    paths = every_command()
    assert len(paths) == 75
    for path in paths:
        text = loupe(*path, "--help").stdout
        assert f"Example: loupe {' '.join(path)}" in " ".join(text.split()), path
        assert "--json" in text and "--project" in text


def test_every_error_has_an_exit_code_and_every_code_is_documented(loupe: Callable[..., Any]) -> None:
    text = " ".join(loupe("--help").stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning.split(',')[0]}" in text
    codes = {kind.__name__: int(exit_code(kind("x"))) for kind in errors.LoupeError.registry.values()}
    assert codes["PermissionDenied"] == 5 and codes["Unavailable"] == 7 and codes["BadDataset"] == 6
    assert codes["AlreadyExists"] == 8 and codes["GateFailed"] == 3 and codes["Internal"] == 1
    assert advice(errors.Throttled("x", retry_after_seconds=30)) == "try again in 30 seconds"


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not there on a terminal")
sys.meta_path.insert(0, Blocker())
"""
SERVER_PACKAGES = {
    "aiosqlite", "alembic", "argon2", "asyncpg", "casbin", "casbin_async_sqlalchemy_adapter", "cleanlab", "consul",
    "grpc_health", "grpc_reflection", "imagehash", "jwt", "nacl", "nkeys", "obstore", "onnx", "opentelemetry",
    "prometheus_client", "psutil", "pydantic_settings", "pyseccomp", "safetensors", "scipy", "services", "skimage",
    "sklearn", "sqlalchemy", "structlog", "timm", "torch", "torchmetrics", "torchvision", "uvloop",
}  # fmt: skip


def in_a_process(code: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOUPE_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_terminal_needs_no_server_package() -> None:
    code = BLOCKER.format(blocked=SERVER_PACKAGES) + (
        "import importlib, pkgutil, loupe.terminal, loupe.bus, loupe.algorithm.image\n"
        "names = [m.name for m in pkgutil.walk_packages(loupe.terminal.__path__, 'loupe.terminal.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "[getattr(loupe.terminal, name) for name in loupe.terminal.__all__]\n"
        "import onnxruntime, rich.progress, rich.live, platformdirs\n"
        "print(len(names))\n"
    )
    assert int(in_a_process(code)) > 20


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from loupe.terminal.cli import main\n"
        "sys.argv = ['loupe', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'onnxruntime', 'nats', 'PIL', 'google', 'pydantic', 'cryptography', 'structlog'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    assert in_a_process(code).splitlines()[-1] == "HEAVY []"
