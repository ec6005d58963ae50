"""Jobs that train nothing: what the trainer is told, how they end, and what cannot be asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from loupe.common.v1.objective_pb2 import Objective
from loupe.errors import FailedPrecondition, InvalidArgument, LoupeError, NotFound, PermissionDenied
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from loupe.storage.v1.dataset_pb2 import DatasetVersion, LabelCount
from loupe.storage.v1.model_pb2 import ModelFile, ModelLineage, ModelVersion
from loupe.trainer.v1.attempt_pb2 import Artifact, AttemptFinished
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, FakeStorage

SCREWS = "projects/line-7/models/screws/versions/2"
DATASETS = "projects/line-7/datasets"
MANIFEST = """
name = "inference"
version = "1.0.0"
kinds = ["evaluate", "predict"]
entry = "main:answer"
licence = "Apache-2.0"
summary = "Answers."

[parameters.model_onnx]
type = "file"
required = true

[parameters.golden_npz]
type = "file"
"""
ACROSS = {"accuracy": 0.75, "balanced_accuracy": 0.5, "lowest_recall": 0.0}


def figures(**more: Any) -> dict[str, Any]:
    return {"pictures": 20, **ACROSS, **more}


def report(**more: Any) -> str:
    return json.dumps({"labels": ["good", "scratch", "rust"], "evaluation": figures(), **more})


@pytest.fixture
async def mesh(rig: Rig) -> Rig:
    """A mesh with a classifier of two classes, and the image that answers with models."""
    image = FakeStorage.algorithm("inference", "1.0.0", MANIFEST)
    rig.storage.algorithms[image.name] = rig.storage.algorithms["algorithms/inference/versions/latest"] = image
    model = ModelVersion(
        name=SCREWS,
        labels=["good", "scratch"],
        files=[ModelFile(filename="model.onnx", digest="aa" * 32), ModelFile(filename="model.json", digest="bb" * 32)],
        lineage=ModelLineage(
            algorithm_version="algorithms/finetune/versions/1.2.0", parameters_json=json.dumps({"good": "ok"})
        ),
    )
    rig.storage.models[SCREWS] = rig.storage.models["projects/line-7/models/screws/versions/latest"] = model
    labels = [LabelCount(label=name, train_count=30, test_count=10) for name in ("good", "rust")]
    rig.storage.versions[f"{DATASETS}/screws/versions/latest"] = DatasetVersion(
        name=f"{DATASETS}/screws/versions/3", digest="cd" * 32, labels=labels, picture_count=90
    )
    rig.storage.versions[f"{DATASETS}/screws/versions/3"] = rig.storage.versions[f"{DATASETS}/screws/versions/latest"]
    await rig.start_scheduler()
    return rig


async def ask(mesh: Rig, kind: str = "EVALUATE", **fields: Any) -> TrainingJob:
    given = {"objective": None, "base_model": "projects/line-7/models/screws/versions/latest", **fields}
    return await mesh.submit(kind=f"JOB_KIND_{kind}", **given)


async def test_an_evaluation_runs_like_any_job_and_ends_with_figures(mesh: Rig) -> None:
    """The trainer is told the model's classes; the job succeeds whatever the figures are, and makes no model."""
    told: list[Any] = []

    def answer(attempt: FakeAttempt) -> None:
        told.append(attempt.spec)
        attempt.started()
        attempt.end_with(AttemptFinished(outcome="done", report_json=report(unknown_labels=["rust"])))

    await mesh.add_trainer(answer)
    job = await ask(mesh)
    assert (job.base_model, job.model, job.HasField("objective")) == (SCREWS, "", False)
    assert (TrainingJob.DESCRIPTOR.fields_by_name["pictures"].enum_type.values_by_number[job.pictures].name) == (
        "PICTURE_SELECTION_TEST"
    )
    events = await mesh.to_end(job.name)
    assert states(events) == ["QUEUED", "DISPATCHING", "RUNNING", "PUBLISHING", "SUCCEEDED"]
    assert any(event.state_change.message.startswith("evaluation has started on") for event in events)
    result = (await mesh.get(job.name)).result
    assert dict(result.evaluation.figures) == ACROSS and list(result.evaluation.unknown_labels) == ["rust"]
    assert (result.outcome, result.model_version, result.HasField("metrics")) == ("done", "", False)
    assert result.verdict.startswith("On 20 test pictures of projects/line-7/datasets/screws/versions/3: accuracy 75")
    assert "The model does not know rust" in result.verdict
    assert mesh.storage.publish_calls == 0
    (spec,) = told
    assert (spec.model.task, list(spec.model.labels), dict(spec.model.parameters)) == (
        "classification",
        ["good", "scratch"],
        {"good": "ok"},
    )
    assert spec.parameters["model_onnx"] == "aa" * 32 and not spec.HasField("objective")


