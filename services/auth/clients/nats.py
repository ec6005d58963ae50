"""NATS as auth reaches it: a connection that comes back by itself for ever."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from loupe.bus import tls_context
from loupe.concurrency import race
from loupe.errors import LoupeError

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class NatsUser:
    """Where and as whom to connect; `ca` is the authority of the server's certificate."""

    url: str
    user: str
    password: str
    ca: Path


async def stay_connected(who: NatsUser, work: Callable[[Client], Awaitable[None]]) -> None:
    """Connect and run `work` on the connection, again whenever it is lost, for ever."""
    tls = tls_context(who.ca.read_bytes()) if who.url.startswith("tls://") else None
    said = False
    while True:
        closed = asyncio.Event()
        try:
            connection = await _connect(who, tls, closed)
            try:
                await connection.flush(timeout=3)
                log.info("connected to NATS", user=who.user)
                said = False
                await race(work(connection), closed.wait())
            finally:
                await connection.close()
        except (TimeoutError, OSError, NatsError, LoupeError) as error:
            if not said:
                log.warning("NATS is away; trying again", user=who.user, error=str(error)[:200])
                said = True
        await asyncio.sleep(_RETRY_SECONDS)


async def _connect(who: NatsUser, tls: ssl.SSLContext | None, closed: asyncio.Event) -> Client:
    async def on_closed() -> None:
        closed.set()

    return await nats.connect(
        who.url,
        user=who.user,
        password=who.password,
        tls=tls,
        name="auth",
        allow_reconnect=False,
        max_reconnect_attempts=1,  # without it connect() tries for two minutes before it says so
        reconnect_time_wait=0.1,
        connect_timeout=3,
        ping_interval=5,
        max_outstanding_pings=2,
        closed_cb=on_closed,
        disconnected_cb=on_closed,
        error_cb=_log_error,
    )


async def _log_error(error: Exception) -> None:
    log.debug("NATS reported an error", error=str(error)[:200])
