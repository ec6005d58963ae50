"""The RPCs about training jobs: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime

from loupe import paging
from loupe.identity import current_caller
from loupe.names import JobName, ProjectName
from loupe.rpc.calls import acting_account, idempotent
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from loupe.scheduler.v1.training_job_service_pb2_grpc import TrainingJobServiceServicer
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.messages import pack_placement
from services.scheduler.clusters.placement import rank_clusters
from services.scheduler.jobs.cancellation import cancel_job
from services.scheduler.jobs.deletion import JobDeletion
from services.scheduler.jobs.events import StoredEvent
from services.scheduler.jobs.listing import list_jobs
from services.scheduler.jobs.messages import (
    pack_job,
    unpack_annotation,
    unpack_order,
    unpack_rerun,
    unpack_resume,
)
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.submission import Submission, Submitter


class TrainingJobServicer(TrainingJobServiceServicer):
    """Serves loupe.scheduler.v1.TrainingJobService.

    follow: yields a job's events after a sequence, to the last.
    """

    def __init__(
        self,
        store: JobStore,
        submission: Submission,
        deletion: JobDeletion,
        fleet: Fleet,
        follow: Callable[[JobName, int], AsyncGenerator[StoredEvent, None]],
        *,
        load_threshold: float,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._submission = submission
        self._deletion = deletion
        self._fleet = fleet
        self._follow = follow
        self._threshold = load_threshold
        self._now = now

    async def SubmitTrainingJob(
        self, request: rpc.SubmitTrainingJobRequest, context: object
    ) -> rpc.SubmitTrainingJobResponse:
        """Accept a job; when it answers, the job is durable."""
        once = idempotent("SubmitTrainingJob", request)
        job = await self._submission.submit(unpack_order(request), _submitter(), once)
        return rpc.SubmitTrainingJobResponse(training_job=pack_job(job))

    async def GetTrainingJob(self, request: rpc.GetTrainingJobRequest, context: object) -> rpc.GetTrainingJobResponse:
        """Return a job."""
        job = await self._store.get(JobName.parse(request.name), show_deleted=request.show_deleted)
        return rpc.GetTrainingJobResponse(training_job=pack_job(job))

    async def ListTrainingJobs(
        self, request: rpc.ListTrainingJobsRequest, context: object
    ) -> rpc.ListTrainingJobsResponse:
        """List a project's jobs, newest first."""
        project, size = ProjectName.parse(request.parent, "parent"), paging.page_size(request.page_size)
        jobs, token = await list_jobs(
            self._store,
            project,
            request.states,
            size,
            request.page_token,
            labels=request.labels,
            show_deleted=request.show_deleted,
        )
        packed = [pack_job(job, with_report=False) for job in jobs]
        return rpc.ListTrainingJobsResponse(training_jobs=packed, next_page_token=token)

    async def UpdateTrainingJob(
        self, request: rpc.UpdateTrainingJobRequest, context: object
    ) -> rpc.UpdateTrainingJobResponse:
        """Change a job's labels or note."""
        once = idempotent("UpdateTrainingJob", request)
        name = JobName.parse(request.training_job.name, "training_job.name")
        job = await self._store.annotate(name, unpack_annotation(request).checked(), once)
        return rpc.UpdateTrainingJobResponse(training_job=pack_job(job))

    async def RerunTrainingJob(
        self, request: rpc.RerunTrainingJobRequest, context: object
    ) -> rpc.RerunTrainingJobResponse:
        """Submit a job again, with changes."""
        once = idempotent("RerunTrainingJob", request)
        old = await self._store.get(JobName.parse(request.name))
        job = await self._submission.submit(unpack_rerun(request, old), _submitter(), once)
        return rpc.RerunTrainingJobResponse(training_job=pack_job(job))

    async def CancelTrainingJob(
        self, request: rpc.CancelTrainingJobRequest, context: object
    ) -> rpc.CancelTrainingJobResponse:
        """Cancel a job that is not publishing and not final; otherwise return it as it is."""
        job = await cancel_job(self._store, JobName.parse(request.name), str(acting_account()), self._now)
        return rpc.CancelTrainingJobResponse(training_job=pack_job(job))

    async def ExplainPlacement(
        self, request: rpc.ExplainPlacementRequest, context: object
    ) -> rpc.ExplainPlacementResponse:
        """Say where the job would go now and why."""
        job = await self._store.get(JobName.parse(request.name))
        current = rank_clusters(job.spec.requirements, self._fleet.clusters(), self._threshold)
        last = None if job.placement is None else pack_placement(job.placement)
        return rpc.ExplainPlacementResponse(current=pack_placement(current), last=last)

    async def WatchTrainingJob(
        self, request: rpc.WatchTrainingJobRequest, context: object
    ) -> AsyncIterator[rpc.WatchTrainingJobResponse]:
        """Send a job's events after a cursor, then live ones, to the final one."""
        async with aclosing(self._follow(JobName.parse(request.name), request.after_sequence)) as events:
            async for event in events:
                yield rpc.WatchTrainingJobResponse(event=JobEvent.FromString(event.body))

    async def ResumeTrainingJob(
        self, request: rpc.ResumeTrainingJobRequest, context: object
    ) -> rpc.ResumeTrainingJobResponse:
        """Submit a job that goes on from the checkpoint of one that is over."""
        once = idempotent("ResumeTrainingJob", request)
        old = await self._store.get(JobName.parse(request.name))
        job = await self._submission.submit(unpack_resume(request, old), _submitter(), once)
        return rpc.ResumeTrainingJobResponse(training_job=pack_job(job))

    async def DeleteTrainingJob(
        self, request: rpc.DeleteTrainingJobRequest, context: object
    ) -> rpc.DeleteTrainingJobResponse:
        """Delete a job that is over."""
        once = idempotent("DeleteTrainingJob", request)
        job = await self._deletion.delete(JobName.parse(request.name), once)
        return rpc.DeleteTrainingJobResponse(training_job=pack_job(job))

    async def UndeleteTrainingJob(
        self, request: rpc.UndeleteTrainingJobRequest, context: object
    ) -> rpc.UndeleteTrainingJobResponse:
        """Restore a deleted job."""
        once = idempotent("UndeleteTrainingJob", request)
        job = await self._deletion.restore(JobName.parse(request.name), once)
        return rpc.UndeleteTrainingJobResponse(training_job=pack_job(job))


def _submitter() -> Submitter:
    return Submitter(acting_account(), current_caller().parameter)
