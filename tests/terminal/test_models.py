"""Models on the command line: the list with its figures, and the model that comes when its training is watched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from loupe import errors
from loupe.common.v1.objective_pb2 import Objective
from loupe.scheduler.v1 import training_job_pb2 as jobs
from tests.terminal.fake_mesh import FakeMesh

NAME = "projects/line-7/models/screws/versions/{}"
JOB = "projects/line-7/jobs/j1"
TESTED = {"test_accuracy": 0.98999, "test_accuracy_low": 0.951, "test_accuracy_high": 0.99899, "test_pictures": 99}


def test_the_list_has_figures_and_fits_80_columns(
    command_line: Callable[..., Any], add_version: Callable[..., Any]
) -> None:
    add_version(1, **TESTED)
    add_version(2, released=False)
    add_version(117, model="gear-housings-of-line-seven-left-hand", **(TESTED | {"test_accuracy": 1.0}))
    add_version(1, model="nuts", released=False)
    result = command_line("model", "list", COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    day = rows["screws"][-1]
    assert rows["screws"][1:] == ["1", "2", "98.9", "%", "(95.1-99.8)", *rows["screws"][6:8], day]
    assert day.startswith("2025-10-0") and rows["screws"][7] == "kB"
    assert rows["nuts"][1:6] == ["no", "1", "99.0", "%", "(validation)"]
    (long,) = (row for name, row in rows.items() if name.startswith("gear") and "…" in name)
    assert long[1:5] == ["117", "117", "100", "%"]


def test_the_list_for_programs_has_the_version_whose_figures_are_shown(
    command_line: Callable[..., Any], add_version: Callable[..., Any]
) -> None:
    add_version(1, **TESTED)
    for number in range(2, 60):  # the released one is beyond the first page
        add_version(number, released=False)
    (value,) = json.loads(command_line("model", "list", "--json").stdout)["models"]
    assert value["latest_version"] == NAME.format(59) and value["latest_released_version"] == NAME.format(1)
    shown = value["version"]
    assert (shown["name"], shown["released"], shown["metrics"]["test_pictures"]) == (NAME.format(1), True, 99)
    assert shown["size"] == sum(one["size"] for one in shown["files"]) > 0 and "report_json" not in shown


@pytest.mark.parametrize("verb", ["show", "pull"])
def test_a_model_that_is_not_released_is_not_told_as_absent(
    command_line: Callable[..., Any], add_version: Callable[..., Any], verb: str
) -> None:
    add_version(1, model="smt", released=False)
    result = command_line("model", verb, "smt")
    told = " ".join(result.stderr.split())
    assert result.exit_code == 4
    assert "the only version is not released: `smt/versions/1`; pull it with --allow-below-target" in told
    assert "does not exist" not in told


def ended(mesh: FakeMesh, state: int, version: str) -> None:
    change = jobs.StateChange(state=state, message="it is over")  # type: ignore[arg-type]
    mesh.events = [jobs.JobEvent(job=JOB, sequence=1, time=Timestamp(seconds=1), state_change=change)]
    mesh.job_results[JOB] = jobs.TrainingJob(
        name=JOB,
        state=state,  # type: ignore[arg-type]
        objective=Objective(at_least=0.97),
        result=jobs.JobResult(model_version=version),
    )


def test_a_watched_training_ends_with_the_model_on_this_machine(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], data_folder: Path, folder: Path
) -> None:
    add_version(1)
    ended(mesh, jobs.JOB_STATE_SUCCEEDED, NAME.format(1))
    mesh.download_cuts = 2
    result = command_line("train", "screws", "-t", "0.97", "--watch")
    assert result.exit_code == 0, result.output
    place = data_folder / "line-7" / "screws" / "1"
    assert f"installed {NAME.format(1)} in {place}" in result.stdout
    assert command_line("classify", "screws", folder / "scratch" / "02.png").exit_code == 0
    *_, last = command_line("train", "screws", "-t", "0.97", "--watch", "--json").stdout.splitlines()
    assert json.loads(last)["installed"]["folder"] == str(place)


def test_it_does_not_come_when_it_is_not_released_or_not_wanted(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1, released=False)
    ended(mesh, jobs.JOB_STATE_TARGET_MISSED, NAME.format(1))
    result = command_line("train", "screws", "-t", "0.97", "--watch")
    assert result.exit_code == 3
    assert f"`loupe model pull {NAME.format(1)} --allow-below-target` brings it" in " ".join(result.stderr.split())
    add_version(2)
    ended(mesh, jobs.JOB_STATE_SUCCEEDED, NAME.format(2))
    assert command_line("train", "screws", "-t", "0.97", "--watch", "--no-install").exit_code == 0
    assert not data_folder.exists()


def test_a_model_that_does_not_arrive_is_told_apart_from_a_job_that_failed(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    add_version(1, folder=make_model("bad", golden_shift=0.002))
    ended(mesh, jobs.JOB_STATE_SUCCEEDED, NAME.format(1))
    result = command_line("train", "screws", "-t", "0.97", "--watch", "--json")
    assert result.exit_code == 3
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == errors.GateFailed.reason_name()
    assert error["message"].startswith("the model is trained and released, but it is not on this machine: on this")
