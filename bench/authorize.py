"""Authorize against a bare grpc.aio unary over the same mutual TLS, and the decision that a service has cached.

    python -m bench.authorize [--calls 3000]

Both servers are processes of their own; calls alternate between them in blocks, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import uvloop

from bench.figures import median_ratio
from bench.servers import make_certificates, server, until_it_answers
from deploy.algorithms import ToolCertificates
from deploy.local.ports import free_port
from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.names import AccountName, ProjectName
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.channel import internal_channel

BARE = "/bench.Bare/Call"
REQUEST = policy_service_pb2.AuthorizeRequest(
    account="accounts/admin", project="projects/system", action="projects.create"
)
BLOCK = 200
Call = Callable[[], Awaitable[object]]


async def serve_bare(port: int, tls: Path) -> None:
    """Answer a constant AuthorizeResponse: no interceptors, no work."""
    answer = policy_service_pb2.AuthorizeResponse(
        decision=policy_service_pb2.Decision(
            allowed=True,
            member=True,
            active=True,
            group="projects/system/groups/administrators",
            parameter=100,
            threshold=30,
        ),
        revision=7,
    )

    async def call(request: object, context: object) -> policy_service_pb2.AuthorizeResponse:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=policy_service_pb2.AuthorizeRequest.FromString,
        response_serializer=policy_service_pb2.AuthorizeResponse.SerializeToString,
    )
    bare = grpc.aio.server()
    bare.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Bare", {"Call": handler})])
    pair = ((tls / "auth.key").read_bytes(), (tls / "auth.pem").read_bytes())
    bare.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair], (tls / "ca.pem").read_bytes(), True))
    await bare.start()
    await bare.wait_for_termination()


def auth_environment(folder: Path, port: int, own: ToolCertificates) -> dict[str, str]:
    """Return what the real service needs; Consul and NATS are not needed to decide."""
    return {
        **os.environ,
        "LOUPE_STATE": str(folder / "auth"),
        "LOUPE_INTERNAL_PORT": str(port),
        "LOUPE_TLS_CA": str(own.tls_ca),
        "LOUPE_TLS_CERT": str(own.tls_cert),
        "LOUPE_TLS_KEY": str(own.tls_key),
        "LOUPE_CONSUL_URL": "http://127.0.0.1:1",
        "LOUPE_ADMIN_PASSWORD_FILE": str(folder / "admin-password"),
        "LOUPE_LOG_LEVEL": "error",
    }


async def one_by_one(call: Call) -> float:
    """Return the median seconds of a call of a block, with one call in flight."""
    times = []
    for _ in range(BLOCK):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def many_at_once(call: Call, workers: int = 64) -> float:
    """Return calls a second of a block of 5 * BLOCK, `workers` in flight."""
    left = iter(range(5 * BLOCK))

    async def work() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return 5 * BLOCK / (time.perf_counter() - began)


async def cached_seconds(channel: grpc.aio.Channel) -> float:
    """Return the median time of a decision that a service has in memory, watch running."""

    async def same() -> grpc.aio.Channel:
        return channel

    authorizer = RemoteAuthorizer(same)
    authorizer.start()
    question = (AccountName("admin"), ProjectName("system"), "projects.create", "")
    known = asyncio.get_running_loop().time() + 1
    while asyncio.get_running_loop().time() < known:
        await authorizer.decide(*question)
    blocks = []
    for _ in range(50):
        began = time.perf_counter()
        for _ in range(1000):
            await authorizer.decide(*question)
        blocks.append((time.perf_counter() - began) / 1000)
    await authorizer.close()
    return statistics.median(blocks)


async def measure(calls: int, own: ToolCertificates, auth_port: int, bare_port: int) -> dict[str, float]:
    """Return the figures of a storage with these certificates; ratios are of speed, Authorize's to the bare call's."""
    channel = internal_channel(own, f"127.0.0.1:{auth_port}", service="auth")
    bare_channel = internal_channel(own, f"127.0.0.1:{bare_port}", service="auth")
    stub = policy_service_pb2_grpc.PolicyServiceStub(channel)
    bare_stub = bare_channel.unary_unary(
        BARE,
        request_serializer=policy_service_pb2.AuthorizeRequest.SerializeToString,
        response_deserializer=policy_service_pb2.AuthorizeResponse.FromString,
    )

    async def authorize() -> object:
        return await stub.Authorize(REQUEST)

    async def bare() -> object:
        return await bare_stub(REQUEST)

    for call in (authorize, bare):
        await until_it_answers(call)
        await one_by_one(call)
    single: dict[str, list[float]] = {"authorize": [], "bare": []}
    rates: dict[str, list[float]] = {"authorize": [], "bare": []}
    for _ in range(max(1, calls // BLOCK)):
        for name, call in (("authorize", authorize), ("bare", bare)):
            single[name].append(await one_by_one(call))
            rates[name].append(await many_at_once(call))
    cached = await cached_seconds(channel)
    await channel.close()
    await bare_channel.close()
    p50 = {name: statistics.median(times) * 1e3 for name, times in single.items()}
    rate = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "authorize_p50_ms": round(p50["authorize"], 3),
        "bare_p50_ms": round(p50["bare"], 3),
        "ratio_p50": median_ratio(single["bare"], single["authorize"]),
        "authorize_per_second": round(rate["authorize"]),
        "bare_per_second": round(rate["bare"]),
        "ratio_per_second": median_ratio(rates["authorize"], rates["bare"]),
        "cached_microseconds": round(cached * 1e6, 2),
    }


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--bare-server", nargs=2, metavar=("PORT", "TLS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_server:
        uvloop.run(serve_bare(int(arguments.bare_server[0]), Path(arguments.bare_server[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates = make_certificates(folder / "tls", ("auth", "storage"))
        auth_port, bare_port = free_port(), free_port()
        auth = [sys.executable, "-m", "services.auth"]
        bare = [sys.executable, "-m", "bench.authorize", "--bare-server", str(bare_port), str(folder / "tls")]
        with server(auth, auth_environment(folder, auth_port, certificates["auth"])), server(bare):
            print(json.dumps(uvloop.run(measure(arguments.calls, certificates["storage"], auth_port, bare_port))))


if __name__ == "__main__":
    main()
