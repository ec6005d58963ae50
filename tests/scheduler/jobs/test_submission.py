"""Submitting over gRPC: what is resolved, what is refused, and that the same request is the same job."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from loupe.errors import (
    AlreadyExists,
    BadDataset,
    BadPageToken,
    BadParameter,
    InvalidArgument,
    LoupeError,
    NotFound,
    RequestIdReused,
    Unavailable,
)
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.storage.v1.dataset_pb2 import SPLIT_UNIT_CLASS
from services.scheduler.jobs.submission import job_id
from tests.scheduler.conftest import Rig
from tests.scheduler.fakes import FakeStorage
from tests.scheduler.samples import NOW

DATASETS = "projects/line-7/datasets"


async def test_everything_is_resolved_at_submission(rig: Rig) -> None:
    """Versions, parameters and defaults stand in the answer; the job waits, durably."""
    await rig.start_scheduler()
    job = await rig.submit()
    assert job.dataset_version == f"{DATASETS}/screws/versions/3"
    assert job.algorithm_version == "algorithms/finetune/versions/1.2.0"
    assert dict(job.parameters) == {"epochs": 30}
    assert job.model == "projects/line-7/models/screws"
    assert job.max_duration.seconds == 4 * 3600 and job.submitter == "accounts/anna"
    assert job.state == 1 and job.attempt == 0
    await rig.stop_scheduler()
    await rig.start_scheduler()
    assert (await rig.get(job.name)).uid == job.uid


def _parameters(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"objective": {"at_least": 1.2}}, InvalidArgument, "above 0 and at most 1"),
        ({"objective": {"at_least": 0.0}}, InvalidArgument, "above 0 and at most 1"),
        ({"objective": {"at_least": float("nan")}}, InvalidArgument, "above 0 and at most 1"),
        (
            {"objective": {"metric": "f1", "at_least": 0.9}},
            InvalidArgument,
            r"is 'f1'; expected accuracy, balanced_accuracy, lowest_recall or recall\[CLASS\]",
        ),
        ({"objective": {"metric": "accuracy"}}, InvalidArgument, "at_least or at_most"),
        ({"objective": {"at_most": 0.9}}, InvalidArgument, "expected at_least, since greater values"),
        (
            {"objective": {"metric": "recall[scratsh]", "at_least": 0.9}},
            InvalidArgument,
            "expected a class that has validation pictures, for example scratch",
        ),
        ({"objective": {"metric": "recall[ x]", "at_least": 0.9}}, InvalidArgument, "begins or ends with a space"),
        ({"objective": {"metric": "accuracy[good]", "at_least": 0.9}}, InvalidArgument, "expected accuracy, balanced"),
        ({"priority": 101}, InvalidArgument, "0 to 100"),
        ({"priority": 41}, InvalidArgument, "expected 0 to 40, the permission parameter of your group"),
        ({"max_epochs": -1}, InvalidArgument, "max_epochs"),
        ({"max_duration": timedelta(0)}, InvalidArgument, "max_duration"),
        ({"job_id": "Nope!"}, InvalidArgument, "job_id"),
        ({"dataset_version": "screws"}, InvalidArgument, "dataset_version"),
        ({"dataset_version": "projects/other/datasets/screws/versions/1"}, NotFound, "does not exist"),
        ({"dataset_version": f"{DATASETS}/nothing/versions/1"}, NotFound, "does not exist"),
        ({"model": "projects/other/models/screws"}, InvalidArgument, "same project"),
        ({"algorithm_version": "algorithms/unknown/versions/latest"}, NotFound, "does not exist"),
        ({"parameters": _parameters(epochs=0)}, BadParameter, "from 1 to 1000"),
        ({"parameters": _parameters(epoch=3)}, BadParameter, "did you mean 'epochs'"),
    ],
)
async def test_bad_orders_are_refused_clearly(
    rig: Rig, fields: dict[str, Any], error: type[LoupeError], words: str
) -> None:
    """What is wrong, where, and what would be right; no job comes of it."""
    await rig.start_scheduler()
    with pytest.raises(error, match=words):
        await rig.submit(**fields)
    assert not (await rig.jobs.ListTrainingJobs(rpc.ListTrainingJobsRequest(parent="projects/line-7"))).training_jobs


@pytest.mark.parametrize(
    ("asked", "metric"), [("", "accuracy"), ("lowest_recall", "lowest_recall"), ("recall[good]", "recall[good]")]
)
async def test_the_target_metric_is_accuracy_unless_another_is_asked_for(rig: Rig, asked: str, metric: str) -> None:
    """It stands in the answer, and after a restart."""
    await rig.start_scheduler()
    job = await rig.submit(objective={"metric": asked, "at_least": 0.9})
    assert (job.objective.metric, job.objective.at_least) == (metric, 0.9)
    await rig.stop_scheduler()
    await rig.start_scheduler()
    assert (await rig.get(job.name)).objective.metric == metric


async def test_too_few_validation_pictures_are_told_of_before_anything_is_trained(rig: Rig) -> None:
    """The job waits all the same; who asked for a release all the same hears nothing."""
    name = f"{DATASETS}/few/versions/1"
    rig.storage.versions[name] = FakeStorage.version("few", 1, ("good", 30, 1), ("scratch", 30, 1))
    await rig.start_scheduler()
    said = "its model will not be released: a target of 95.00 % needs at least 22 validation pictures, and there are 2"
    assert said in (await rig.submit(dataset_version=name)).state_message
    waived = await rig.submit(dataset_version=name, allow_small_validation=True)
    assert waived.allow_small_validation and "released" not in waived.state_message


async def test_a_foreign_data_set_is_not_told_from_one_that_does_not_exist(rig: Rig) -> None:
    """The same words for both, apart from the name, though storage would tell the scheduler."""
    rig.storage.versions["projects/other/datasets/secret/versions/1"] = FakeStorage.version("secret", 1)
    await rig.start_scheduler()
    messages = []
    for project in ("other", "line-7"):
        with pytest.raises(NotFound) as caught:
            await rig.submit(dataset_version=f"projects/{project}/datasets/secret/versions/1")
        messages.append(caught.value.message.replace(project, "P"))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([("scratch", 30, 10)], "one_class"),
        ([("scratch", 30, 10), ("good", 0, 10)], "one_class"),
        ([("scratch", 0, 10), ("good", 0, 10)], "no_training_pictures"),
        ([("scratch", 30, 0), ("good", 30, 0)], "no_validation_pictures"),
    ],
)
async def test_data_that_cannot_be_trained_on_is_refused(
    rig: Rig, labels: list[tuple[str, int, int]], problem: str
) -> None:
    """At least two labels to learn, and something to decide by."""
    name = f"{DATASETS}/poor/versions/1"
    rig.storage.versions[name] = FakeStorage.version("poor", 1, *labels)
    await rig.start_scheduler()
    with pytest.raises(BadDataset) as caught:
        await rig.submit(dataset_version=name)
    assert caught.value.metadata["problem"] == problem


async def test_a_version_that_is_split_by_class_is_refused(rig: Rig) -> None:
    """It is said what it is for, whichever task is asked for or chosen."""
    name = f"{DATASETS}/letters/versions/1"
    version = FakeStorage.version("letters", 1, ("a", 20, 0), ("b", 20, 0), ("c", 0, 20))
    version.split.unit = SPLIT_UNIT_CLASS
    rig.storage.versions[name] = version
    await rig.start_scheduler()
    with pytest.raises(BadDataset, match="split by class, for few-shot tasks") as caught:
        await rig.submit(dataset_version=name)
    assert caught.value.metadata["problem"] == "split_by_class"


async def test_the_same_request_is_the_same_job(rig: Rig) -> None:
    """Also when what it refers to is gone meanwhile; another body is refused."""
    await rig.start_scheduler()
    first, second = await asyncio.gather(rig.submit(request_id="r"), rig.submit(request_id="r"))
    rig.storage.versions.clear()
    assert first.uid == second.uid == (await rig.submit(request_id="r")).uid
    with pytest.raises(RequestIdReused):
        await rig.submit(request_id="r", seed=2)


async def test_a_chosen_id_is_taken_once(rig: Rig) -> None:
    """AlreadyExists names it."""
    await rig.start_scheduler()
    assert (await rig.submit(job_id="mine")).name == "projects/line-7/jobs/mine"
    with pytest.raises(AlreadyExists, match="jobs/mine"):
        await rig.submit(job_id="mine")


async def test_without_storage_reads_go_on_and_submitting_says_why_not(rig: Rig) -> None:
    """UNAVAILABLE for what needs storage, nothing half-done."""
    await rig.start_scheduler()
    job = await rig.submit()
    await rig.storage_door.down()
    with pytest.raises(Unavailable):
        await rig.submit()
    assert (await rig.get(job.name)).uid == job.uid


async def test_lists_and_unknown_names(rig: Rig) -> None:
    """Newest first; a token of another filter is refused; unknown jobs are NotFound everywhere."""
    await rig.start_scheduler()
    jobs = [await rig.submit() for _ in range(3)]
    request = rpc.ListTrainingJobsRequest(parent="projects/line-7", page_size=2)
    page = await rig.jobs.ListTrainingJobs(request)
    assert [job.name for job in page.training_jobs] == [job.name for job in reversed(jobs)][:2]
    other = rpc.ListTrainingJobsRequest(
        parent="projects/line-7", page_token=page.next_page_token, states=["JOB_STATE_QUEUED"]
    )
    with pytest.raises(BadPageToken):
        await rig.jobs.ListTrainingJobs(other)
    for call in (rig.get, rig.cancel, rig.to_end):
        with pytest.raises(NotFound):
            await call("projects/line-7/jobs/nothing")


def test_job_ids_sort_by_time() -> None:
    """Ten letters or digits, the same length for decades."""
    ids = [job_id(NOW + timedelta(days=400 * step), 5) for step in range(20)]
    assert ids == sorted(ids) and len(set(ids)) == 20
    assert {len(each) for each in ids} == {14} and job_id(NOW, 1) != job_id(NOW, 2)


async def test_priority_goes_up_to_the_groups_parameter(rig: Rig) -> None:
    """The parameter with which this very call was let in; the default needs none."""
    await rig.start_scheduler()
    assert (await rig.submit(priority=40)).priority == 40
    assert (await rig.submit()).priority == 0
