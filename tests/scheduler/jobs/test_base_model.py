"""Training on from a model that there is: whose weights, whose parameters, and what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from loupe.errors import BadParameter, FailedPrecondition, InvalidArgument, LoupeError, NotFound
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from loupe.storage.v1.model_pb2 import ModelFile, ModelLineage, ModelMetrics, ModelVersion
from tests.scheduler.conftest import Rig
from tests.scheduler.fakes import MANIFEST, FakeStorage

MODELS = "projects/line-7/models"
SCREWS = f"{MODELS}/screws/versions/2"
WEIGHTS = "ef" * 32
FILE = """
[parameters.weights]
type = "file"
"""


def parameters(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


@pytest.fixture
async def mesh(rig: Rig) -> Rig:
    """A mesh with a model that finetune made with 12 epochs, and one version of finetune that takes weights."""
    algorithm = FakeStorage.algorithm("finetune", "1.3.0", MANIFEST.replace("1.2.0", "1.3.0") + FILE)
    rig.storage.algorithms[algorithm.name] = rig.storage.algorithms["algorithms/finetune/versions/latest"] = algorithm
    screws = ModelVersion(
        name=SCREWS,
        files=[
            ModelFile(filename="model.onnx", digest="aa" * 32),
            ModelFile(filename="model.safetensors", digest=WEIGHTS),
        ],
        lineage=ModelLineage(
            algorithm_version="algorithms/finetune/versions/1.2.0",
            parameters_json=json.dumps({"epochs": 12, "gone": 1, "weights": "11" * 32}),
        ),
    )
    rig.storage.models[SCREWS] = rig.storage.models[f"{MODELS}/screws/versions/latest"] = screws
    data = FakeStorage.version("screws", 3)
    rig.storage.versions[data.name] = data
    await rig.start_scheduler()
    return rig


async def test_training_starts_from_the_weights_and_parameters_of_the_model(mesh: Rig) -> None:
    """The version is resolved; what this version of the algorithm does not know stays behind."""
    job = await mesh.submit(base_model=f"{MODELS}/screws/versions/latest")
    assert (job.base_model, dict(job.parameters)) == (SCREWS, {"epochs": 12, "weights": WEIGHTS})
    named = await mesh.submit(base_model=SCREWS, parameters=parameters(epochs=3))
    assert dict(named.parameters) == {"epochs": 3, "weights": WEIGHTS}
    assert (await mesh.submit()).base_model == ""


async def test_a_rerun_starts_from_the_same_model_or_from_the_one_that_it_names(mesh: Rig) -> None:
    """Or from none: the weights go with their model."""
    other = ModelVersion()
    other.CopyFrom(mesh.storage.models[SCREWS])
    other.name, other.files[1].digest = f"{MODELS}/nuts/versions/1", "dd" * 32
    mesh.storage.models[other.name] = other
    job = await mesh.submit(base_model=SCREWS)

    async def rerun(*paths: str, **fields: Any) -> TrainingJob:
        request = rpc.RerunTrainingJobRequest(
            name=job.name, training_job=TrainingJob(**fields), update_mask=FieldMask(paths=paths)
        )
        return (await mesh.jobs.RerunTrainingJob(request, timeout=10)).training_job

    again = await rerun("seed", seed=3)
    assert (again.base_model, again.parameters["weights"]) == (SCREWS, WEIGHTS)
    changed = await rerun("base_model", base_model=other.name)
    assert (changed.base_model, changed.parameters["weights"]) == (other.name, "dd" * 32)
    without = await rerun("base_model")
    assert without.base_model == "" and without.parameters["weights"] is None


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"base_model": "screws"}, InvalidArgument, "training_job.base_model"),
        ({"base_model": f"{MODELS}/none/versions/1"}, NotFound, "does not exist"),
        ({"base_model": "projects/line-8/models/screws/versions/2"}, NotFound, "does not exist"),
        ({"base_model": SCREWS, "parameters": {"weights": "11" * 32}}, InvalidArgument, "where a base model is named"),
        ({"base_model": SCREWS, "algorithm_version": "algorithms/plain/versions/1"}, BadParameter, "takes no weights"),
        (
            {"base_model": f"{MODELS}/boxes/versions/1"},
            FailedPrecondition,
            "for detection, and finetune makes those for",
        ),
        ({"base_model": f"{MODELS}/bare/versions/1"}, FailedPrecondition, "has no weights to start from"),
    ],
)
async def test_what_cannot_be_started_from_is_refused_with_a_reason(
    mesh: Rig, fields: dict[str, Any], error: type[LoupeError], words: str
) -> None:
    plain = FakeStorage.algorithm("plain", "1", MANIFEST.replace("finetune", "plain"))
    mesh.storage.algorithms[plain.name] = plain
    for name, task in (("boxes", "detection"), ("bare", "")):
        mesh.storage.models[f"{MODELS}/{name}/versions/1"] = ModelVersion(
            name=f"{MODELS}/{name}/versions/1",
            lineage=ModelLineage(algorithm_version="algorithms/finetune/versions/1.3.0"),
            metrics=ModelMetrics(task=task),
        )
    if given := fields.pop("parameters", None):
        fields["parameters"] = parameters(**given)
    with pytest.raises(error, match=words):
        await mesh.submit(**fields)
