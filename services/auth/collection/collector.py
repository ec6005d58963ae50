"""One pass after the other: of accounts that can no longer be restored the names are kept, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from loupe.collecting import keep_collecting
from loupe.concurrency import shielded
from services.auth.accounts.store import AccountTable
from services.auth.database.session import Database
from services.auth.policy.store import DeletedMembershipTable
from services.auth.sessions.store import RefreshTokenTable


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

        async def collect() -> dict[str, int]:
            return {"accounts": await self.collect()}

        await keep_collecting(collect, seconds, self._now)

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
