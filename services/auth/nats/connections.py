"""Auth's connections to NATS: one answers the auth callout, two take away what is there without a right.

NATS being away is never felt by gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from loupe.errors import LoupeError
from loupe.notifier import wait_for
from services.auth.nats.callout import (
    Callout,
    Consumer,
    connections_to_cut,
    consumers_to_delete,
    read_connections,
    read_consumers,
    read_server,
)
from services.auth.policy.authority import Authority

log = structlog.get_logger(__name__)

_CALLOUT_SUBJECT = "$SYS.REQ.USER.AUTH"
_QUEUE = "auth"
_REQUEST_SECONDS = 2.0
_SERVERS_SECONDS = 0.3
_SETTLED_SECONDS = 2.0
"""A connection that was let in just before a change is there, and seen, this long after it."""
_SWEEP_SECONDS = 30.0
_PAGE = 1000
_CONSUMERS_SECONDS = 5.0
CONSUMERS_SUBJECT = "loupe.consumers"
"""Where the NATS server's configuration lets auth list (.list) and delete (.delete.<name>) the stream's consumers."""


class CalloutDoor:
    """Answers the server's questions about who connects."""

    def __init__(self, callout: Callout) -> None:
        self._callout = callout

    async def serve(self, connection: Client) -> None:
        """Answer on one connection until it is cancelled."""
        await connection.subscribe(_CALLOUT_SUBJECT, _QUEUE, cb=self._answer)
        await connection.flush()
        await asyncio.Event().wait()

    async def _answer(self, message: Msg) -> None:
        try:
            answer = self._callout.answer(message.data, (message.headers or {}).get("Nats-Server-Xkey"))
            await message.respond(answer)
        except LoupeError as error:
            log.warning("a NATS auth request was not understood; refused", error=error.message)
        except NatsError as error:
            log.warning("a NATS auth request could not be answered; refused", error=str(error)[:200])
        except Exception:
            log.exception("a NATS auth request failed; refused")


class Janitor:
    """Deletes consumers that outlived the right to them, and those that terminals do not make.

    A consumer is not its maker's connection: cut off, it would go on for as long as anybody listens where it delivers.
    """

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def serve(self, connection: Client) -> None:
        """Sweep at once, at every change of the policy and every few seconds."""
        while True:
            changed = self._authority.changed()
            await self._sweep(connection)
            _end_if_cancelled()
            await wait_for(changed, _CONSUMERS_SECONDS)

    async def _sweep(self, connection: Client) -> None:
        try:
            consumers = await self._consumers(connection)
        except nats.errors.NoRespondersError:
            return  # JetStream is not up yet
        for name in consumers_to_delete(self._authority, consumers):
            await connection.request(f"{CONSUMERS_SUBJECT}.delete.{name}", b"", timeout=_REQUEST_SECONDS)
            log.info("NATS consumer deleted: nobody may have it", consumer=name)

    async def _consumers(self, connection: Client) -> list[Consumer]:
        consumers: list[Consumer] = []
        total = 1
        while len(consumers) < total:
            query = json.dumps({"offset": len(consumers)}).encode()
            answer = await connection.request(f"{CONSUMERS_SUBJECT}.list", query, timeout=_REQUEST_SECONDS)
            page, total = read_consumers(answer.data)
            if not page:
                break  # some went meanwhile
            consumers += page
        return consumers


class Revoker:
    """Cuts terminals' connections that hold another right than what the policy gives them now."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def serve(self, connection: Client) -> None:
        """Sweep at once, at every change of the policy and a little later, and now and then."""
        pause = _SETTLED_SECONDS
        while True:
            changed = self._authority.changed()
            await self._sweep(connection)
            _end_if_cancelled()
            pause = _SETTLED_SECONDS if await wait_for(changed, pause) else _SWEEP_SECONDS

    async def _sweep(self, connection: Client) -> None:
        for server in await self._servers(connection):
            labels = await self._connections(connection, server)
            for cid in connections_to_cut(self._authority, labels):
                await self._ask(connection, f"$SYS.REQ.SERVER.{server}.KICK", {"cid": cid})
                log.info("NATS connection cut: its rights changed", connection=labels[cid])

    async def _servers(self, connection: Client) -> list[str]:
        # Every server of the NATS cluster answers a ping by itself; who is silent now is asked at the next sweep.
        inbox = connection.new_inbox()
        subscription = await connection.subscribe(inbox)
        await connection.publish("$SYS.REQ.SERVER.PING", reply=inbox)
        servers: list[str] = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                message = await subscription.next_msg(timeout=_SERVERS_SECONDS if servers else _REQUEST_SECONDS)
                servers.append(read_server(message.data))
        await subscription.unsubscribe()
        return servers

    async def _connections(self, connection: Client, server: str) -> dict[int, str]:
        labels: dict[int, str] = {}
        offset, total = 0, 1
        while offset < total:
            query = {"auth": True, "limit": _PAGE, "offset": offset}
            page, total = read_connections(await self._ask(connection, f"$SYS.REQ.SERVER.{server}.CONNZ", query))
            labels |= page
            offset += _PAGE
        return labels

    async def _ask(self, connection: Client, subject: str, query: Mapping[str, object]) -> bytes:
        answer = await connection.request(subject, json.dumps(query).encode(), timeout=_REQUEST_SECONDS)
        return answer.data


def _end_if_cancelled() -> None:
    """Raise a cancellation that was swallowed: Python 3.11's asyncio.wait_for does so when the answer comes with it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
