"""Refresh tokens and signing keys in the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from services.auth.accounts.store import AccountTable, login
from services.auth.database.metadata import metadata
from services.auth.database.session import Session

USED_TOKENS_KEPT_SECONDS = 7 * 86_400

refresh_token = sa.Table(
    "refresh_token",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("login", sa.String(36), sa.ForeignKey("login.id"), nullable=False, index=True),
    sa.Column("expire_time", sa.Float, nullable=False),
    sa.Column("use_time", sa.Float),
)
"""Refresh tokens by their sha256; a used one stays, so that a replay is recognised."""

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("kid", sa.String(36), primary_key=True),
    sa.Column("private", sa.LargeBinary, nullable=False),
    sa.Column("create_time", sa.Float, nullable=False),
)
"""Ed25519 private keys, 32 bytes each; the newest signs, the others still verify."""


@dataclass(frozen=True)
class RefreshRow:
    """A refresh token with the login that it belongs to."""

    login: str
    account: str
    expire_time: float
    use_time: float | None
    revoke_time: float | None


@dataclass(frozen=True)
class SigningKeyRow:
    """A signing key as it is stored."""

    kid: str
    private: bytes
    create_time: float


class RefreshTokenTable:
    """Refresh tokens by the sha256 of their text, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def find(self, digest: str) -> RefreshRow | None:
        """Return a refresh token."""
        token = refresh_token.c
        query = (
            sa.select(token.login, login.c.account, token.expire_time, token.use_time, login.c.revoke_time)
            .join(login, login.c.id == token.login)
            .where(token.digest == digest)
        )
        row = (await self._execute(query)).one_or_none()
        return None if row is None else RefreshRow(**row._mapping)

    async def add(self, digest: str, of: str, expire_time: float) -> None:
        """Store a login's newest refresh token; the login lasts as long."""
        await self._execute(refresh_token.insert().values(digest=digest, login=of, expire_time=expire_time))
        await AccountTable(self._session).prolong_login(of, expire_time)

    async def use(self, digest: str) -> bool:
        """Mark a refresh token as used; False when it was used before."""
        unused = refresh_token.update().where(refresh_token.c.digest == digest, refresh_token.c.use_time.is_(None))
        return (await self._execute(unused.values(use_time=self._session.now))).rowcount == 1

    async def prune(self) -> None:
        """Forget logins that expired long ago, with their tokens."""
        await self._forget(login.c.expire_time < self._session.now - USED_TOKENS_KEPT_SECONDS)

    async def forget_account(self, name: str) -> None:
        """Forget all logins of an account, with their tokens."""
        await self._forget(login.c.account == name)

    async def _forget(self, which: sa.ColumnElement[bool]) -> None:
        tokens = refresh_token.c.login.in_(sa.select(login.c.id).where(which))
        await self._execute(refresh_token.delete().where(tokens))
        await self._execute(login.delete().where(which))


class SigningKeyTable:
    """Signing keys, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._execute = session.connection.execute

    async def all(self) -> list[SigningKeyRow]:
        """Return them, newest first."""
        query = sa.select(signing_key).order_by(signing_key.c.create_time.desc())
        return [SigningKeyRow(**row._mapping) for row in await self._execute(query)]

    async def add(self, kid: str, private: bytes) -> None:
        """Store a key that signs from now on."""
        await self._execute(signing_key.insert().values(kid=kid, private=private, create_time=self._session.now))

    async def delete(self, kid: str) -> None:
        """Forget a key: what it signed is refused."""
        await self._execute(signing_key.delete().where(signing_key.c.kid == kid))
