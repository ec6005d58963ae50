"""Running a job again: what stays, what changes, and that it is checked as a submission is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from loupe.errors import (
    AlreadyExists,
    BadParameter,
    FailedPrecondition,
    InvalidArgument,
    LoupeError,
    NotFound,
    PermissionDenied,
    RequestIdReused,
)
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from tests.scheduler.conftest import Rig
from tests.scheduler.fakes import FakeStorage

DATASETS = "projects/line-7/datasets"
MANIFEST = """
name = "{name}"
version = "1"
task = "classification"
entry = "main:train"
licence = "MIT"
summary = "An example."
"""
SIZE = """
[parameters.size]
type = "int"
default = 64
"""
EPOCHS = """
[parameters.epochs]
type = "int"
default = 7
"""
DEPTH = """
[parameters.depth]
type = "string"
default = "full"
"""


def parameters(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


@pytest.fixture
async def old(rig: Rig) -> TrainingJob:
    """A job of an algorithm with the parameters epochs, size and depth."""
    for name, declared in (("three", EPOCHS + SIZE + DEPTH), ("two", EPOCHS.replace("7", "9") + SIZE)):
        version = FakeStorage.algorithm(name, "1", MANIFEST.format(name=name) + declared)
        rig.storage.algorithms[version.name] = rig.storage.algorithms[f"algorithms/{name}/versions/latest"] = version
    screws = FakeStorage.version("screws", 3)
    rig.storage.versions[screws.name] = screws
    await rig.start_scheduler()
    return await rig.submit(
        algorithm_version="algorithms/three/versions/latest",
        parameters=parameters(size=128),
        seed=5,
        priority=3,
        max_epochs=8,
        model="projects/line-7/models/best",
        allow_small_validation=True,
        labels={"line": "7"},
        note="the first",
    )


async def rerun(rig: Rig, name: str, *paths: str, **fields: Any) -> TrainingJob:
    own = {each: fields.pop(each) for each in ("job_id", "request_id") if each in fields}
    request = rpc.RerunTrainingJobRequest(
        name=name, training_job=TrainingJob(**fields), update_mask=FieldMask(paths=paths), **own
    )
    return (await rig.jobs.RerunTrainingJob(request, timeout=10)).training_job


def asked(job: TrainingJob) -> Mapping[str, Any]:
    """Return what was asked for in a job."""
    own = {"name", "uid", "create_time", "rerun_of", "note", "state", "state_message"}
    return {field.name: value for field, value in job.ListFields() if field.name not in own}


async def test_without_changes_everything_is_the_same_but_the_note(rig: Rig, old: TrainingJob) -> None:
    """Also where there are newer versions by now, after the old job has ended, and for a rerun of the rerun."""
    newer = FakeStorage.version("screws", 4)
    rig.storage.versions[f"{DATASETS}/screws/versions/latest"] = rig.storage.versions[newer.name] = newer
    del rig.storage.algorithms["algorithms/three/versions/latest"]
    await rig.cancel(old.name)
    again = await rerun(rig, old.name)
    assert asked(again) == asked(old) and again.dataset_version.endswith("/3")
    assert (again.rerun_of, again.note, old.rerun_of) == (old.name, "", "")
    assert again.name != old.name and again.state == 1
    third = await rerun(rig, again.name)
    assert (third.rerun_of, asked(third)) == (again.name, asked(old))
    await rig.stop_scheduler()
    await rig.start_scheduler()
    assert (await rig.get(again.name)).rerun_of == old.name


async def test_what_the_mask_names_changes(rig: Rig, old: TrainingJob) -> None:
    """Parameters one by one; a field that is named and not given gets its default."""
    again = await rerun(
        rig, old.name, "parameters.epochs", "seed", "note", parameters=parameters(epochs=2, size=1), note="n"
    )
    assert dict(again.parameters) == {"epochs": 2, "size": 128, "depth": "full"}
    assert (again.seed, again.note, again.priority) == (0, "n", 3)
    assert dict((await rerun(rig, old.name, "parameters.size")).parameters)["size"] == 64
    whole = await rerun(rig, old.name, "parameters", parameters=parameters(epochs=2))
    assert dict(whole.parameters) == {"epochs": 2, "size": 64, "depth": "full"}
    other = await rerun(
        rig, old.name, "max_duration", "labels", "objective", labels={"a": "b"}, objective={"at_least": 0.5}
    )
    assert (dict(other.labels), other.objective.at_least, other.max_duration.seconds) == ({"a": "b"}, 0.5, 4 * 3600)


async def test_without_a_mask_what_is_given_changes(rig: Rig, old: TrainingJob) -> None:
    again = await rerun(rig, old.name, parameters=parameters(epochs=2), seed=6)
    assert dict(again.parameters) == {"epochs": 2, "size": 128, "depth": "full"} and again.seed == 6
    assert again.max_epochs == 8 and again.labels == old.labels


async def test_another_algorithm_gets_the_parameters_that_were_chosen(rig: Rig, old: TrainingJob) -> None:
    """What was at the old one's default is at the new one's; what it does not have is named."""
    two = "algorithms/two/versions/latest"
    again = await rerun(rig, old.name, algorithm_version=two)
    assert again.algorithm_version == "algorithms/two/versions/1"
    assert dict(again.parameters) == {"epochs": 9, "size": 128}
    kept = await rerun(rig, old.name, algorithm_version=two, parameters=parameters(epochs=7))
    assert dict(kept.parameters) == {"epochs": 7, "size": 128}
    chosen = await rerun(rig, old.name, parameters=parameters(depth="head"))
    with pytest.raises(BadParameter, match="'depth': two has no such parameter") as caught:
        await rerun(rig, chosen.name, algorithm_version=two)
    assert caught.value.parameter == "depth"
    without = await rerun(rig, chosen.name, "algorithm_version", "parameters.depth", algorithm_version=two)
    assert dict(without.parameters) == {"epochs": 9, "size": 128}


@pytest.mark.parametrize(
    ("paths", "fields", "error", "words"),
    [
        (("state",), {}, InvalidArgument, "update_mask is 'state'; expected"),
        (("rerun_of",), {}, InvalidArgument, "update_mask is 'rerun_of'"),
        (("parameters.",), {}, InvalidArgument, "update_mask is 'parameters.'"),
        (("labels.line",), {}, InvalidArgument, "update_mask is 'labels.line'"),
        (("nonsense",), {}, InvalidArgument, "update_mask is 'nonsense'"),
        ((), {"parameters": parameters(sizes=3)}, BadParameter, "did you mean 'size'"),
        ((), {"parameters": parameters(size="big")}, BadParameter, "a whole number"),
        ((), {"objective": {"at_least": 2}}, InvalidArgument, "objective"),
        ((), {"priority": 41}, InvalidArgument, "expected 0 to 40, the permission parameter of your group"),
        ((), {"dataset_version": "projects/other/datasets/screws/versions/1"}, NotFound, "does not exist"),
        ((), {"dataset_version": f"{DATASETS}/nothing/versions/1"}, NotFound, "does not exist"),
        ((), {"algorithm_version": "algorithms/unknown/versions/latest"}, NotFound, "does not exist"),
        ((), {"model": "projects/other/models/m"}, InvalidArgument, "same project"),
        ((), {"labels": {"Line": "7"}}, InvalidArgument, "training_job.labels"),
        ((), {"note": "a\nb"}, InvalidArgument, "training_job.note"),
        ((), {"job_id": "Nope"}, InvalidArgument, "job_id"),
    ],
)
async def test_a_bad_change_is_refused_as_in_a_submission(
    rig: Rig, old: TrainingJob, *, paths: tuple[str, ...], fields: dict[str, Any], error: type[LoupeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await rerun(rig, old.name, *paths, **fields)
    assert (
        len((await rig.jobs.ListTrainingJobs(rpc.ListTrainingJobsRequest(parent="projects/line-7"))).training_jobs) == 1
    )


async def test_versions_that_are_no_longer_the_same_are_told(rig: Rig, old: TrainingJob) -> None:
    """A repeated job is of the very same bytes, or of a version that somebody chose."""
    rig.storage.algorithms["algorithms/three/versions/1"].digest = "ef" * 32
    with pytest.raises(FailedPrecondition, match=r"algorithms/three/versions/1 is not what .* was trained with"):
        await rerun(rig, old.name)
    assert (await rerun(rig, old.name, algorithm_version="algorithms/two/versions/1")).rerun_of == old.name


async def test_the_same_request_is_the_same_rerun(rig: Rig, old: TrainingJob) -> None:
    first = await rerun(rig, old.name, request_id="r", seed=1)
    rig.storage.versions.clear()
    assert (await rerun(rig, old.name, request_id="r", seed=1)).uid == first.uid
    with pytest.raises(RequestIdReused):
        await rerun(rig, old.name, request_id="r", seed=2)


async def test_a_chosen_id_and_a_name_that_is_not_there(rig: Rig, old: TrainingJob) -> None:
    assert (await rerun(rig, old.name, job_id="mine")).name == "projects/line-7/jobs/mine"
    with pytest.raises(AlreadyExists):
        await rerun(rig, old.name, job_id="mine")
    for name, error in (
        ("projects/line-7/jobs/nothing", NotFound),
        ("projects/other/jobs/j", NotFound),
        ("j", LoupeError),
    ):
        with pytest.raises(error):
            await rerun(rig, name)


async def test_an_inherited_priority_is_bound_by_the_callers_group(rig: Rig, old: TrainingJob) -> None:
    """Whoever reruns is the submitter, with what their own group allows."""
    await rig.stop_scheduler()
    rig.auth.parameter = 2
    await rig.start_scheduler()
    with pytest.raises(InvalidArgument, match="priority is 3; expected 0 to 2"):
        await rerun(rig, old.name)
    assert (await rerun(rig, old.name, "priority", priority=2)).submitter == "accounts/anna"


async def test_who_may_not_submit_may_not_rerun(rig: Rig, old: TrainingJob) -> None:
    await rig.stop_scheduler()
    rig.auth.denied.add("jobs.submit")
    await rig.start_scheduler()
    with pytest.raises(PermissionDenied, match=r"jobs\.submit"):
        await rerun(rig, old.name)
    assert (await rig.get(old.name)).uid == old.uid
