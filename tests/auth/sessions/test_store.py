"""What the database remembers of logins."""

from __future__ import annotations

import sqlalchemy as sa

from services.auth.accounts.store import AccountTable
from services.auth.sessions.store import RefreshTokenTable, refresh_token
from tests.auth.conftest import Rooms


async def test_prune_forgets_expired_logins_only(rooms: Rooms):
    """A live login keeps its tokens; one long expired goes with its tokens."""
    async with rooms.database.write() as session:
        for login, expire in (("old", session.now + 10), ("new", session.now + 60 * 86_400)):
            await AccountTable(session).add_login(login, "olga", expire)
            await RefreshTokenTable(session).add(f"digest-{login}", login, expire)
    rooms.clock.now += 30 * 86_400
    async with rooms.database.write() as session:
        await RefreshTokenTable(session).prune()
        kept = (await session.connection.execute(sa.select(refresh_token.c.digest))).scalars().all()
    assert kept == ["digest-new"]
