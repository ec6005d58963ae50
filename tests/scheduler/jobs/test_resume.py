"""Resuming a job that is over: where it goes on, what stays, and who is told that it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from loupe.errors import (
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
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import FakeAttempt, FakeStorage, eventually
from tests.scheduler.jobs.test_rerun import EPOCHS, MANIFEST, SIZE, parameters

WEIGHTS = """
[parameters.weights]
type = "file"
"""


def misses(attempt: FakeAttempt) -> None:
    attempt.started()
    attempt.finish("budget", 0.9)


@pytest.fixture
async def old(rig: Rig) -> TrainingJob:
    """A job that missed its target and has a checkpoint."""
    version = FakeStorage.algorithm("three", "1", MANIFEST.format(name="three") + EPOCHS + SIZE + WEIGHTS)
    rig.storage.algorithms[version.name] = version
    screws = FakeStorage.version("screws", 3)
    rig.storage.versions[screws.name] = screws
    await rig.add_trainer(misses)
    await rig.start_scheduler()
    job = await rig.submit(
        job_id="old",
        algorithm_version=version.name,
        parameters=parameters(size=128, weights="ab" * 32),
        seed=5,
        priority=3,
        max_epochs=8,
        max_duration={"seconds": 600},
        labels={"line": "7"},
        note="the first",
    )
    assert states(await rig.to_end(job.name))[-1] == "TARGET_MISSED"
    rig.storage.checkpoints[job.name] = job.name
    return job


async def resume(rig: Rig, name: str, *paths: str, **fields: Any) -> TrainingJob:
    own = {each: fields.pop(each) for each in ("job_id", "request_id") if each in fields}
    request = rpc.ResumeTrainingJobRequest(
        name=name, training_job=TrainingJob(**fields), update_mask=FieldMask(paths=paths), **own
    )
    return (await rig.jobs.ResumeTrainingJob(request, timeout=10)).training_job


async def count(rig: Rig) -> int:
    request = rpc.ListTrainingJobsRequest(parent="projects/line-7")
    return len((await rig.jobs.ListTrainingJobs(request, timeout=10)).training_jobs)


async def test_a_job_goes_on_from_the_checkpoint_of_the_old_one(rig: Rig, old: TrainingJob) -> None:
    """It has the checkpoint before its trainer is told; epochs have no bound any more, the note stays behind."""
    [trainer] = rig.trainers
    begun: list[Mapping[str, str]] = []

    def script(attempt: FakeAttempt) -> None:
        begun.append(dict(rig.storage.checkpoints))
        misses(attempt)

    trainer.script = script
    new = await resume(rig, old.name, job_id="new")
    assert (new.resume_of, new.rerun_of, new.note, dict(new.labels)) == (old.name, "", "", {"line": "7"})
    assert (new.max_epochs, new.max_duration.seconds, new.seed, new.priority) == (0, 600, 5, 3)
    assert (new.dataset_version, new.parameters, new.objective) == (old.dataset_version, old.parameters, old.objective)
    assert states(await rig.to_end(new.name))[-1] == "TARGET_MISSED"
    assert begun == [{old.name: old.name, new.name: old.name}]
    third = await resume(rig, new.name)
    assert third.resume_of == new.name
    await rig.stop_scheduler()
    await rig.start_scheduler()
    assert (await rig.get(new.name)).resume_of == old.name


async def test_another_target_budget_and_parameter_by_their_names(rig: Rig, old: TrainingJob) -> None:
    new = await resume(
        rig,
        old.name,
        parameters=parameters(epochs=40),
        objective={"at_least": 0.8},
        max_epochs=20,
        max_duration={"seconds": 60},
        note="longer",
    )
    assert dict(new.parameters) == {"epochs": 40, "size": 128, "weights": "ab" * 32}
    assert (new.objective.at_least, new.max_epochs, new.max_duration.seconds, new.note) == (0.8, 20, 60, "longer")
    assert dict((await resume(rig, old.name, "parameters.size")).parameters)["size"] == 64


@pytest.mark.parametrize(
    ("paths", "fields", "error", "words"),
    [
        (("dataset_version",), {}, InvalidArgument, "dataset_version.*what a checkpoint was trained with stays"),
        ((), {"algorithm_version": "algorithms/three/versions/1"}, InvalidArgument, "algorithm_version"),
        ((), {"seed": 6}, InvalidArgument, "`loupe job rerun` begins anew"),
        ((), {"base_model": "projects/line-7/models/m/versions/1"}, InvalidArgument, "base_model"),
        (("parameters",), {}, InvalidArgument, "update_mask is 'parameters'"),
        (("resume_of",), {}, InvalidArgument, "resume_of"),
        ((), {"objective": {"metric": "lowest_recall", "at_least": 0.8}}, InvalidArgument, "'accuracy', by which"),
        ((), {"parameters": parameters(weights="cd" * 32)}, InvalidArgument, "the file that .*old began with"),
        (("parameters.weights",), {}, InvalidArgument, "parameters.weights"),
        ((), {"parameters": parameters(sizes=3)}, BadParameter, "did you mean 'size'"),
    ],
)
async def test_what_a_checkpoint_was_trained_with_stays(
    rig: Rig, old: TrainingJob, *, paths: tuple[str, ...], fields: dict[str, Any], error: type[LoupeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await resume(rig, old.name, *paths, **fields)
    assert await count(rig) == 1


async def test_without_a_checkpoint_there_is_nothing_to_go_on_from(rig: Rig, old: TrainingJob) -> None:
    """The sentence says what there is to do instead; a job that is not there has none either."""
    rig.storage.checkpoints.clear()
    with pytest.raises(FailedPrecondition, match=r"has no checkpoint.*`loupe job rerun .*old` begins anew"):
        await resume(rig, old.name)
    with pytest.raises(NotFound):
        await resume(rig, "projects/line-7/jobs/none")
    assert await count(rig) == 1


async def test_a_checkpoint_that_is_gone_before_the_job_begins_ends_it(rig: Rig, old: TrainingJob) -> None:
    rig.trainers[0].cpu_use = 1.0
    await eventually(lambda: rig.app._fleet.clusters()[0].load > 0.9)
    new = await resume(rig, old.name)
    rig.storage.checkpoints.clear()
    rig.trainers[0].cpu_use = 0.1
    assert states(await rig.to_end(new.name))[-1] == "FAILED"
    assert (await rig.get(new.name)).failure.reason == "FAILED_PRECONDITION"


async def test_a_job_that_is_at_work_or_done_is_not_resumed(rig: Rig, old: TrainingJob) -> None:
    rig.trainers[0].script = FakeAttempt.started
    running = await rig.submit()
    await rig.until(running.name, "RUNNING")
    with pytest.raises(FailedPrecondition, match=r"is RUNNING; it can be resumed when it is over.*job cancel"):
        await resume(rig, running.name)
    await rig.cancel(running.name)
    rig.trainers[0].script = FakeAttempt.run_to_end
    done = await rig.submit()
    assert states(await rig.to_end(done.name))[-1] == "SUCCEEDED"
    rig.storage.checkpoints[done.name] = done.name
    with pytest.raises(FailedPrecondition, match="has reached its target"):
        await resume(rig, done.name)


async def test_the_same_request_resumes_once(rig: Rig, old: TrainingJob) -> None:
    first = await resume(rig, old.name, request_id="r", note="a")
    rig.storage.checkpoints.clear()
    assert (await resume(rig, old.name, request_id="r", note="a")).uid == first.uid
    with pytest.raises(RequestIdReused):
        await resume(rig, old.name, request_id="r", note="b")


async def test_who_may_not_submit_may_not_resume(rig: Rig, old: TrainingJob) -> None:
    await rig.stop_scheduler()
    rig.auth.denied.add("jobs.submit")
    await rig.start_scheduler()
    with pytest.raises(PermissionDenied, match=r"jobs\.submit"):
        await resume(rig, old.name)
