"""Logging in and out, and who one is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from loupe.auth.v1 import account_pb2
from loupe.auth.v1 import session_service_pb2 as service
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceStub
from loupe.names import AccountName
from loupe.terminal.connection import Connection, Service
from loupe.terminal.profile import Profile, ProfileStore
from loupe.terminal.tokens import TokenKeeper, with_tokens


async def log_in(
    connection: Connection, profile: Profile, account: AccountName, password: str, now: float
) -> tuple[Profile, account_pb2.Account]:
    """Exchange the password for tokens and return the profile with them. Raises BadCredentials, Throttled.

    now: seconds since the epoch.
    """
    request = service.LoginRequest(account=str(account), password=password)
    response = await connection.anonymous.call(lambda stub: stub.Login, request, again=False)
    return with_tokens(replace(profile, account=response.account.name), response.tokens, now), response.account


class Sessions:
    """Keeps the login of one profile."""

    def __init__(
        self, connection: Connection, store: ProfileStore, keeper: TokenKeeper, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._sessions = Service(connection, SessionServiceStub)
        self._store = store
        self._keeper = keeper
        self._clock = clock

    async def login(self, account: AccountName, password: str) -> account_pb2.Account:
        """Exchange the password for tokens and store them in the profile. Raises BadCredentials, Throttled."""
        profile, found = await log_in(self._connection, self._store.load(), account, password, self._clock())
        async with self._store.lock():
            self._store.save(profile)
        self._keeper.forget()
        return found

    async def logout(self) -> bool:
        """End the login at the mesh and remove its tokens here; False when nobody was logged in."""
        async with self._store.lock():
            profile = self._store.load()
            if not profile.refresh_token:
                return False
            request = service.LogoutRequest(refresh_token=profile.refresh_token)
            await self._connection.anonymous.call(lambda stub: stub.Logout, request, again=False)
            self._store.save(profile.logged_out())
        self._keeper.forget()
        return True

    async def access_token(self) -> str:
        """Return a valid access token, for clients beside this SDK: "authorization: Bearer <token>"."""
        return await self._keeper.token()

    async def refresh(self) -> None:
        """Exchange the tokens for new ones now. Raises Unauthenticated when the login has ended."""
        await self._keeper.renew(await self._keeper.token())

    async def who_am_i(self) -> account_pb2.Account:
        """Return the account that is logged in, as the mesh sees it."""
        return (await self._sessions.call(lambda stub: stub.WhoAmI, service.WhoAmIRequest())).account

    async def endpoints(self) -> service.ListEndpointsResponse:
        """Return where the public doors of the mesh are."""
        return await self._connection.endpoints()
