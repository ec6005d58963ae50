"""`loupe evaluate`, `loupe predict`, and what of a prediction is taken over into a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from loupe.common.v1 import job_kind_pb2 as kinds
from loupe.errors import DataLoss, FailedPrecondition
from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.storage.v1.dataset_pb2 import Annotation, Box, DatasetItem
from loupe.terminal.predictions import parse_predictions, take_over
from tests.terminal.fake_mesh import FakeMesh

JOB = "projects/line-7/jobs/j1"
MODEL = "projects/line-7/models/screws/versions/2"
REPORT = {
    "labels": ["ok", "零件"],
    "pictures": "validation",
    "evaluation": {
        "worst_classes": ["零件"],
        "per_class": [
            {"label": "ok", "recall": 0.9, "precision": 0.8, "f1": 0.85, "pictures": 10},
            {"label": "零件", "recall": 0.5, "precision": 0.75, "f1": 0.6, "pictures": 4},
        ],
        "confusion_matrix": [[9, 1], [2, 2]],
    },
    "unknown_labels": ["零件"],
}


def evaluated(state: jobs.JobState = jobs.JOB_STATE_SUCCEEDED) -> jobs.TrainingJob:
    told = jobs.Evaluation(
        task="classification",
        picture_count=14,
        figures={"lowest_recall": 0.5, "accuracy": 0.79},
        unknown_labels=["零件"],
    )
    return jobs.TrainingJob(
        name=JOB,
        kind="JOB_KIND_EVALUATE",
        pictures="PICTURE_SELECTION_VALIDATION",
        base_model=MODEL,
        state=state,
        end_time=Timestamp(seconds=1_760_000_000),
        result=jobs.JobResult(outcome="done", evaluation=told, report_json=json.dumps(REPORT)),
    )


def over(state: jobs.JobState = jobs.JOB_STATE_SUCCEEDED) -> list[jobs.JobEvent]:
    return [jobs.JobEvent(job=JOB, sequence=1, state_change=jobs.StateChange(state=state, message="it is over"))]


def test_an_evaluation_shows_figures_by_class_and_what_is_confused(
    command_line: Callable[..., Any], mesh: FakeMesh
) -> None:
    mesh.job_results[JOB], mesh.events = evaluated(), over()
    result = command_line("evaluate", "screws/versions/2", "screws", "--split", "all", "--label", "line=7")
    assert result.exit_code == 0, result.output
    for pattern in (r"accuracy\s+79.00 %", r"unknown classes\s+零件", r"ok\s+90.00 %\s+80.00 %\s+10", "14 validation"):
        assert re.search(pattern, result.stdout), (pattern, result.stdout)
    listed = command_line("job", "list").stdout
    assert re.search(r"j1\s+evaluate\s+succeeded\s+screws/versions/2", " ".join(listed.split())), listed


def test_an_evaluation_is_asked_for_by_its_model_and_its_pictures(
    command_line: Callable[..., Any], mesh: FakeMesh
) -> None:
    result = command_line("evaluate", "screws", "nuts/versions/3", "--split", "all", "--no-wait", "--json")
    assert result.exit_code == 0, result.output
    sent = mesh.jobs[JOB]
    assert (sent.kind, sent.pictures) == (kinds.JOB_KIND_EVALUATE, kinds.PICTURE_SELECTION_LABELLED)
    assert sent.base_model == "projects/line-7/models/screws/versions/latest"
    assert sent.dataset_version == "projects/line-7/datasets/nuts/versions/3" and not sent.HasField("objective")
    assert json.loads(result.stdout)["kind"] == "JOB_KIND_EVALUATE"
    assert command_line("evaluate", "screws", "nuts", "--split", "half").exit_code == 2


def test_a_job_that_fails_ends_with_its_exit_code(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    failed = evaluated(jobs.JOB_STATE_FAILED)
    failed.ClearField("result")
    failed.failure.message = "the model is broken"
    mesh.job_results[JOB], mesh.events = failed, over(jobs.JOB_STATE_FAILED)
    result = command_line("evaluate", "screws", "nuts")
    assert result.exit_code == 1 and "the model is broken" in result.stdout
    as_json = command_line("evaluate", "screws", "nuts", "--json")
    assert json.loads(as_json.stdout)["state"] == "JOB_STATE_FAILED"


def lines(*said: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in said)


def predicted(mesh: FakeMesh, data: bytes) -> jobs.TrainingJob:
    """Return a job that answered; storage has the file."""
    digest = hashlib.sha256(data).hexdigest()
    mesh.blobs[digest] = data
    made = jobs.Predictions(digest=digest, size=len(data), picture_count=3, counts={"ok": 2})
    return jobs.TrainingJob(
        name=JOB,
        kind="JOB_KIND_PREDICT",
        base_model=MODEL,
        state=jobs.JOB_STATE_SUCCEEDED,
        end_time=Timestamp(seconds=1_760_000_000),
        result=jobs.JobResult(outcome="done", predictions=made),
    )


def test_answers_are_written_to_a_file(command_line: Callable[..., Any], mesh: FakeMesh, tmp_path: Path) -> None:
    data = lines({"picture": "ab" * 32, "label": "ok", "confidence": 0.9})
    mesh.job_results[JOB], mesh.events = predicted(mesh, data), over()
    result = command_line("predict", "screws", "nuts", "--all", "--out", tmp_path / "answers.jsonl")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "answers.jsonl").read_bytes() == data and re.search(r"pictures\s+3", result.stdout)
    assert command_line("predict", "screws", "nuts", "--no-wait", "--out", tmp_path / "x").exit_code == 2
    del mesh.job_results[JOB]
    assert command_line("predict", "screws", "nuts", "--no-wait").exit_code == 0
    assert mesh.jobs[JOB].pictures == kinds.PICTURE_SELECTION_UNLABELLED


def annotation(label: str, box: list[float], **more: Any) -> Annotation:
    edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
    return Annotation(label=label, box=Box(**edges), **more)


def test_what_a_person_said_is_never_overwritten() -> None:
    """Boxes of an earlier model make room, unless somebody verified them; what is not sure enough is left out."""
    corners = [0.1, 0.1, 0.5, 0.5]
    found = [{"label": "dent", "confidence": 0.9, "box": corners}, {"label": "dent", "confidence": 0.3, "box": corners}]
    items = [
        DatasetItem(digest="bare"),
        DatasetItem(digest="annotated", annotations=[annotation("hole", corners, author="accounts/anna")]),
        DatasetItem(
            digest="verified", annotations=[annotation("hole", corners, model=MODEL, verifier="accounts/anna")]
        ),
        DatasetItem(digest="open", annotations=[annotation("hole", corners, model=MODEL, confidence=0.4)]),
        DatasetItem(digest="empty", nothing_there=True),
        DatasetItem(digest="unsure"),
    ]
    said = [{"picture": item.digest, "found": found} for item in items[:-1]]
    said += [{"picture": "unsure", "found": found[1:]}, {"picture": "elsewhere", "found": found}]
    taken = take_over(parse_predictions(jobs.TrainingJob(base_model=MODEL), lines(*said)), items, 0.5)
    assert set(taken.annotated) == {"bare", "open"}
    assert (taken.labelled, taken.unsure, taken.missing) == (3, 1, 1)
    (one,) = taken.annotated["bare"]
    assert (one.label, one.provenance.model, one.provenance.confidence) == ("dent", MODEL, 0.9)
    assert one.provenance.open


def test_classes_are_taken_over_where_there_is_none() -> None:
    items = [DatasetItem(digest="bare"), DatasetItem(digest="labelled", label="ok"), DatasetItem(digest="unsure")]
    said = [
        {"picture": item.digest, "label": "dent", "confidence": sure}
        for item, sure in zip(items, (0.9, 0.9, 0.2), strict=True)
    ]
    taken = take_over(parse_predictions(jobs.TrainingJob(), lines(*said)), items, 0.5)
    assert (taken.relabelled, taken.labelled, taken.unsure) == ({"bare": "dent"}, 1, 1)


def test_an_inspectors_answers_label_nothing() -> None:
    said = parse_predictions(jobs.TrainingJob(), lines({"picture": "bare", "bad": True, "score": 7.5}))
    with pytest.raises(FailedPrecondition, match="not what is wrong"):
        take_over(said, [DatasetItem(digest="bare")], 0.0)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"picture": "x"}',
        b'{"picture": "x", "label": "\\u0007", "confidence": 1}',
        b'{"picture": "x", "label": "ok", "confidence": 2}',
        b'{"picture": "x", "found": [{"label": "ok", "confidence": 1, "box": [0, 0, 2, 2]}]}',
    ],
)
def test_a_file_that_is_none_is_told(line: bytes) -> None:
    with pytest.raises(DataLoss, match="line 1 of the answers"):
        list(parse_predictions(jobs.TrainingJob(name=JOB), line))


def test_answers_are_taken_over_from_the_command_line(command_line: Callable[..., Any], mesh: FakeMesh) -> None:
    said = lines(
        {"picture": "ab" * 32, "label": "ok", "confidence": 0.9},
        {"picture": "cd" * 32, "label": "ok", "confidence": 0.3},
    )
    mesh.jobs[JOB] = predicted(mesh, said)
    mesh.datasets["projects/line-7/datasets/nuts"] = [[DatasetItem(digest="ab" * 32), DatasetItem(digest="cd" * 32)]]
    result = command_line("dataset", "annotate", "nuts", "--from-job", "j1", "--min-confidence", "0.5")
    assert result.exit_code == 0, result.output
    assert "1 pictures are taken over; 0 are labelled already, 1 have no answer that is sure" in " ".join(
        result.stderr.split()
    )
    (change,) = [each for batch in mesh.changes for each in batch.relabelled]
    assert (change.digest, change.label) == ("ab" * 32, "ok")
    nothing = command_line("dataset", "annotate", "nuts", "--from-job", "j1", "--min-confidence", "1")
    assert nothing.exit_code == 8 and "nothing" in nothing.stderr
    assert command_line("dataset", "annotate", "nuts", "there/", "--from-job", "j1").exit_code == 2
