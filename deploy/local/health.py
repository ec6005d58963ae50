"""Whether the processes of a mesh run, and are ready to work."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import consul
from deploy.local.certificates import host_on
from deploy.local.identity import Identity
from deploy.local.processes import DEPLOY_CERTIFICATE, ports_of
from deploy.local.state import StateDirectory
from loupe.rpc.channel import TLS_NAME

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class ProcessStatus:
    """One line of `make status`."""

    name: str
    pid: int | None
    state: str
    """healthy, starting (runs, does not serve yet), restarting, stopped, or unsupervised."""
    uptime_seconds: float
    ports: Mapping[str, int]
    restarts: int


def status_of(
    state: StateDirectory, name: str, identity: Identity | None, supervised: str | None, ports: Mapping[str, int]
) -> ProcessStatus:
    """Tell about one process now.

    identity: the process that left the last record. supervised: supervisord's word for its state, None where
    supervisord does not know it or is gone. ports: those of the whole mesh.
    """
    alive = identity if identity and identity.is_alive() else None
    if alive and supervised is None:
        word = "unsupervised"
    elif alive:
        word = "healthy" if is_healthy(state, name, ports) else "starting"
    else:
        word = "restarting" if supervised in {"STARTING", "BACKOFF", "RUNNING"} else "stopped"
    return ProcessStatus(
        name,
        alive.pid if alive else None,
        word,
        alive.uptime_seconds() if alive else 0.0,
        ports_of(name, ports),
        max(0, identity.starts - 1) if identity else 0,
    )


def is_healthy(state: StateDirectory, name: str, ports: Mapping[str, int]) -> bool:
    """Ask one process; False when it does not answer within 2 s that it serves."""
    if name == "consul":
        return consul.is_ready(state, ports["consul-http"])
    if name == "nats":
        return _greets(state, ports["nats"])
    return _serves(state, name, ports[f"{name}-internal"])


def _greets(state: StateDirectory, port: int) -> bool:
    """A NATS server speaks first, and listens only once JetStream has recovered.

    The handshake is made to its end, or the server would complain in its log at every look.
    """
    trust = ssl.create_default_context(cafile=state.tls / "ca.pem")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            greeted = connection.recv(4096).startswith(b"INFO ")
            with trust.wrap_socket(connection, server_hostname="localhost"):
                return greeted
    except OSError:
        return False


def _serves(state: StateDirectory, name: str, port: int) -> bool:
    expected = host_on(state.tls / f"{name}.pem")
    options = ((TLS_NAME, expected),) if expected else ()
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(state.tls / "ca.pem").read_bytes(),
        private_key=(state.tls / f"{DEPLOY_CERTIFICATE}.key").read_bytes(),
        certificate_chain=(state.tls / f"{DEPLOY_CERTIFICATE}.pem").read_bytes(),
    )
    request = health_pb2.HealthCheckRequest(service="")
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer: health_pb2.HealthCheckResponse
        try:
            answer = stub.Check(request, timeout=_TIMEOUT_SECONDS)  # type: ignore[attr-defined]  # not in its stubs
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