async def test_a_prediction_ends_with_a_file(mesh: Rig) -> None:
    file = Artifact(filename="predictions.jsonl", digest="ee" * 32, size=77)
    body = json.dumps({"labels": ["good"], "predictions": {"pictures": 10, "counts": {"good": 3, "scratch": 7}}})

    def answer(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.end_with(AttemptFinished(outcome="done", artifacts=[file], report_json=body))

    await mesh.add_trainer(answer)
    job = await ask(mesh, "PREDICT")
    await mesh.to_end(job.name)
    result = (await mesh.get(job.name)).result
    assert (result.predictions.digest, result.predictions.size, result.predictions.picture_count) == ("ee" * 32, 77, 10)
    assert dict(result.predictions.counts) == {"good": 3, "scratch": 7}
    assert "10 unlabelled pictures" in result.verdict and "7 scratch, 3 good" in result.verdict


@pytest.mark.parametrize(
    "ending",
    [
        AttemptFinished(outcome="stopped", report_json="{}"),
        AttemptFinished(outcome="done", report_json="{}"),
        AttemptFinished(outcome="done", report_json=report(evaluation=figures(accuracy=1.5))),
    ],
)
async def test_a_report_without_figures_fails_the_job(mesh: Rig, ending: AttemptFinished) -> None:
    def answer(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.end_with(ending)

    await mesh.add_trainer(answer)
    job = await ask(mesh)
    assert states(await mesh.to_end(job.name))[-1] == "FAILED"
    assert (await mesh.get(job.name)).failure.reason == "ALGORITHM_FAILED"


async def test_a_trainer_that_dies_is_followed_by_another_attempt(mesh: Rig) -> None:
    def answer(attempt: FakeAttempt) -> None:
        attempt.started()
        if attempt.spec.key.attempt == 1:
            attempt.fail(retryable=True, reason="UNAVAILABLE", message="the trainer was shut down")
        else:
            attempt.end_with(AttemptFinished(outcome="done", report_json=report()))

    await mesh.add_trainer(answer)
    job = await ask(mesh)
    assert states(await mesh.to_end(job.name))[-1] == "SUCCEEDED"
    assert (await mesh.get(job.name)).attempt == 2


async def test_a_model_that_is_gone_when_the_job_is_dispatched_fails_it(mesh: Rig) -> None:
    job = await ask(mesh)
    del mesh.storage.models[SCREWS]
    await mesh.add_trainer()
    assert states(await mesh.to_end(job.name)) == ["QUEUED", "DISPATCHING", "FAILED"]
    assert (await mesh.get(job.name)).failure.reason == "NOT_FOUND"


async def test_a_rerun_is_of_the_same_kind_and_takes_the_files_of_the_model_that_it_names(mesh: Rig) -> None:
    other = ModelVersion()
    other.CopyFrom(mesh.storage.models[SCREWS])
    other.name, other.files[0].digest = "projects/line-7/models/nuts/versions/1", "dd" * 32
    mesh.storage.models[other.name] = other
    job = await ask(mesh, pictures="PICTURE_SELECTION_TRAIN")
    request = rpc.RerunTrainingJobRequest(
        name=job.name, training_job=TrainingJob(base_model=other.name), update_mask=FieldMask(paths=["base_model"])
    )
    again = (await mesh.jobs.RerunTrainingJob(request, timeout=10)).training_job
    assert (again.kind, again.pictures, again.rerun_of) == (job.kind, job.pictures, job.name)
    assert (again.base_model, again.parameters["model_onnx"]) == (other.name, "dd" * 32)


async def test_it_takes_reading_the_model_too(mesh: Rig) -> None:
    mesh.auth.denied = {"models.read"}
    with pytest.raises(PermissionDenied, match=r"models\.read"):
        await ask(mesh)


@pytest.mark.parametrize(("maker", "trusted"), [("finetune", True), ("plain", False)])
async def test_a_model_that_a_strangers_image_made_takes_a_sandbox(mesh: Rig, maker: str, trusted: bool) -> None:
    """A graph is a program: a trainer without a sandbox takes none but those of built-in images."""
    told: list[bool] = []
    mesh.storage.models[SCREWS].lineage.algorithm_version = f"algorithms/{maker}/versions/1"
    await mesh.add_trainer(lambda attempt: told.append(attempt.spec.built_in))
    job = await ask(mesh)
    await mesh.until(job.name, "RUNNING")
    assert told == [trusted]


def parameters(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"base_model": ""}, InvalidArgument, "the model version that is to evaluate"),
        ({"base_model": "projects/line-7/models/none/versions/1"}, NotFound, "does not exist"),
        ({"objective": Objective(at_least=0.9)}, InvalidArgument, r"training_job\.objective"),
        ({"model": "projects/line-7/models/x"}, InvalidArgument, r"training_job\.model"),
        ({"max_epochs": 3}, InvalidArgument, r"training_job\.max_epochs"),
        ({"pictures": "PICTURE_SELECTION_ALL"}, InvalidArgument, "one of test, validation, train, labelled"),
        ({"pictures": "PICTURE_SELECTION_VALIDATION"}, FailedPrecondition, "has no validation pictures"),
        ({"kind": 9}, InvalidArgument, r"training_job\.kind"),
        ({"parameters": parameters(model_onnx="11" * 32)}, InvalidArgument, "the model's own file"),
        ({"algorithm_version": "algorithms/finetune/versions/1.2.0"}, InvalidArgument, "an image that can evaluate"),
        (
            {"dataset_version": f"{DATASETS}/nuts/versions/1"},
            FailedPrecondition,
            "it has bolt; known are good, scratch",
        ),
        (
            {"dataset_version": f"{DATASETS}/full/versions/1", "kind": 3},
            FailedPrecondition,
            "has no unlabelled pictures",
        ),
        ({"base_model": "projects/line-7/models/bare/versions/1"}, FailedPrecondition, r"has no model\.onnx"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_a_reason(
    mesh: Rig, fields: dict[str, Any], error: type[LoupeError], words: str
) -> None:
    for name, label, pictures in (("nuts", "bolt", 9), ("full", "good", 4)):
        mesh.storage.versions[f"{DATASETS}/{name}/versions/1"] = DatasetVersion(
            name=f"{DATASETS}/{name}/versions/1",
            labels=[LabelCount(label=label, test_count=4)],
            picture_count=pictures,
        )
    bare = ModelVersion()
    bare.CopyFrom(mesh.storage.models[SCREWS])
    bare.name = "projects/line-7/models/bare/versions/1"
    bare.ClearField("files")
    mesh.storage.models[bare.name] = bare
    kind = fields.pop("kind", 2)
    given = {"objective": None, "base_model": SCREWS, "kind": kind, **fields}
    with pytest.raises(error, match=words):
        await mesh.submit(**given)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pictures": "PICTURE_SELECTION_TEST"}, r"training_job\.pictures"),
        ({"algorithm_version": "algorithms/inference/versions/1.0.0"}, "an image that can train"),
    ],
)
async def test_training_takes_no_picture_selection_and_no_image_that_trains_nothing(
    mesh: Rig, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await mesh.submit(**fields)
