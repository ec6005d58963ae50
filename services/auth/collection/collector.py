"""One pass after the other: of accounts that can no longer be restored the names are kept, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from loupe.concurrency import shielded
from loupe.steady_clock import SteadyClock
from services.auth.accounts.store import AccountTable
from services.auth.database.session import Database
from services.auth.policy.store import DeletedMembershipTable
from services.auth.sessions.store import RefreshTokenTable

log = structlog.get_logger(__name__)


class Collector:
    """Purges one account after the other, each in a small transaction.

    Any number of passes may run side by side, and each may die anywhere: a step looks for itself, in its own
    transaction, what is still to be purged. now: wall-clock seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def keep(self, seconds: float) -> None:
        """Collect every so many seconds; never returns. A pass before which the clock was set is left out."""
        clock = SteadyClock(self._now, time.monotonic)
        while True:
            await asyncio.sleep(seconds)
            if not clock.steady():
                log.warning("the clock was set; nothing is collected until it has gone on steadily for a while")
                continue
            try:
                purged = await self.collect()
            except Exception:
                log.exception("collecting failed; the next pass goes on")
            else:
                if purged:
                    log.info("deleted accounts were purged", accounts=purged)

    async def collect(self) -> int:
        """Do one pass and return how many accounts it purged."""
        purged = 0
        while await shielded(self._purge()):
            purged += 1
        return purged

    async def _purge(self) -> bool:
        """Purge an account with its logins and memberships; False when none is left to be purged."""
        async with self._database.write() as session:
            account = await AccountTable(session).expired()
            if account is None:
                return False
            await RefreshTokenTable(session).forget_account(account)
            await DeletedMembershipTable(session).forget_account(account)
            await AccountTable(session).purge(account)
            await session.prune_requests()
        return True
