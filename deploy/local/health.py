"""Asks the processes of a mesh whether they are ready to work."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import consul
from deploy.local.processes import DEPLOY_CERTIFICATE
from deploy.local.state import StateDirectory

_PATIENCE_SECONDS = 2.0


def is_healthy(state: StateDirectory, name: str, ports: Mapping[str, int]) -> bool:
    """Ask one process; False when it does not answer within 2 s that it serves."""
    if name == "consul":
        return consul.is_ready(state, ports["consul-http"])
    if name == "nats":
        return _greets(state, ports["nats"])
    return _serves(state, ports[f"{name}-internal"])


def _greets(state: StateDirectory, port: int) -> bool:
    """A NATS server speaks first, and listens only once JetStream has recovered.

    The handshake is made to its end, or the server would complain in its log at every look.
    """
    trust = ssl.create_default_context(cafile=state.tls / "ca.pem")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
            greeted = connection.recv(4096).startswith(b"INFO ")
            with trust.wrap_socket(connection, server_hostname="localhost"):
                return greeted
    except OSError:
        return False


def _serves(state: StateDirectory, port: int) -> bool:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(state.tls / "ca.pem").read_bytes(),
        private_key=(state.tls / f"{DEPLOY_CERTIFICATE}.key").read_bytes(),
        certificate_chain=(state.tls / f"{DEPLOY_CERTIFICATE}.pem").read_bytes(),
    )
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=_PATIENCE_SECONDS
            )
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
