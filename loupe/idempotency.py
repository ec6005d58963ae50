"""Idempotent mutations: a request_id has one effect and one answer for 24 hours, in the effect's own transaction.

if (answer := await requests.replay(connection, request)) is None:
    answer = …  # the effect
    await requests.record(connection, request, answer)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from loupe.database import NO_CHANGE
from loupe.errors import RequestIdReused, invalid

KEPT_SECONDS = 24 * 3600
MAX_REQUEST_ID = 128


@dataclass(frozen=True)
class Request:
    """One call of a mutation.

    caller: who makes it. method: the RPC's name. request_id: what the caller chose; empty for a call that is not to be
    remembered. body: the request serialised deterministically, without request_id and without secrets.
    """

    caller: str
    method: str
    request_id: str
    body: bytes = field(repr=False)


def request_log_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table that every service's first migration creates."""
    return sa.Table(
        "request_log",
        metadata,
        sa.Column("caller", sa.String(80), primary_key=True),
        sa.Column("method", sa.String(80), primary_key=True),
        sa.Column("request_id", sa.String(MAX_REQUEST_ID), primary_key=True),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Float, nullable=False, index=True),
        info=NO_CHANGE,
    )


_TABLE = request_log_table(sa.MetaData())


class RequestLog:
    """Remembers the answers to requests.

    now: wall-clock seconds. connection, in both calls: inside the transaction in which the effect is written, so that
    effect and answer become durable together.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    async def replay(self, connection: AsyncConnection, request: Request) -> bytes | None:
        """Return the answer that this request had before; None: it is new. Raises RequestIdReused, InvalidArgument."""
        if not request.request_id:
            return None
        if len(request.request_id) > MAX_REQUEST_ID:
            raise invalid("request_id", request.request_id, f"at most {MAX_REQUEST_ID} characters")
        await self.prune(connection)
        query = sa.select(_TABLE.c.body_digest, _TABLE.c.answer).where(
            _TABLE.c.caller == request.caller,
            _TABLE.c.method == request.method,
            _TABLE.c.request_id == request.request_id,
        )
        row = (await connection.execute(query)).first()
        if row is None:
            return None
        if row.body_digest != _digest(request):
            raise RequestIdReused(
                f"request_id {request.request_id!r} was used for another {request.method}; choose a new one",
                request_id=request.request_id,
            )
        return bytes(row.answer)

    async def prune(self, connection: AsyncConnection) -> None:
        """Forget answers that are too old to be given again."""
        await connection.execute(_TABLE.delete().where(_TABLE.c.created < self._now() - KEPT_SECONDS))

    async def record(self, connection: AsyncConnection, request: Request, answer: bytes) -> None:
        """Remember the answer of a request that replay() called new."""
        if request.request_id:
            await connection.execute(
                _TABLE.insert().values(
                    caller=request.caller,
                    method=request.method,
                    request_id=request.request_id,
                    body_digest=_digest(request),
                    answer=answer,
                    created=self._now(),
                )
            )


def _digest(request: Request) -> str:
    return hashlib.sha256(request.body).hexdigest()
