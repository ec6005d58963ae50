"""The composition root of the scheduler: the only file that names concrete adapters."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from loupe import database
from loupe.app import Background
from loupe.auth.v1 import session_service_pb2, session_service_pb2_grpc
from loupe.bus import ProgressBus
from loupe.discovery import Discovery
from loupe.errors import Unavailable
from loupe.idempotency import RequestLog
from loupe.identity import JwksVerifier
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.channel import ServiceChannels, internal_channel
from loupe.rpc.server import MeshServer
from loupe.scheduler.v1 import cluster_service_pb2_grpc, training_job_service_pb2_grpc
from services.scheduler.clients.dependencies import Bus
from services.scheduler.clients.grpc_clients import AuthClient, StorageClient, TrainerClient
from services.scheduler.clusters.fleet import Fleet, follow_fleet
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.driver import Neighbourhood
from services.scheduler.jobs.job import Bounds
from services.scheduler.jobs.servicer import ClusterServicer, TrainingJobServicer
from services.scheduler.jobs.sql_store import SqlJobStore
from services.scheduler.jobs.submission import Submission
from services.scheduler.progress.outbox import Outbox
from services.scheduler.progress.signals import Signals
from services.scheduler.settings import SchedulerSettings

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "database" / "migrations"
LEADER_KEY = "loupe/scheduler/leader"
_LEADER_PATIENCE = 5.0
_REPLICA_PATIENCE = 1.0


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


class SchedulerApp:
    """One scheduler process, built from its settings.

    discovery: what tells who is there; Consul when None is given.
    """

    def __init__(self, settings: SchedulerSettings, discovery: Discovery | None = None) -> None:
        self.settings = settings
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = settings.database_url or database.sqlite_url(settings.state, "scheduler")
        self._engine = database.create_engine(url)
        self._signals = Signals()
        self._store = SqlJobStore(self._engine, RequestLog(), self._signals.committed)
        self._discovery = discovery or Discovery(settings)
        self._channels = ServiceChannels(settings, self._discovery)
        self._fleet = Fleet(time.monotonic, settings.report_max_age)
        self._storage = StorageClient(lambda: self._channels.get("storage"), settings.call_timeout)
        self._trainers = TrainerClient(self._fleet.address, lambda address: internal_channel(settings, address))
        self._authorizer = RemoteAuthorizer(lambda: self._channels.get("auth"))
        self._dispatcher = Dispatcher(
            self._fleet,
            self._signals,
            self._neighbourhood,
            load_threshold=settings.load_threshold,
            sweep_seconds=settings.sweep_seconds,
        )
        self._outbox = Outbox(self._store, self._connect_bus, self._signals)
        self.server = MeshServer(
            settings,
            verifier=JwksVerifier(self._jwks),
            authorizer=self._authorizer,
            servicers=[
                (training_job_service_pb2_grpc.add_TrainingJobServiceServicer_to_server, self._job_servicer()),
                (
                    cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server,
                    ClusterServicer(self._fleet, settings.load_threshold),
                ),
            ],
        )
        self.background = Background()

    def _job_servicer(self) -> TrainingJobServicer:
        return TrainingJobServicer(
            self._store,
            Submission(self._store, self._storage, utc_now, leading=lambda: self._dispatcher.leading),
            self._fleet,
            self._signals,
            load_threshold=self.settings.load_threshold,
            now=utc_now,
            patience=lambda: _LEADER_PATIENCE if self._dispatcher.leading else _REPLICA_PATIENCE,
        )

    def _neighbourhood(self, may_give_away: Callable[[], bool]) -> Neighbourhood:
        settings = self.settings
        return Neighbourhood(
            store=self._store,
            trainers=self._trainers,
            library=self._storage,
            tokens=AuthClient(lambda: self._channels.get("auth"), settings.call_timeout),
            lease=settings.lease_seconds,
            bounds=Bounds(settings.max_attempts, settings.max_losses),
            monotonic=time.monotonic,
            now=utc_now,
            may_give_away=may_give_away,
            avoid=self._fleet.avoid,
        )

    async def _jwks(self) -> str:
        stub = session_service_pb2_grpc.SessionServiceStub(await self._channels.get("auth"))
        answer = await stub.GetJwks(session_service_pb2.GetJwksRequest(), timeout=self.settings.call_timeout)
        return answer.jwks_json

    async def _connect_bus(self) -> Bus:
        bus = await ProgressBus.connect(self.settings)
        try:
            await bus.ensure_stream()
        except Unavailable:
            await bus.close()
            raise
        return bus

    async def start(self) -> None:
        """Make the schema if need be, serve, and dispatch as soon as this process holds the leader lock."""
        settings = self.settings
        await database.migrate(self._engine, MIGRATIONS)
        await self.server.start()
        self._authorizer.start()
        await self._discovery.register(
            "loupe-scheduler",
            settings.instance,
            f"{settings.advertised}:{settings.public_port}",
            f"{settings.advertised}:{settings.internal_port}",
        )
        for name, work in (
            ("fleet", follow_fleet(self._fleet, self._discovery, time.monotonic)),
            ("dispatch", self._dispatcher.run()),
            ("leadership", self._follow_leadership()),
            ("outbox", self._outbox.run()),
        ):
            self.background.add(name, work)

    async def _follow_leadership(self) -> None:
        async for leading in self._discovery.leadership(LEADER_KEY):
            self._dispatcher.lead(leading)

    async def stop(self) -> None:
        """Leave the catalogue, let running calls end and close everything; jobs at work go on by themselves."""
        await self.background.cancel()
        await self._authorizer.close()
        await self._discovery.close()
        await self.server.stop()
        await self._trainers.close()
        await self._channels.close()
        await self._engine.dispose()
