"""Finding, explaining and repeating jobs from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from tests.terminal.fake_mesh import FakeMesh
from tests.terminal.test_cli import finished, job_events

JOB = "projects/line-7/jobs/j1"
AGAIN = "projects/line-7/jobs/j2"


def test_labels_and_note_are_given_at_submission_and_shown(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    words = ("train", "screws", "-t", "0.9", "--label", "line=7", "-l", "a=b=c", "--note", "after the new lamp")
    assert command_line(*words).exit_code == 0
    assert (dict(mesh.jobs[JOB].labels), mesh.jobs[JOB].note) == ({"line": "7", "a": "b=c"}, "after the new lamp")
    mesh.jobs[JOB].rerun_of = "projects/line-7/jobs/j0"
    shown = command_line("job", "show", "j1").stdout
    for pattern in (r"labels\s+a=b=c line=7", r"note\s+after the new lamp", r"reruns\s+projects/line-7/jobs/j0"):
        assert re.search(pattern, shown), (pattern, shown)


def test_labels_change_one_by_one(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB, labels={"line": "6", "old": "x", "kept": "k"}, note="n")
    result = command_line("job", "label", "j1", "line=7", "old-", "absent-", "empty=")
    assert result.exit_code == 0 and f"{JOB} has empty= kept=k line=7" in result.stdout
    assert (dict(mesh.jobs[JOB].labels), mesh.jobs[JOB].note) == ({"line": "7", "kept": "k", "empty": ""}, "n")
    assert "has no label" in command_line("job", "label", "j1", "line-", "kept-", "empty-").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("job", "label", "j1", "line"), "label is 'line'; expected KEY=VALUE"),
        (("job", "label", "j1", "=7"), "expected KEY=VALUE"),
        (("job", "label", "j1", "line=7", "line-"), "either line=VALUE or line-"),
        (("job", "label", "j1", "line=7", "line=8"), "one value of line"),
        (("job", "list", "--label", "line"), "expected KEY=VALUE"),
        (("train", "screws", "-t", "0.9", "--label", "line"), "expected KEY=VALUE"),
        (("job", "rerun", "j1", "--param", "size"), "NAME=VALUE"),
        (("job", "rerun", "j1", "--target", "2"), "above 0 and at most 1"),
    ],
)
def test_bad_labels_and_changes_send_nothing(
    command_line: Callable[..., Any], mesh: FakeMesh, words: tuple[str, ...], message: str
) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB)
    result = command_line(*words)
    assert result.exit_code == 6 and message in " ".join(result.stderr.split()), result.output
    assert not mesh.reruns and mesh.jobs == {JOB: jobs.TrainingJob(name=JOB)}


def test_a_note_is_written_and_taken_away(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB, labels={"line": "7"})
    assert "is noted: 零件 ok" in command_line("job", "note", "j1", "零件 ok").stdout
    assert (mesh.jobs[JOB].note, dict(mesh.jobs[JOB].labels)) == ("零件 ok", {"line": "7"})
    assert "has no note" in command_line("job", "note", "j1", "").stdout and mesh.jobs[JOB].note == ""
    assert command_line("job", "note", "j9", "x").exit_code == 4


def test_a_list_is_filtered_by_labels_and_states(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    """Labels have a column where there are any."""
    assert "labels" not in command_line("job", "list").stdout
    for index, state in enumerate((jobs.JOB_STATE_FAILED, jobs.JOB_STATE_TARGET_MISSED, jobs.JOB_STATE_RUNNING) * 2):
        name = f"projects/line-7/jobs/j{index}"
        mesh.jobs[name] = jobs.TrainingJob(name=name, state=state, labels={"line": str(index // 3), "n": str(index)})
    words = ("job", "list", "--state", "failed", "--state", "missed", "--label", "line=1")
    assert [one["name"][-2:] for one in json.loads(command_line(*words, "--json").stdout)["jobs"]] == ["j3", "j4"]
    assert re.search(r"labels.*line=1 n=3", command_line(*words).stdout, re.DOTALL)
    assert not json.loads(command_line("job", "list", "-l", "line=1", "-l", "n=1", "--json").stdout)["jobs"]
    wrong = command_line("job", "list", "--state", "sleeping")
    told = " ".join(wrong.stderr.replace("│", " ").split())
    assert wrong.exit_code == 2 and "'sleeping'" in told and "'running'" in told and "'missed'" in told


def test_rerun_sends_what_is_named_and_nothing_else(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB, labels={"line": "7"}, algorithm_version="algorithms/a/versions/1")
    result = command_line("job", "rerun", "j1")
    assert result.exit_code == 0 and f"submitted {AGAIN}, which reruns {JOB}" in result.stdout
    plain = mesh.reruns.pop()
    assert plain.name == JOB and plain.request_id
    assert not plain.update_mask.paths and plain.training_job == jobs.TrainingJob()
    words = (
        "--param",
        "size=128",
        "--param",
        "epochs-",
        "--target",
        "lowest_recall=0.9",
        "--seed",
        "0",
        "--label",
        "a=b",
    )
    more = (
        "--dataset",
        "nuts",
        "-a",
        "scratch",
        "--max-minutes",
        "1.5",
        "--model",
        "m",
        "--note",
        "n",
        "--priority",
        "0",
    )
    assert command_line("job", "rerun", "j1", *words, *more).exit_code == 0
    sent = mesh.reruns.pop()
    assert sorted(sent.update_mask.paths) == sorted(
        [
            "dataset_version",
            "objective",
            "algorithm_version",
            "model",
            "seed",
            "priority",
            "max_duration",
            "labels",
            "note",
            "parameters.size",
            "parameters.epochs",
        ]
    )
    job = sent.training_job
    assert (job.dataset_version, job.model) == (
        "projects/line-7/datasets/nuts/versions/latest",
        "projects/line-7/models/m",
    )
    assert (job.objective.metric, job.objective.at_least, job.max_duration.seconds) == ("lowest_recall", 0.9, 90)
    assert (dict(job.parameters), dict(job.labels), job.note) == ({"size": 128}, {"line": "7", "a": "b"}, "n")
    assert job.algorithm_version == "algorithms/scratch/versions/latest"
    assert command_line("job", "rerun", "j9").exit_code == 4


def test_a_rerun_can_be_watched(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB)
    mesh.job_results[AGAIN] = finished(jobs.JOB_STATE_TARGET_MISSED)
    mesh.events = job_events(jobs.JOB_STATE_TARGET_MISSED)
    result = command_line("job", "rerun", "j1", "--watch")
    assert result.exit_code == 3 and f"submitted {AGAIN}" in result.stderr, result.output


async def test_the_sdk_updates_one_or_both(mesh: FakeMesh, store: ProfileStore) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB, labels={"a": "b"}, note="n")
    async with Terminal.connect(store) as loupe:
        assert (await loupe.jobs.update(JOB, note="m")).labels == {"a": "b"}
        cleared = await loupe.jobs.update(JOB, labels={}, note="")
        assert (dict(cleared.labels), cleared.note) == ({}, "")
        made = await loupe.jobs.rerun(JOB, seed=0, parameters={"size": None}, job_id="mine")
    assert made.rerun_of == JOB
    assert list(mesh.reruns[0].update_mask.paths) == ["seed", "parameters.size"] and mesh.reruns[0].job_id == "mine"


def test_resume_sends_what_is_named_and_nothing_else(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB, labels={"line": "7"})
    result = command_line("job", "resume", "j1")
    assert result.exit_code == 0 and f"submitted {AGAIN}, which resumes {JOB}" in result.stdout
    plain = mesh.resumptions.pop()
    assert plain.name == JOB and plain.request_id and not plain.update_mask.paths
    words = ("--max-minutes", "1.5", "--max-epochs", "0", "-t", "0.8", "--param", "epochs=40", "--param", "flips-")
    assert command_line("job", "resume", "j1", *words, "--label", "a=b").exit_code == 0
    sent = mesh.resumptions.pop()
    named = ["max_duration", "max_epochs", "objective", "labels", "parameters.epochs", "parameters.flips"]
    assert sorted(sent.update_mask.paths) == sorted(named)
    job = sent.training_job
    assert (job.max_duration.seconds, job.max_epochs, job.objective.at_least) == (90, 0, 0.8)
    assert (dict(job.parameters), dict(job.labels)) == ({"epochs": 40}, {"line": "7", "a": "b"})
    assert re.search(rf"resumes\s+{JOB}", command_line("job", "show", "j2").stdout)
    assert command_line("job", "resume", "j9").exit_code == 4


def test_a_resumed_job_can_be_watched(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    mesh.jobs[JOB] = jobs.TrainingJob(name=JOB)
    mesh.job_results[AGAIN] = finished(jobs.JOB_STATE_TARGET_MISSED)
    mesh.events = job_events(jobs.JOB_STATE_TARGET_MISSED)
    result = command_line("job", "resume", "j1", "--watch")
    assert result.exit_code == 3 and f"submitted {AGAIN}" in result.stderr, result.output


def test_a_job_is_deleted_listed_and_restored(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    for index, state in enumerate((jobs.JOB_STATE_FAILED, jobs.JOB_STATE_CANCELLED, jobs.JOB_STATE_FAILED)):
        name = f"projects/line-7/jobs/j{index}"
        mesh.jobs[name] = jobs.TrainingJob(name=name, state=state)
    for name in ("j0", "j1"):
        done = command_line("job", "delete", name)
        assert (
            done.exit_code == 0
            and f"deleted projects/line-7/jobs/{name}; it can be restored until 2027-" in done.stdout
        )

    def listed(*words: str) -> list[str]:
        value = json.loads(command_line("job", "list", *words, "--json").stdout)
        return [one["name"][-2:] for one in value["deleted" if "--deleted" in words else "jobs"]]

    assert (listed(), listed("--deleted"), listed("--deleted", "--state", "failed")) == (["j2"], ["j0", "j1"], ["j0"])
    assert "can be restored until" in command_line("job", "list", "--deleted").stdout
    assert f"restored {JOB}" in command_line("job", "undelete", "j1").stdout and listed() == ["j1", "j2"]
    assert command_line("job", "undelete", "j1").exit_code == 8
    assert command_line("job", "delete", "j9").exit_code == 4
