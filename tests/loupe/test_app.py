"""The life of a service process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from loupe import app as service


class App(service.MeshApp[Any]):
    """Serves nothing; what goes on in its background is given."""

    def __init__(self, work: Coroutine[None, None, None] | None = None, error: Exception | None = None) -> None:
        self.background = service.Background()
        self.started, self.stopped = asyncio.Event(), False
        self._work, self._error = work, error

    async def start(self) -> None:
        if self._error:
            raise self._error
        if self._work:
            self.background.add("work", self._work)
        self.started.set()

    async def stop(self) -> None:
        await self.background.cancel()
        self.stopped = True


async def fail() -> None:
    raise ZeroDivisionError


async def end() -> None:
    """Work that is over at once."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("work", [None, asyncio.Event.wait])
async def test_a_signal_stops_it(number: signal.Signals, work) -> None:
    app = App(work and work(asyncio.Event()))
    running = asyncio.create_task(service.run(app))
    await app.started.wait()
    os.kill(os.getpid(), number)
    await running
    assert app.stopped


@pytest.mark.parametrize(("work", "error"), [(fail, ZeroDivisionError), (end, RuntimeError)])
async def test_background_work_that_ends_ends_the_process_with_its_error(work, error: type[Exception]) -> None:
    app = App(work())
    with pytest.raises(error):
        await service.run(app)
    assert app.stopped


async def test_a_start_that_fails_is_cleaned_up_and_raised() -> None:
    app = App(error=OSError("the port is taken"))
    with pytest.raises(OSError, match="taken"):
        await service.run(app)
    assert app.stopped


BUSY_PARENT = """
import asyncio
import services
import grpc, uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def call():
            while True:
                await stub.Check(health_pb2.HealthCheckRequest())
                await asyncio.sleep(0.003)

        calls = [asyncio.create_task(call()) for _ in range(4)]
        for _ in range(150):
            child = await asyncio.create_subprocess_exec("true")
            print(await child.wait())
        for task in calls:
            task.cancel()
    await server.stop(0)

uvloop.run(main())
"""


def test_every_child_of_a_service_that_is_busy_with_grpc_starts() -> None:
    """A sandbox or a decoder must not die of gRPC's fork handlers before it begins."""
    done = subprocess.run([sys.executable, "-c", BUSY_PARENT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0"] * 150
