"""Logins: a password for tokens, a refresh token for new ones, and the end of a login."""

from __future__ import annotations

import base64
import hashlib
import secrets
import uuid
from dataclasses import dataclass

from loupe.audit import name_caller
from loupe.errors import BadCredentials, InvalidArgument, RefreshReplayed, Unauthenticated
from loupe.idempotency import MAX_REQUEST_ID
from loupe.names import AccountName
from services.auth.accounts.accounts import Account, describe
from services.auth.accounts.passwords import Passwords, check_length
from services.auth.accounts.store import AccountRow, AccountTable
from services.auth.accounts.throttle import Throttle
from services.auth.database.session import Database, Session
from services.auth.policy.authority import Authority
from services.auth.sessions.store import RefreshTokenTable
from services.auth.sessions.tokens import Tokens

SHORTEST_REQUEST_ID = 16


@dataclass(frozen=True)
class TokenPair:
    """An access token and the refresh token that follows it; lifetimes in seconds."""

    access_token: str
    refresh_token: str
    access_lifetime: int
    refresh_lifetime: int


class Sessions:
    """Gives and takes tokens.

    A login is a family of refresh tokens of which only the newest is unused; using one twice, in different requests,
    ends the login.
    """

    def __init__(
        self, database: Database, authority: Authority, passwords: Passwords, throttle: Throttle, tokens: Tokens
    ) -> None:
        self._database = database
        self._authority = authority
        self._passwords = passwords
        self._throttle = throttle
        self._tokens = tokens

    async def login(self, account: AccountName, password: str, peer: str) -> tuple[TokenPair, Account]:
        """Start a login.

        Raises BadCredentials, the same after the same work for an unknown account, a wrong password, and a disabled
        or deleted account; Throttled after too many failures of the account or the address `peer`; InvalidArgument for
        what is longer than any password.
        """
        check_length("password", password)
        async with self._database.read() as session:
            row = await AccountTable(session).find(account.account)
            familiar = await AccountTable(session).logged_in_from(account.account, peer)
        async with self._throttle.attempt(account.account, peer, familiar=familiar):
            right = await self._passwords.matches(row.password_hash if row else None, password, peer)
            if row is None or not right or row.disabled:
                raise BadCredentials("the account or the password is not right")
            return await self._begin(row, peer)

    async def _begin(self, row: AccountRow, peer: str) -> tuple[TokenPair, Account]:
        """Start the login of an account whose password was right, if that is so still."""
        async with self._database.write() as session:
            current = await AccountTable(session).find(row.id)
            if current is None or current.disabled or current.password_hash != row.password_hash:
                raise BadCredentials("the account or the password is not right")
            name_caller(AccountName(row.id))
            login = str(uuid.uuid4())
            await AccountTable(session).add_login(login, row.id, session.now, peer)
            refresh_token = secrets.token_urlsafe(32)
            await self._add(session, refresh_token, login)
            pair = self._pair(AccountName(row.id), login, refresh_token)
            return pair, await describe(session, current)

    async def refresh(self, refresh_token: str, request_id: str = "") -> TokenPair:
        """Exchange a refresh token. Raises Unauthenticated, or RefreshReplayed when it was used before.

        The same request again gives the same refresh token, as long as that was not used: its answer was lost.
        """
        _check_request_id(request_id)
        next_token = _successor(refresh_token, request_id) if request_id else secrets.token_urlsafe(32)
        async with self._database.write() as session:
            pair = await self._exchange(session, refresh_token, next_token)
        if pair is None:
            await self._authority.refresh()
            raise RefreshReplayed("this refresh token was used before; its login is ended, log in again")
        return pair

    async def _exchange(self, session: Session, refresh_token: str, next_token: str) -> TokenPair | None:
        """Return the new pair; None for a token that was used before: the end of its login is to be committed."""
        tokens, digest = RefreshTokenTable(session), _digest(refresh_token)
        row = await tokens.find(digest)
        if row is None:
            raise Unauthenticated("the refresh token is not known here; log in again", problem="unknown")
        if row.revoke_time is not None:
            raise Unauthenticated("this login has ended; log in again", problem="revoked")
        issued = await tokens.find(_digest(next_token))
        repeated = issued is not None and issued.use_time is None
        if not repeated and not await tokens.use(digest):
            await AccountTable(session).revoke_login(row.login, row.account)
            return None
        if row.expire_time <= session.now:
            raise Unauthenticated("the refresh token has expired; log in again", problem="expired")
        if not await AccountTable(session).enabled([row.account]):
            raise Unauthenticated("this login has ended; log in again", problem="revoked")
        if not repeated:
            await self._add(session, next_token, row.login)
        return self._pair(AccountName(row.account), row.login, next_token)

    async def logout(self, refresh_token: str) -> None:
        """End the login that a refresh token belongs to; ending it again is fine. Raises Unauthenticated."""
        async with self._database.write() as session:
            row = await RefreshTokenTable(session).find(_digest(refresh_token))
            if row is None:
                raise Unauthenticated("the refresh token is not known here", problem="unknown")
            name_caller(AccountName(row.account))
            await AccountTable(session).revoke_login(row.login, row.account)
        await self._authority.refresh()

    async def _add(self, session: Session, refresh_token: str, login: str) -> None:
        expire_time = session.now + self._tokens.lifetimes.refresh
        await RefreshTokenTable(session).add(_digest(refresh_token), login, expire_time)

    def _pair(self, account: AccountName, login: str, refresh_token: str) -> TokenPair:
        lifetimes = self._tokens.lifetimes
        return TokenPair(self._tokens.access(account, login), refresh_token, lifetimes.access, lifetimes.refresh)


def _check_request_id(request_id: str) -> None:
    if request_id and not SHORTEST_REQUEST_ID <= len(request_id) <= MAX_REQUEST_ID:
        raise InvalidArgument(
            f"the request_id has {len(request_id)} characters; "
            f"a refresh takes a random one of {SHORTEST_REQUEST_ID} to {MAX_REQUEST_ID}, or none",
            field="request_id",
        )


def _successor(refresh_token: str, request_id: str) -> str:
    """Make a token as random as a token and its request are, and the same when they are the same."""
    digest = hashlib.sha256(f"{refresh_token} {request_id}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()
