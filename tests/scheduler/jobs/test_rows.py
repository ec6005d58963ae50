"""What stands in the database: columns and event bodies are the very messages of the contract, and are read back."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.message import Message

from loupe.common.v1.job_kind_pb2 import JOB_KIND_TRAIN
from loupe.errors import DataLoss
from loupe.job_kinds import JobKind, PictureSelection
from loupe.names import ClusterName
from loupe.scheduler.v1 import cluster_pb2, training_job_pb2
from loupe.storage.v1.model_pb2 import ModelMetrics as MetricsMessage
from loupe.tasks.objective import Objective
from loupe.timestamps import timestamp
from loupe.trainer.v1 import attempt_pb2
from services.scheduler.clients.storage import ModelMetrics
from services.scheduler.clients.trainers import Artifact, FinishedAttempt, LogLine, Progress
from services.scheduler.clusters.messages import unpack_placement
from services.scheduler.clusters.placement import Considered, Placement
from services.scheduler.jobs.events import Event, StateChange
from services.scheduler.jobs.job import Evaluation, JobFailure, JobResult, Predictions
from services.scheduler.jobs.messages import pack_event, pack_job, pack_result, read_result
from services.scheduler.jobs.rows import columns_of, dump_spec, job_of, load_spec, row_of
from services.scheduler.jobs.states import State
from tests.scheduler.samples import NORTH_A, NOW, make_job

PROGRESS = Progress("head", 1, 4, 9, {"loss": 0.5}, "m")
PROGRESS_MESSAGE = training_job_pb2.JobProgress(
    phase="head", epoch=1, step=4, total_steps=9, metrics={"loss": 0.5}, message="m"
)
METRICS = ModelMetrics(Objective("accuracy", 0.97), 0.9, test_pictures=7)
RESULT = JobResult("plateau", "projects/p/models/m/versions/1", METRICS, "零件", "{}")
RESULT_MESSAGE = training_job_pb2.JobResult(
    outcome="plateau",
    model_version="projects/p/models/m/versions/1",
    metrics=MetricsMessage(
        validation_accuracy=0.9, test_pictures=7, objective={"metric": "accuracy", "at_least": 0.97}
    ),
    verdict="零件",
    report_json="{}",
)
FAILURE, FAILURE_MESSAGE = JobFailure("INTERNAL", "why"), training_job_pb2.JobFailure(reason="INTERNAL", message="why")
FINISHED = FinishedAttempt("plateau", (Artifact("model.onnx", "ab" * 32, 7),), "{}", "0.1.0")
FINISHED_MESSAGE = attempt_pb2.AttemptFinished(
    outcome="plateau",
    artifacts=[attempt_pb2.Artifact(filename="model.onnx", digest="ab" * 32, size=7)],
    report_json="{}",
    code_version="0.1.0",
)
PLACEMENT = Placement(NORTH_A, (Considered(ClusterName("north"), 0.1, 1, "", "free", True),), "chosen", 0.8)
PLACEMENT_MESSAGE = cluster_pb2.Placement(
    trainer=str(NORTH_A),
    considered=[
        cluster_pb2.ConsideredCluster(
            cluster="clusters/north", load=0.1, free_slots=1, candidate=True, chosen=True, explanation="free"
        )
    ],
    summary="chosen",
    load_threshold=0.8,
)
STATE_CHANGE_MESSAGE = training_job_pb2.StateChange(
    state="JOB_STATE_RUNNING", message="m", result=RESULT_MESSAGE, failure=FAILURE_MESSAGE
)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("progress", PROGRESS, PROGRESS_MESSAGE),
        ("result", RESULT, RESULT_MESSAGE),
        ("result", JobResult(verdict="v"), training_job_pb2.JobResult(verdict="v")),
        ("failure", FAILURE, FAILURE_MESSAGE),
        ("finished", FINISHED, FINISHED_MESSAGE),
        ("placement", PLACEMENT, PLACEMENT_MESSAGE),
    ],
)
def test_a_column_holds_the_message_and_is_read_back(field: str, value: Any, message: Message) -> None:
    """Byte for byte, and every field comes back."""
    fields: dict[str, Any] = {field: value}
    job = make_job(**fields)
    assert columns_of(fields) == {field: message.SerializeToString()}
    row: Any = SimpleNamespace(**row_of(job))
    assert job_of(row) == job


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (StateChange(State.RUNNING, "m", RESULT, FAILURE), {"state_change": STATE_CHANGE_MESSAGE}),
        (PROGRESS, {"progress": PROGRESS_MESSAGE}),
        (LogLine(""), {"log": ""}),
        (PLACEMENT, {"placement": PLACEMENT_MESSAGE}),
    ],
)
def test_an_event_is_the_message_of_the_contract(content: Any, told: dict[str, Any]) -> None:
    """With its job, attempt, sequence and time."""
    job = make_job()
    message = training_job_pb2.JobEvent(job=str(job.name), attempt=2, sequence=3, time=timestamp(NOW), **told)
    assert pack_event(job.name, 3, Event(NOW, 2, content)).SerializeToString() == message.SerializeToString()


def test_a_cluster_that_was_passed_over_is_no_candidate_when_it_is_read() -> None:
    """The contract tells that there was an obstacle, and not which."""
    passed = cluster_pb2.ConsideredCluster(cluster="clusters/north", explanation="passed over: no live trainer")
    placement = unpack_placement(cluster_pb2.Placement(considered=[passed]))
    assert placement.trainer is None and placement.considered[0].obstacle


def test_a_job_from_before_there_were_metrics_is_about_accuracy() -> None:
    """Its spec says nothing of a metric, nor of what its validation lacks."""
    row = row_of(make_job())
    spec = json.loads(row["spec"])
    for name in ("task_name", "objective", "allow_small_validation", "shortfall"):
        del spec[name]
    spec["target_accuracy"] = 0.9
    job = job_of(cast(Any, SimpleNamespace(**row | {"spec": json.dumps(spec)})))
    assert (job.spec.objective, job.spec.shortfall) == (Objective("accuracy", 0.9), "")
    assert pack_job(job).objective.metric == "accuracy"


def test_a_job_from_before_there_were_kinds_is_to_train() -> None:
    row = row_of(make_job())
    spec = json.loads(row["spec"])
    del spec["kind"], spec["pictures"]
    job = job_of(cast(Any, SimpleNamespace(**row | {"spec": json.dumps(spec)})))
    assert (job.spec.kind, job.spec.pictures, pack_job(job).kind) == (JobKind.TRAIN, None, JOB_KIND_TRAIN)


def test_what_a_job_that_trains_nothing_brought_is_stored_and_read_again() -> None:
    evaluation = Evaluation("classification", 20, {"accuracy": 0.5}, ("零件",))
    predictions = Predictions("ab" * 32, 77, 3, {"零件": 3})
    result = JobResult("done", verdict="v", evaluation=evaluation, predictions=predictions)
    assert read_result(pack_result(result).SerializeToString()) == result
    spec = replace(make_job().spec, kind=JobKind.EVALUATE, pictures=PictureSelection.LABELLED)
    assert load_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    "strange",
    [
        {"state": 99},
        {"state": 0},
        {"trainer": "somewhere"},
        {"create_time": 2**62},
        {"end_time": -(2**62)},
        {"result": b"\xff\xff"},
        {"failure": b"\xff\xff"},
        {"progress": b"\xff\xff"},
        {"finished": b"\xff\xff"},
        {"placement": b"\xff\xff"},
        {"spec": "not json"},
        {"spec": "[]"},
        {"spec": "{}"},
        {"spec": '{"of_a_newer_version": 1}'},
    ],
)
def test_a_row_that_another_version_wrote_is_data_loss_of_that_job(strange: dict[str, Any]) -> None:
    """Whatever is strange about it: one error, with the job's name."""
    job = make_job(trainer=NORTH_A)
    with pytest.raises(DataLoss, match=f"{job.name} cannot be read from the database"):
        job_of(cast(Any, SimpleNamespace(**row_of(job) | strange)))


def test_a_result_from_before_there_were_objectives_is_about_an_accuracy() -> None:
    """It was stored with what was asked for as a number, and is told by an objective."""
    stored = training_job_pb2.JobResult(metrics={"validation_accuracy": 0.98, "target_accuracy": 0.97})
    metrics = read_result(stored.SerializeToString()).metrics
    assert metrics is not None
    assert (metrics.objective, metrics.validation_score) == (Objective("accuracy", 0.97), 0.98)
    told = pack_result(JobResult(metrics=metrics)).metrics
    assert (told.objective.at_least, told.validation_score) == (0.97, 0.98)
