"""Tokens: EdDSA JWTs that every service checks offline, and the keys that sign them."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from loupe.errors import Unavailable
from loupe.identity import ACCESS, ATTEMPT, AUDIENCE, ISSUER
from loupe.names import AccountName, JobName
from services.auth.database.session import Database
from services.auth.sessions.store import SigningKeyTable


@dataclass(frozen=True)
class Lifetimes:
    """Seconds: of access, refresh and attempt tokens, and the age at which a signing key is followed."""

    access: int = 600
    refresh: int = 30 * 86_400
    attempt: int = 86_400
    signing_key: int = 90 * 86_400


@dataclass(frozen=True)
class SigningKey:
    """One Ed25519 key with its id."""

    kid: str
    private: Ed25519PrivateKey


class KeyRing:
    """Holds the signing keys of the database: the newest signs, all verify.

    A key is followed by a new one at its age, and forgotten once everything that it signed has expired.
    """

    def __init__(self, database: Database, lifetimes: Lifetimes, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._lifetimes = lifetimes
        self._now = now
        self._keys: list[SigningKey] = []

    async def load(self) -> None:
        """Read the keys, make the first or the next one when it is time, and forget what is long over."""
        async with self._database.write() as session:
            table = SigningKeyTable(session)
            stored = await table.all()
            if not stored or self._now() - stored[0].create_time >= self._lifetimes.signing_key:
                await table.add(str(uuid.uuid4()), Ed25519PrivateKey.generate().private_bytes_raw())
            for followed in stored[1:]:
                if self._now() - stored[0].create_time > self._lifetimes.attempt + self._lifetimes.access + 3600:
                    await table.delete(followed.kid)
            stored = await table.all()
        self._keys = [SigningKey(row.kid, Ed25519PrivateKey.from_private_bytes(row.private)) for row in stored]

    @property
    def newest(self) -> SigningKey:
        """The key that signs; raises Unavailable before load."""
        if not self._keys:
            raise Unavailable("auth has no signing key yet", dependency="database")
        return self._keys[0]

    def public(self, kid: str) -> Ed25519PublicKey | None:
        """Return the public key with an id, None when there is none."""
        return next((key.private.public_key() for key in self._keys if key.kid == kid), None)

    def jwks(self) -> str:
        """Return the JSON Web Key Set of the public keys, RFC 7517."""
        keys = []
        for key in self._keys:
            public = OKPAlgorithm.to_jwk(key.private.public_key(), as_dict=True)
            keys.append({**public, "kid": key.kid, "use": "sig", "alg": "EdDSA"})
        return json.dumps({"keys": keys}, separators=(",", ":"))


class Tokens:
    """Signs what it is told; whether somebody may have a token is decided elsewhere."""

    def __init__(self, keys: KeyRing, lifetimes: Lifetimes, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self.lifetimes = lifetimes
        self._now = now

    def access(self, account: AccountName, login: str) -> str:
        """Return an access token for a login."""
        return self._sign(ACCESS, account, self.lifetimes.access, {"login": login})

    def attempt(self, account: AccountName, job: JobName, attempt: int) -> str:
        """Return the token with which one training attempt works, with the rights of who submitted it."""
        return self._sign(ATTEMPT, account, self.lifetimes.attempt, {"job": str(job), "attempt": attempt})

    def _sign(self, kind: str, account: AccountName, lifetime: int, more: dict[str, object]) -> str:
        now = int(self._now())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(account),
            "typ": kind,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": secrets.token_urlsafe(16),
            **more,
        }
        key = self._keys.newest
        return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": kind})
