"""Deleting and restoring jobs: who may, which ones, and that a deleted one looks like none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from loupe.errors import (
    AlreadyExists,
    BadPageToken,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RequestIdReused,
)
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from tests.scheduler.conftest import Rig
from tests.scheduler.jobs.test_resume import resume

LINE = "projects/line-7"


@pytest.fixture
async def ended(rig: Rig) -> AsyncIterator[TrainingJob]:
    """A job that was cancelled while it waited, with a label."""
    await rig.start_scheduler()
    job = await rig.submit(job_id="j1", labels={"line": "7"})
    yield await rig.cancel(job.name)


async def delete(rig: Rig, name: str, request_id: str = "") -> TrainingJob:
    request = rpc.DeleteTrainingJobRequest(name=name, request_id=request_id)
    return (await rig.jobs.DeleteTrainingJob(request, timeout=10)).training_job


async def undelete(rig: Rig, name: str, request_id: str = "") -> TrainingJob:
    request = rpc.UndeleteTrainingJobRequest(name=name, request_id=request_id)
    return (await rig.jobs.UndeleteTrainingJob(request, timeout=10)).training_job


async def listed(rig: Rig, **fields: Any) -> list[str]:
    request = rpc.ListTrainingJobsRequest(parent=LINE, **fields)
    found = (await rig.jobs.ListTrainingJobs(request, timeout=10)).training_jobs
    return [job.name.rpartition("/")[2] for job in found]


async def test_a_deleted_job_looks_like_none_and_comes_back_as_it_was(rig: Rig, ended: TrainingJob) -> None:
    events = await rig.to_end(ended.name)
    gone = await delete(rig, ended.name)
    assert gone.expire_time.ToSeconds() - gone.delete_time.ToSeconds() == 30 * 86400
    for call in (
        rig.get(ended.name),
        rig.cancel(ended.name),
        rig.to_end(ended.name),
        delete(rig, ended.name),
        resume(rig, ended.name),
        rig.jobs.UpdateTrainingJob(rpc.UpdateTrainingJobRequest(training_job={"name": ended.name, "note": "n"})),
        rig.jobs.RerunTrainingJob(rpc.RerunTrainingJobRequest(name=ended.name)),
        rig.jobs.ExplainPlacement(rpc.ExplainPlacementRequest(name=ended.name)),
    ):
        with pytest.raises(NotFound):
            await call
    assert await listed(rig) == await listed(rig, labels={"line": "7"}) == []
    assert await listed(rig, show_deleted=True) == await listed(rig, show_deleted=True, labels={"line": "7"}) == ["j1"]
    shown = await rig.jobs.GetTrainingJob(rpc.GetTrainingJobRequest(name=ended.name, show_deleted=True))
    assert shown.training_job == gone
    with pytest.raises(AlreadyExists):
        await rig.submit(job_id="j1")
    assert await undelete(rig, ended.name) == ended == await rig.get(ended.name)
    assert await rig.to_end(ended.name) == events
    with pytest.raises(AlreadyExists, match="j1 is not deleted"):
        await undelete(rig, ended.name)


async def test_only_what_is_over_is_deleted(rig: Rig, ended: TrainingJob) -> None:
    waits = await rig.submit()
    with pytest.raises(FailedPrecondition, match=r"is QUEUED; cancel it first, or wait for its end: `loupe job cancel"):
        await delete(rig, waits.name)
    with pytest.raises(NotFound):
        await delete(rig, f"{LINE}/jobs/none")
    with pytest.raises(NotFound):
        await undelete(rig, f"{LINE}/jobs/none")
    with pytest.raises(InvalidArgument):
        await delete(rig, "j1")


async def test_a_repeated_request_has_one_effect(rig: Rig, ended: TrainingJob) -> None:
    first = await delete(rig, ended.name, "a")
    assert await delete(rig, ended.name, "a") == first
    back = await undelete(rig, ended.name, "b")
    assert await undelete(rig, ended.name, "b") == back
    assert await delete(rig, ended.name, "a") == back, "it is told as it is, and not deleted once more"
    other = await rig.cancel((await rig.submit()).name)
    with pytest.raises(RequestIdReused):
        await delete(rig, other.name, "a")


async def test_a_page_goes_on_in_the_list_that_it_is_of(rig: Rig, ended: TrainingJob) -> None:
    second = await rig.submit(job_id="j2")
    request = rpc.ListTrainingJobsRequest(parent=LINE, page_size=1, show_deleted=True)
    page = await rig.jobs.ListTrainingJobs(request, timeout=10)
    assert page.training_jobs[0].name == second.name
    await delete(rig, ended.name)
    assert await listed(rig, show_deleted=True, page_token=page.next_page_token) == ["j1"]
    with pytest.raises(BadPageToken):
        await listed(rig, page_token=page.next_page_token)


async def test_who_may_not_delete_does_not(rig: Rig, ended: TrainingJob) -> None:
    await rig.stop_scheduler()
    rig.auth.denied.add("jobs.delete")
    await rig.start_scheduler()
    for call in (delete, undelete):
        with pytest.raises(PermissionDenied, match=r"jobs\.delete"):
            await call(rig, ended.name)
    assert (await rig.get(ended.name)).uid == ended.uid


async def test_deleting_leaves_a_row_in_the_audit_log(rig: Rig, ended: TrainingJob) -> None:
    from loupe.common.v1 import audit_service_pb2, audit_service_pb2_grpc

    await delete(rig, ended.name)
    await undelete(rig, ended.name)
    stub = audit_service_pb2_grpc.AuditServiceStub(rig.channel)
    rows = (await stub.ListAuditEntries(audit_service_pb2.ListAuditEntriesRequest(parent=LINE), timeout=10)).entries
    assert [(row.action, row.resource) for row in rows if row.action == "jobs.delete"] == [
        ("jobs.delete", ended.name)
    ] * 2
