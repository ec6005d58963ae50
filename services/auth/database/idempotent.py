"""One effect for each request_id of a mutation that creates something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loupe.idempotency import RequestLog
from loupe.names import AccountName
from services.auth.database.store import Transaction


@dataclass(frozen=True)
class Request:
    """Who asks for what; method and body tell whether a repeated id means the same. It holds no secret."""

    by: AccountName
    method: str
    request_id: str
    body: bytes

    async def once(self, log: RequestLog, tx: Transaction, effect: Callable[[], Awaitable[bytes]]) -> bytes:
        """Run the effect in the transaction, or return its stored answer. Raises RequestIdReused."""
        return await log.run(
            tx.connection,
            caller=str(self.by),
            method=self.method,
            request_id=self.request_id,
            body=self.body,
            effect=effect,
        )
