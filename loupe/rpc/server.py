"""A mesh server: a public door (TLS and token), an internal one (mutual TLS), health, reflection, interceptors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from loupe.access import Authorizer
from loupe.audit import Recorder
from loupe.byte_budget import ByteBudget
from loupe.identity import TokenVerifier
from loupe.limits import MAX_MESSAGE_BYTES, MAX_STRANGERS_BYTES
from loupe.rpc.gate import Gate, access_table
from loupe.rpc.interceptor import MeshInterceptor
from loupe.rpc.strangers import Strangers
from loupe.settings import ServiceSettings

log = structlog.get_logger(__name__)

OPTIONS = (
    # By default two servers could share a port in silence, each getting half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.max_concurrent_streams", 256),
    # Uncompressed messages only: a small compressed one would be inflated before anybody asks who sent it.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 5),
)

Registration = tuple[Callable[[Any, grpc.aio.Server], None], object]


class MeshServer:
    """Serves one service's gRPC services on the doors that its settings name.

    servicers: pairs of a generated add_…_to_server function and the servicer. max_message_bytes: the longest message
    that is taken. budget: memory for the first messages of calls; None where messages are short. recorder: the audit
    log, None where the service has no database. authorizer: decides who may do what.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        verifier: TokenVerifier,
        authorizer: Authorizer,
        servicers: Sequence[Registration],
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        budget: ByteBudget | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._settings = settings
        self.authorizer = authorizer
        self._verifier = verifier
        self._servicers = servicers
        self._max_message_bytes = max_message_bytes
        self._budget = budget
        self._recorder = recorder
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self._doors: list[grpc.aio.Server] = []

    async def start(self) -> None:
        """Bind the doors and serve. Raises OSError when a port is taken."""
        settings = self._settings
        recorder = _Recorder()
        for add, servicer in self._servicers:
            add(servicer, cast(grpc.aio.Server, recorder))
        self._names = recorder.names
        pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
        known = grpc.ssl_server_credentials([pair], settings.tls_ca.read_bytes(), True)
        await self._open(settings.internal_port, known, None)
        if settings.public_port:
            strangers = Strangers(max(4, MAX_STRANGERS_BYTES // self._max_message_bytes))
            await self._open(settings.public_port, grpc.ssl_server_credentials([pair]), strangers)
        await self.set_serving(True)
        log.info("serving", services=self._names, internal_port=settings.internal_port)

    async def _open(self, port: int, credentials: grpc.ServerCredentials, strangers: Strangers | None) -> None:
        """Serve everything at a port; with `strangers` it is a public door."""
        pool = descriptor_pool.Default()
        table = access_table(pool.FindServiceByName(name) for name in self._names)
        gate = Gate(self._verifier, self.authorizer)
        interceptor = MeshInterceptor(table, gate, strangers, self._budget, self._recorder)
        options = (*OPTIONS, ("grpc.max_receive_message_length", self._max_message_bytes))
        server = grpc.aio.server(interceptors=[interceptor], options=options)
        for add, servicer in self._servicers:
            add(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        try:
            bound = server.add_secure_port(f"{self._settings.host}:{port}", credentials)
        except RuntimeError as error:
            raise OSError(f"port {port} on {self._settings.host} cannot be opened; is it taken?") from error
        if bound != port:
            raise OSError(f"port {port} on {self._settings.host} cannot be opened; is it taken?")
        await server.start()
        self._doors.append(server)

    async def set_serving(self, serving: bool) -> None:
        """Change what gRPC health answers for every service of this server."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, *, drain: bool = True) -> None:
        """Refuse new calls, let running ones end for `drain_seconds` unless told otherwise, then cut them."""
        if self._doors:
            await self._health.enter_graceful_shutdown()
        seconds = self._settings.drain_seconds if drain else 0
        await asyncio.gather(*(door.stop(seconds) for door in self._doors))


class _Recorder:
    """Learns the full service names from the generated add_…_to_server functions."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self.names.extend(handler.service_name() for handler in handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The generated code registers every handler twice; the generic one is enough here."""
