"""The scheduler's RPCs: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime

import grpc

from loupe import paging
from loupe.identity import current_caller
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    training_job_service_pb2,
    training_job_service_pb2_grpc,
)
from services.scheduler.clusters.fleet import Fleet
from services.scheduler.clusters.placement import rank_clusters
from services.scheduler.jobs.cancellation import cancel_job
from services.scheduler.jobs.listing import list_jobs
from services.scheduler.jobs.messages import pack_cluster, pack_job, pack_placement, unpack_order, unpack_request
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.submission import Submission
from services.scheduler.progress.signals import Signals
from services.scheduler.progress.watch import follow


class TrainingJobServicer(training_job_service_pb2_grpc.TrainingJobServiceServicer):
    """Serves loupe.scheduler.v1.TrainingJobService.

    patience: seconds after which a watch looks for what other replicas wrote.
    """

    def __init__(
        self,
        store: JobStore,
        submission: Submission,
        fleet: Fleet,
        signals: Signals,
        *,
        load_threshold: float,
        now: Callable[[], datetime],
        patience: Callable[[], float],
    ) -> None:
        self._store = store
        self._submission = submission
        self._fleet = fleet
        self._signals = signals
        self._threshold = load_threshold
        self._now = now
        self._patience = patience

    async def SubmitTrainingJob(
        self, request: training_job_service_pb2.SubmitTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_job_service_pb2.SubmitTrainingJobResponse:
        """Accept a job; when it answers, the job is durable."""
        submitter = current_caller().account
        assert submitter is not None, "the access table lets accounts only submit"
        job = await self._submission.submit(unpack_order(request), submitter, unpack_request(request, submitter))
        return training_job_service_pb2.SubmitTrainingJobResponse(training_job=pack_job(job))

    async def GetTrainingJob(
        self, request: training_job_service_pb2.GetTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_job_service_pb2.GetTrainingJobResponse:
        """Return a job."""
        job = await self._store.get(JobName.parse(request.name))
        return training_job_service_pb2.GetTrainingJobResponse(training_job=pack_job(job))

    async def ListTrainingJobs(
        self, request: training_job_service_pb2.ListTrainingJobsRequest, context: grpc.aio.ServicerContext
    ) -> training_job_service_pb2.ListTrainingJobsResponse:
        """List a project's jobs, newest first."""
        project, size = ProjectName.parse(request.parent, "parent"), paging.page_size(request.page_size)
        jobs, token = await list_jobs(self._store, project, list(request.states), size, request.page_token)
        packed = [pack_job(job, with_report=False) for job in jobs]
        return training_job_service_pb2.ListTrainingJobsResponse(training_jobs=packed, next_page_token=token)

    async def CancelTrainingJob(
        self, request: training_job_service_pb2.CancelTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_job_service_pb2.CancelTrainingJobResponse:
        """Cancel a job that is not publishing and not final; otherwise it returns it as it is."""
        by = str(current_caller().account)
        job = await cancel_job(self._store, JobName.parse(request.name), by, self._now)
        return training_job_service_pb2.CancelTrainingJobResponse(training_job=pack_job(job))

    async def ExplainPlacement(
        self, request: training_job_service_pb2.ExplainPlacementRequest, context: grpc.aio.ServicerContext
    ) -> training_job_service_pb2.ExplainPlacementResponse:
        """Say where the job would go now and why."""
        job = await self._store.get(JobName.parse(request.name))
        current = rank_clusters(job.spec.requirements, self._fleet.clusters(), self._threshold)
        return training_job_service_pb2.ExplainPlacementResponse(current=pack_placement(current), last=job.placement)

    async def WatchTrainingJob(
        self, request: training_job_service_pb2.WatchTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[training_job_service_pb2.WatchTrainingJobResponse]:
        """Send a job's events after a cursor, then live ones, to the final one."""
        name = JobName.parse(request.name)
        source = follow(self._store, self._signals, name, request.after_sequence, self._patience)
        async with aclosing(source) as events:
            async for event in events:
                yield training_job_service_pb2.WatchTrainingJobResponse(event=event)


class ClusterServicer(cluster_service_pb2_grpc.ClusterServiceServicer):
    """Serves loupe.scheduler.v1.ClusterService."""

    def __init__(self, fleet: Fleet, load_threshold: float) -> None:
        self._fleet = fleet
        self._threshold = load_threshold

    async def ListClusters(
        self, request: cluster_service_pb2.ListClustersRequest, context: grpc.aio.ServicerContext
    ) -> cluster_service_pb2.ListClustersResponse:
        """List all clusters with their trainers and load, by name."""
        clusters = [pack_cluster(cluster, self._fleet.report_time) for cluster in self._fleet.clusters()]
        return cluster_service_pb2.ListClustersResponse(clusters=clusters, load_threshold=self._threshold)
