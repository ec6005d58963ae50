"""Logins: a password for tokens, a refresh token for new ones, and the end of a login."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass

from loupe.errors import BadCredentials, RefreshReplayed, Unauthenticated
from loupe.names import AccountName
from services.auth.accounts import Account, describe
from services.auth.authority import Authority
from services.auth.passwords import Passwords
from services.auth.store import Store, Transaction
from services.auth.throttle import Throttle
from services.auth.tokens import Tokens


@dataclass(frozen=True)
class TokenPair:
    """TokenPair is an access token and the refresh token that follows it; lifetimes in seconds."""

    access_token: str
    refresh_token: str
    access_lifetime: int
    refresh_lifetime: int


class Sessions:
    """Sessions gives and takes tokens.

    A login is a family of refresh tokens of which only the newest is unused; using one twice ends the login.
    """

    def __init__(
        self, store: Store, authority: Authority, passwords: Passwords, throttle: Throttle, tokens: Tokens
    ) -> None:
        self._store = store
        self._authority = authority
        self._passwords = passwords
        self._throttle = throttle
        self._tokens = tokens

    async def login(self, account: AccountName, password: str, peer: str) -> tuple[TokenPair, Account]:
        """login starts a login.

        Raises BadCredentials, the same after the same work for an unknown account, a wrong password and a disabled
        account; Throttled after too many failures of the account or the address `peer`.
        """
        self._throttle.admit(account.account, peer)
        async with self._store.read() as reads:
            row = await reads.account(account.account)
        right = await self._passwords.matches(row.password_hash if row else None, password)
        if row is None or not right or row.disabled:
            self._throttle.failed(account.account, peer)
            raise BadCredentials("the account or the password is not right")
        async with self._store.write() as tx:
            current = await tx.account(account.account)
            if current is None or current.disabled or current.password_hash != row.password_hash:
                raise BadCredentials("the account or the password is not right")
            login = str(uuid.uuid4())
            await tx.add_login(login, account.account, tx.now)
            pair = await self._issue(tx, account, login)
            described = await describe(tx, current)
        self._throttle.succeeded(account.account)
        return pair, described

    async def refresh(self, refresh_token: str) -> TokenPair:
        """refresh exchanges a refresh token; raises Unauthenticated, or RefreshReplayed when it was used before."""
        digest = _digest(refresh_token)
        replayed = False
        async with self._store.write() as tx:
            row = await tx.refresh_token(digest)
            if row is None:
                raise Unauthenticated("the refresh token is not known here; log in again", problem="unknown")
            if row.revoke_time is None and not await tx.use_refresh_token(digest):
                await tx.revoke_login(row.login, row.account)
                replayed = True
            elif row.revoke_time is not None:
                raise Unauthenticated("this login has ended; log in again", problem="revoked")
            elif row.expire_time <= tx.now:
                raise Unauthenticated("the refresh token has expired; log in again", problem="expired")
            elif not await tx.enabled([row.account]):
                raise Unauthenticated("this login has ended; log in again", problem="revoked")
            else:
                pair = await self._issue(tx, AccountName(row.account), row.login)
        if replayed:
            await self._authority.refresh()
            raise RefreshReplayed("this refresh token was used before; its login is ended, log in again")
        return pair

    async def logout(self, refresh_token: str) -> None:
        """logout ends the login that a refresh token belongs to; ending it again is fine. Raises Unauthenticated."""
        async with self._store.write() as tx:
            row = await tx.refresh_token(_digest(refresh_token))
            if row is None:
                raise Unauthenticated("the refresh token is not known here", problem="unknown")
            await tx.revoke_login(row.login, row.account)
        await self._authority.refresh()

    async def _issue(self, tx: Transaction, account: AccountName, login: str) -> TokenPair:
        lifetimes = self._tokens.lifetimes
        refresh_token = secrets.token_urlsafe(32)
        await tx.add_refresh_token(_digest(refresh_token), login, tx.now + lifetimes.refresh)
        access_token = self._tokens.access(account, login)
        return TokenPair(access_token, refresh_token, lifetimes.access, lifetimes.refresh)


def _digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()
