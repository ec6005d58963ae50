"""Keeping an access token that is valid: refreshed before it expires, by one process at a time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from loupe.auth.v1 import session_service_pb2
from loupe.errors import DataLoss, RefreshReplayed, Unauthenticated
from loupe.terminal.profile import Profile, ProfileStore

MARGIN_SECONDS = 30.0

Refresh = Callable[[str, str], Awaitable[session_service_pb2.Tokens]]
"""Exchanges a refresh token; the second text is the request's id."""


def with_tokens(profile: Profile, tokens: session_service_pb2.Tokens, now: float) -> Profile:
    """Return the profile with new tokens; `now` is seconds since the epoch. Raises DataLoss for what is no token."""
    if not all(token.isascii() and token.isprintable() for token in (tokens.access_token, tokens.refresh_token)):
        raise DataLoss("auth gave a token that cannot be sent; log in again, and check that it is Loupe's auth service")
    return replace(
        profile,
        access_token=tokens.access_token,
        access_expires=now + tokens.access_lifetime.ToTimedelta().total_seconds(),
        refresh_token=tokens.refresh_token,
        refresh_request="",
    )


class TokenKeeper:
    """Gives a valid access token.

    A refresh token works once and a replay revokes the login. So whoever refreshes holds the profile's lock, looks
    first whether another process was quicker, and stores the new pair before anybody uses it. The request's id is
    stored before it is sent: if its answer is lost, whoever asks next is known for the same.
    """

    def __init__(self, store: ProfileStore, refresh: Refresh, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._refresh = refresh
        self._clock = clock
        self._profile: Profile | None = None
        self._one_at_a_time = asyncio.Lock()

    async def token(self) -> str:
        """Return an access token that is valid for a while. Raises Unauthenticated when the login has ended."""
        if self._profile is None or not self._fresh(self._profile):
            async with self._one_at_a_time:
                if self._profile is None or not self._fresh(self._profile):
                    self._profile = await self._renewed(rejected="")
        return self._profile.access_token

    async def renew(self, rejected: str) -> None:
        """Replace a token that a service refused, unless somebody has replaced it already."""
        async with self._one_at_a_time:
            if self._profile is None or self._profile.access_token == rejected:
                self._profile = await self._renewed(rejected)

    def forget(self) -> None:
        """Drop what is in memory: the profile was changed by a login or logout."""
        self._profile = None

    def _fresh(self, profile: Profile, rejected: str = "") -> bool:
        usable = bool(profile.access_token) and profile.access_token != rejected
        return usable and profile.access_expires - self._clock() > MARGIN_SECONDS

    async def _renewed(self, rejected: str) -> Profile:
        profile = self._store.load()
        if self._fresh(profile, rejected):
            return profile
        async with self._store.lock():
            profile = self._store.load()
            if self._fresh(profile, rejected):
                return profile
            if not profile.refresh_token:
                raise Unauthenticated("not logged in; run `loupe login ACCOUNT`", problem="logged_out")
            if not profile.refresh_request:
                profile = replace(profile, refresh_request=str(uuid.uuid4()))
                self._store.save(profile)
            try:
                tokens = await self._refresh(profile.refresh_token, profile.refresh_request)
            except (RefreshReplayed, Unauthenticated) as error:
                self._store.save(profile.logged_out())
                raise Unauthenticated(
                    f"the login of {profile.account} has ended ({error.message}); run `loupe login ACCOUNT`",
                    problem="login_ended",
                ) from error
            renewed = with_tokens(profile, tokens, self._clock())
            self._store.save(renewed)
            return renewed
