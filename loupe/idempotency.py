"""Idempotent mutations: a request_id has one effect and one answer for 24 hours, in the effect's own transaction."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from loupe.errors import RequestIdReused, invalid

KEPT_SECONDS = 24 * 3600
MAX_REQUEST_ID = 128


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
    )


_TABLE = request_log_table(sa.MetaData())


class RequestLog:
    """Remembers the answers to requests.

    now: wall-clock seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    async def run(
        self,
        connection: AsyncConnection,
        *,
        caller: str,
        method: str,
        request_id: str,
        body: bytes,
        effect: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        """Return the effect's answer, or the stored one when this request was answered before.

        connection: inside the transaction in which `effect` writes, so that effect and answer become durable together.
        body: the request serialised deterministically, without request_id. An empty request_id is never remembered.
        Raises RequestIdReused when the id came with another body.
        """
        if not request_id:
            return await effect()
        if len(request_id) > MAX_REQUEST_ID:
            raise invalid("request_id", request_id, f"at most {MAX_REQUEST_ID} characters")
        body_digest = hashlib.sha256(body).hexdigest()
        key = (_TABLE.c.caller == caller) & (_TABLE.c.method == method) & (_TABLE.c.request_id == request_id)
        await connection.execute(_TABLE.delete().where(_TABLE.c.created < self._now() - KEPT_SECONDS))
        row = (await connection.execute(sa.select(_TABLE.c.body_digest, _TABLE.c.answer).where(key))).first()
        if row is not None:
            if row.body_digest != body_digest:
                raise RequestIdReused(
                    f"request_id {request_id!r} was used for another {method}; choose a new one", request_id=request_id
                )
            return row.answer
        answer = await effect()
        await connection.execute(
            _TABLE.insert().values(
                caller=caller,
                method=method,
                request_id=request_id,
                body_digest=body_digest,
                answer=answer,
                created=self._now(),
            )
        )
        return answer
