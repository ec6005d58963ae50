"""The composition root of the scheduler: the only file that names concrete adapters."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc

from loupe import database
from loupe.app import MeshApp
from loupe.audit_log import AuditLog
from loupe.common.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from loupe.discovery import Discovery
from loupe.idempotency import RequestLog
from loupe.names import TrainerName
from loupe.notifier import Notifier
from loupe.rpc.audit_servicer import AuditServicer
from loupe.rpc.channel import internal_channel
from loupe.scheduler.v1.cluster_service_pb2_grpc import add_ClusterServiceServicer_to_server
from loupe.scheduler.v1.training_job_service_pb2_grpc import add_TrainingJobServiceServicer_to_server
from services.scheduler.clients.auth import AuthClient
from services.scheduler.clients.consul import Leadership
from services.scheduler.clients.nats import connect_bus
from services.scheduler.clients.storage import StorageClient
from services.scheduler.clients.trainers import TrainerClient
from services.scheduler.clusters.fleet import Fleet, follow_fleet
from services.scheduler.clusters.servicer import ClusterServicer
from services.scheduler.collection.collector import Collector
from services.scheduler.collection.store import CollectionStore
from services.scheduler.database.session import Database
from services.scheduler.dispatch.dependencies import Dependencies
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.jobs.deletion import JobDeletion
from services.scheduler.jobs.servicer import TrainingJobServicer
from services.scheduler.jobs.signals import Signals
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.submission import Submission
from services.scheduler.jobs.transitions import Bounds
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.store import EventStore
from services.scheduler.progress.watch import Watch
from services.scheduler.settings import SchedulerSettings

_LEADER_TIMEOUT = 5.0
_REPLICA_TIMEOUT = 1.0


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


class SchedulerApp(MeshApp[SchedulerSettings]):
    """One scheduler process, built from its settings.

    discovery: what tells who is there; Consul when None is given.
    """

    service = "scheduler"

    def __init__(self, settings: SchedulerSettings, discovery: Discovery | None = None) -> None:
        super().__init__(settings, discovery)
        url = settings.database_url or database.sqlite_url(settings.state, "scheduler")
        news = Notifier()
        self._database = Database(database.create_engine(url))
        self._audit = AuditLog(self._database, lambda session: session)
        self._signals = Signals()
        self._store = JobStore(
            self._database, RequestLog(), self._signals.committed, max_queued=settings.max_queued_jobs
        )
        self._events = EventStore(self._database)
        self._leadership = Leadership(news)
        self._fleet = Fleet(time.monotonic, settings.report_max_age, news)
        self._storage = StorageClient(self.storage, settings.call_timeout)
        self._trainers = TrainerClient(self._fleet.address, self._trainer_channel)
        self._dispatcher = Dispatcher(
            self._dependencies(),
            news,
            load_threshold=settings.load_threshold,
            sweep_seconds=settings.sweep_seconds,
        )
        self._outbox = Outbox(self._events, partial(connect_bus, settings), self._signals.any)
        self._collector = Collector(
            CollectionStore(self._database),
            self._storage,
            partial(connect_bus, settings),
            self._leadership,
            kept=timedelta(days=settings.keep_checkpoints_days),
            now=utc_now,
        )
        self.serves(
            [
                (add_TrainingJobServiceServicer_to_server, self._job_servicer()),
                (add_ClusterServiceServicer_to_server, ClusterServicer(self._fleet, settings.load_threshold)),
                (add_AuditServiceServicer_to_server, AuditServicer(self._audit)),
            ],
            recorder=self._audit,
        )

    def _dependencies(self) -> Dependencies:
        settings = self.settings
        return Dependencies(
            store=self._store,
            signals=self._signals,
            fleet=self._fleet,
            leadership=self._leadership,
            trainers=self._trainers,
            storage=self._storage,
            tokens=AuthClient(self.auth, settings.call_timeout),
            lease=settings.lease_seconds,
            bounds=Bounds(settings.max_attempts, settings.max_losses),
            monotonic=time.monotonic,
            now=utc_now,
        )

    def _trainer_channel(self, address: str, trainer: TrainerName) -> grpc.aio.Channel:
        return internal_channel(self.settings, address, service=trainer)

    def _job_servicer(self) -> TrainingJobServicer:
        return TrainingJobServicer(
            self._store,
            Submission(self._store, self._storage, self._leadership, utc_now, permit=self.permit),
            JobDeletion(self._store, timedelta(days=self.settings.keep_deleted_days), utc_now),
            self._fleet,
            Watch(self._store, self._events, self._signals, self._watch_timeout).follow,
            load_threshold=self.settings.load_threshold,
            now=utc_now,
        )

    def _watch_timeout(self) -> float:
        return _LEADER_TIMEOUT if self._leadership.held else _REPLICA_TIMEOUT

    async def start(self) -> None:
        """Make the schema if need be, serve, and dispatch as soon as this process holds the leader lock."""
        self.closing.push_async_callback(self._database.close)
        await self._database.migrate()
        self.closing.push_async_callback(self._trainers.close)
        await self.open_doors()
        await self.register(self.settings.instance)
        self.work("fleet", follow_fleet(self._fleet, self.discovery))
        self.work("dispatch", self._dispatcher.run())
        self.work("leadership", self._leadership.follow(self.discovery))
        self.work("outbox", self._outbox.run())
        self.work("collection", self._collector.keep(self.settings.collect_seconds))
        self.work("audit", self._audit.keep(self.settings.audit_days))
