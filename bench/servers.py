"""Servers for the benches that measure one part of the mesh: each a process of its own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc

from deploy.algorithms import ToolCertificates
from deploy.local.certificates import Leaf, ensure_certificates
from deploy.local.nats import nats_binary
from deploy.local.ports import free_port
from loupe.backoff import Backoff
from loupe.errors import LoupeError

START_SECONDS = 180.0


def make_certificates(folder: Path, services: Sequence[str]) -> dict[str, ToolCertificates]:
    """Make an authority and a certificate for each service in a new folder; return the paths by service."""
    folder.mkdir()
    ensure_certificates(folder, [Leaf(name, f"loupe://service/{name}") for name in services], datetime.now(UTC))
    return {
        name: ToolCertificates(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key") for name in services
    }


@contextlib.contextmanager
def server(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server while the block runs, and end it with SIGTERM; standard output is left to the figures."""
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def until_it_answers(call: Callable[[], Awaitable[object]]) -> None:
    """Call until that succeeds. Raises the last error after 180 s."""
    backoff = Backoff(START_SECONDS)
    while True:
        try:
            await call()
        except (LoupeError, grpc.RpcError, OSError) as error:
            await backoff.wait(error)
        else:
            return


@contextlib.contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """Run a NATS server with JetStream in a folder while the block runs, and give its URL."""
    port = free_port()

    async def connect() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass

    with server(
        [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder / "jetstream", "-l", "/dev/null"]
    ):
        asyncio.run(until_it_answers(connect))
        yield f"nats://127.0.0.1:{port}"
