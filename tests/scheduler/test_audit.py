"""What the scheduler's audit log says of real calls; jobs that move on by themselves leave no rows."""

from __future__ import annotations

import asyncio

import pytest

from loupe.audit import AuditedCall, begin_call
from loupe.audit_log import AuditLog, AuditQuery
from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.common.v1.audit_service_pb2_grpc import AuditServiceStub
from loupe.database import create_engine, sqlite_url
from loupe.errors import AlreadyExists, BadParameter, InvalidArgument, LoupeError, NotFound
from loupe.idempotency import RequestLog
from loupe.identity import Caller
from loupe.names import AccountName, ProjectName
from services.scheduler.database.session import Database
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.transitions import cancel
from tests.scheduler.conftest import Rig
from tests.scheduler.jobs.test_store import NOBODY
from tests.scheduler.samples import NOW, make_job, placed

LINE = "projects/line-7"


async def listed(rig: Rig, parent: str = LINE) -> list[audit_pb2.AuditEntry]:
    """Return a project's rows, newest first."""
    request = rpc.ListAuditEntriesRequest(parent=parent)
    return list((await AuditServiceStub(rig.channel).ListAuditEntries(request)).entries)


async def test_submitting_and_cancelling_leave_a_row_and_driving_a_job_none(rig: Rig) -> None:
    """A job that was sent before, and one that was cancelled before, change nothing."""
    await rig.start_scheduler()
    job = await rig.submit(job_id="j1", request_id="r-1", priority=3)
    assert (await rig.submit(job_id="j1", request_id="r-1", priority=3)).name == job.name
    await rig.cancel(job.name)
    await rig.cancel(job.name)
    await rig.add_trainer()
    await rig.to_end((await rig.submit(job_id="j2")).name)
    found = await listed(rig)
    assert [(entry.caller, entry.method, entry.resource, entry.outcome) for entry in found] == [
        ("accounts/anna", "SubmitTrainingJob", LINE, "OK"),
        ("accounts/anna", "CancelTrainingJob", job.name, "OK"),
        ("accounts/anna", "SubmitTrainingJob", LINE, "OK"),
    ]
    assert found[2].request_id == "r-1" and 'job_id="j1"' in found[2].summary
    assert "training_job.priority=3" in found[2].summary


async def test_refused_jobs_leave_a_row(rig: Rig) -> None:
    """Whoever is no member is told nothing of the project's log."""
    await rig.start_scheduler()
    await rig.submit(job_id="j1")
    with pytest.raises(AlreadyExists):
        await rig.submit(job_id="j1")
    with pytest.raises((InvalidArgument, BadParameter)):
        await rig.submit(job_id="x" * 70_000)
    with pytest.raises(NotFound):
        await rig.cancel(f"{LINE}/jobs/none")
    assert [entry.outcome for entry in await listed(rig)] == ["NOT_FOUND", "INVALID_ARGUMENT", "ALREADY_EXISTS", "OK"]
    with pytest.raises(NotFound):
        await listed(rig, "projects/other")
    with pytest.raises(LoupeError):
        await listed(rig, "projects/system")


async def test_changes_that_share_a_commit_keep_their_callers_apart(tmp_path) -> None:
    """Whoever comes first starts the writer; the others' rows are still their own, and the dispatcher has none."""
    database = Database(create_engine(sqlite_url(tmp_path, "scheduler")))
    await database.migrate()
    store = JobStore(database, RequestLog())
    jobs = [await store.submit(make_job(), NOBODY) for _ in range(3)]

    async def cancelled(number: int) -> None:
        name = str(jobs[number].name)
        begin_call(AuditedCall(Caller(account=AccountName(f"a{number}")), method="CancelTrainingJob", resource=name))
        await store.commit(cancel(jobs[number], f"accounts/a{number}", NOW))

    async def dispatched() -> None:
        await store.commit(placed(jobs[2]))

    async with database.turn:  # so that they gather
        work = [asyncio.create_task(cancelled(0)), asyncio.create_task(cancelled(1))]
        work.append(asyncio.create_task(dispatched()))
        await asyncio.sleep(0.05)
    await asyncio.gather(*work)
    log = AuditLog(database, lambda session: session)
    rows, _ = await log.page(AuditQuery(ProjectName("line-7")), 10, "")
    assert {(row.caller, row.resource) for row in rows} == {
        ("accounts/a0", str(jobs[0].name)),
        ("accounts/a1", str(jobs[1].name)),
    }
    assert len(rows) == 2
    await database.close()
