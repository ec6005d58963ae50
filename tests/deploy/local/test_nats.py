"""Who may do what at a real NATS server that runs under the written configuration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from deploy.local.mesh import LocalMesh
from deploy.local.nats import password_file
from loupe.bus import tls_context
from tests.nats_client import taken_by_server

STREAM: dict[str, Any] = {"name": "PROGRESS", "subjects": ["loupe.progress.*.*"], "allow_direct": True}


async def connect(mesh: LocalMesh, refused: list[str] | None = None, **options: Any) -> Client:
    async def note(error: Exception) -> None:
        if refused is not None:
            refused.append(str(error))

    context = tls_context(mesh.endpoints.ca.read_bytes())
    client = await nats.connect(
        mesh.endpoints.nats_url, tls=context, allow_reconnect=False, connect_timeout=5, error_cb=note, **options
    )
    await client.flush(timeout=5)
    return client


async def member(mesh: LocalMesh, user: str, refused: list[str] | None = None) -> Client:
    return await connect(mesh, refused, user=user, password=password_file(mesh.state, user).read_text().strip())


async def test_the_scheduler_keeps_the_stream_and_publishes_progress(infrastructure: LocalMesh) -> None:
    client = await member(infrastructure, "scheduler")
    stream = client.jetstream(timeout=5)
    try:
        await stream.update_stream(**STREAM)
    except NotFoundError:
        await stream.add_stream(**STREAM)
    acknowledged = await stream.publish("loupe.progress.p1.job1", b"one", stream="PROGRESS")
    assert acknowledged.seq >= 1
    assert (await stream.get_last_msg("PROGRESS", "loupe.progress.p1.job1", direct=True)).data == b"one"
    await client.close()


@pytest.mark.parametrize(
    "subject", ["$JS.API.STREAM.DELETE.PROGRESS", "$JS.API.STREAM.CREATE.OTHER", "loupe.other", "_INBOX.x"]
)
async def test_the_scheduler_publishes_nothing_else(infrastructure: LocalMesh, subject: str) -> None:
    refused: list[str] = []
    client = await member(infrastructure, "scheduler", refused)
    await client.publish("loupe.progress.p1.job1", b"control")
    await taken_by_server(client)
    assert refused == []
    await client.publish(subject, b"{}")
    await taken_by_server(client)
    await _until(lambda: refused)
    assert "permissions violation" in refused[0].lower()
    await client.close()


async def test_auths_system_user_sees_connections_and_no_more(infrastructure: LocalMesh) -> None:
    refused: list[str] = []
    client = await member(infrastructure, "auth-sys", refused)
    answer = await client.request("$SYS.REQ.SERVER.PING.CONNZ", json.dumps({"auth": True}).encode(), timeout=5)
    assert json.loads(answer.data)["server"]["name"] == "loupe"
    await client.publish("$SYS.REQ.SERVER.PING.JSZ", b"")
    await taken_by_server(client)
    await _until(lambda: refused)
    await client.close()


@pytest.mark.parametrize(
    "credentials",
    [{}, {"token": "made-up"}, {"user": "trainer-north-a", "password": "x"}, {"user": "scheduler", "password": "x"}],
    ids=["anonymous", "token", "trainer", "wrong password"],
)
async def test_everybody_else_is_refused_while_auth_is_away(
    infrastructure: LocalMesh, credentials: dict[str, Any]
) -> None:
    with pytest.raises((nats.errors.Error, TimeoutError, OSError)):
        await connect(infrastructure, **credentials)


async def test_a_client_that_speaks_no_tls_is_refused(infrastructure: LocalMesh) -> None:
    port = int(infrastructure.endpoints.nats_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    greeting = json.loads((await reader.readline()).removeprefix(b"INFO "))
    assert greeting["tls_required"] is True
    password = password_file(infrastructure.state, "scheduler").read_text().strip()
    writer.write(f'CONNECT {{"user":"scheduler","pass":"{password}"}}\r\nPING\r\n'.encode())
    assert b"PONG" not in await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
